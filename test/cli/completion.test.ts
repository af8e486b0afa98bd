import { execFileSync } from 'node:child_process';
import test from 'ava';
import { Command } from 'commander';
import { completionWords, renderBashCompletion } from '../../cli/completion.ts';

const program = new Command('fairlead').option('--version');
program.command('cluster').command('up').option('--nodes <count>').option('--name <name>');
program.command('status');

test('every command path is followed by its subcommands and options', (t) => {
  const words = completionWords(program);
  t.deepEqual(words.get(''), ['cluster', 'status', '--version', '--help']);
  t.deepEqual(words.get('cluster'), ['up', '--help']);
  t.deepEqual(words.get('cluster up'), ['--nodes', '--name', '--help']);
});

test('bash completes with the script', (t) => {
  const script = renderBashCompletion(completionWords(program));
  const complete = (line: readonly string[]) =>
    execFileSync('bash', [
      '-c',
      `${script}\nCOMP_WORDS=("$@") COMP_CWORD=$(($#-1)); _fairlead; echo "\${COMPREPLY[*]}"`,
      'bash',
      ...line,
    ])
      .toString()
      .trim();
  t.is(complete(['fairlead', 'c']), 'cluster');
  t.is(complete(['fairlead', 'cluster', '']), 'up --help');
  t.is(complete(['fairlead', 'cluster', 'up', '--n']), '--nodes --name');
});
