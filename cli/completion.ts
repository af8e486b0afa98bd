import { Argument, Command } from 'commander';

/** Words after each command path, such as `cluster up`: its subcommands and long options. Pure. */
export function completionWords(command: Command, path = ''): Map<string, string[]> {
  const words = new Map([
    [
      path,
      [
        ...command.commands.map((child) => child.name()),
        ...command.options.flatMap((option) => (option.long ? [option.long] : [])),
        '--help',
      ],
    ],
  ]);
  for (const child of command.commands) {
    for (const [key, value] of completionWords(child, `${path} ${child.name()}`.trim()))
      words.set(key, value);
  }
  return words;
}

export function renderBashCompletion(words: ReadonlyMap<string, readonly string[]>): string {
  const cases = [...words].map(([path, list]) => `    "${path}") words="${list.join(' ')}" ;;`);
  // biome-ignore-start lint/suspicious/noTemplateCurlyInString: this is bash, not a template
  return [
    '_fairlead() {',
    '  local path="" word words=""',
    '  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do [[ $word == -* ]] || path="${path:+$path }$word"; done',
    '  case $path in',
    ...cases,
    '  esac',
    '  mapfile -t COMPREPLY < <(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}")',
    '}',
    'complete -F _fairlead fairlead',
    '',
  ].join('\n');
  // biome-ignore-end lint/suspicious/noTemplateCurlyInString: this is bash, not a template
}

export function completionCommand(program: Command): Command {
  return new Command('completion')
    .description('Print a completion script: eval "$(fairlead completion bash)"')
    .addArgument(new Argument('<shell>', 'the shell').choices(['bash']))
    .action(() => void process.stdout.write(renderBashCompletion(completionWords(program))));
}
