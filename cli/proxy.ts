import { Command, InvalidArgumentError, Option } from 'commander';
import { otherFlags, proxyFlags } from '../proxy/config/flag-table.ts';
import { type FlagTexts, flagDefaults } from '../proxy/config/flags.ts';
import { DEFAULT_RUN_DIR } from './status.ts';
import { VERSION } from './version.ts';

/** Flags that kube-proxy has and no file can say, and some of our own. Booleans take a value as all Go programs do. */
export interface ProxyCommandOptions {
  readonly config?: string;
  readonly writeConfigTo?: string;
  readonly cleanup: boolean;
  readonly initOnly: boolean;
  readonly resetTcp: boolean;
  readonly countConnections: boolean;
  readonly countBytes: boolean;
  readonly serviceProxyName?: string;
  readonly runDir: string;
}

/** As in kube-proxy, words of a flag may be joined by underscores: --proxy_mode. */
class ProxyCommand extends Command {
  override parseOptions(args: string[]): ReturnType<Command['parseOptions']> {
    return super.parseOptions(args.map((word) => this.#withHyphens(word)));
  }

  #withHyphens(word: string): string {
    const [, name = '', rest = ''] = /^(--[^=]+)(.*)$/s.exec(word) ?? [];
    const usual = name.replaceAll('_', '-');
    return this.options.some(({ long }) => long === usual) ? usual + rest : word;
  }
}

export function proxyCommand(): Command {
  const command = new ProxyCommand('proxy')
    .description("Run the service proxy by itself, with kube-proxy's flags and configuration file")
    .version(VERSION, '--version', 'print the version and end')
    .option('--config <path>', 'a KubeProxyConfiguration; most flags do not count beside it')
    .option('--write-config-to <path>', 'write the configuration there and end')
    .addOption(yesNoOption('cleanup', 'remove what this and other service proxies left, and end'))
    .addOption(yesNoOption('init-only', 'do what needs full privileges, and end'))
    .addOption(yesNoOption('reset-tcp', 'end TCP connections to endpoints that are gone'))
    .addOption(yesNoOption('count-connections', 'count the connections of each Service, with nftables'))
    .addOption(yesNoOption('count-bytes', 'count the bytes of each Service'))
    .option(
      '--service-proxy-name <name>',
      'serve the Services that name this proxy, instead of those that name none',
    )
    .option('--run-dir <path>', 'status, and what a clean-up has to know', DEFAULT_RUN_DIR);
  const defaults = flagDefaults();
  for (const flag of [...proxyFlags, ...otherFlags])
    command.addOption(flagOption(flag, defaults.get(flag.name)));
  return command.action(async (values: ProxyCommandOptions & Record<string, unknown>) => {
    const { startProxyCommand } = await import('./proxy-start.ts');
    await startProxyCommand(values, givenFlags(command, values));
  });
}

function yesNoOption(name: string, description: string): Option {
  return new Option(`--${name} [value]`, description).default(false).argParser((text) => {
    if (text === 'true' || text === 'false') return text === 'true';
    throw new InvalidArgumentError(`"${text}" is not true or false.`);
  });
}

/** Texts are kept as they come, in order: they are read together, so that every problem is named. */
function flagOption(
  { name, placeholder, help, deprecated }: (typeof otherFlags)[number],
  defaultText = '',
): Option {
  const short = name === 'v' ? '-v, ' : '';
  const value = placeholder === undefined ? '[value]' : `<${placeholder}>`;
  const more = defaultText === '' || defaultText === '[]' ? '' : ` (default: ${defaultText})`;
  const note = deprecated === undefined ? '' : ` (deprecated: ${deprecated})`;
  const option = new Option(`${short}--${name} ${value}`, `${help}${more}${note}`);
  return option.argParser((text, before: string[] | true | undefined) => [...textsOf(before), text]);
}

/** A boolean without a value is true. */
function textsOf(value: readonly string[] | true | undefined): readonly string[] {
  return value === true ? ['true'] : (value ?? []);
}

function givenFlags(command: Command, values: Readonly<Record<string, unknown>>): FlagTexts {
  const given = new Map<string, readonly string[]>();
  for (const { name } of [...proxyFlags, ...otherFlags]) {
    const option = command.options.find(({ long }) => long === `--${name}`);
    const texts = textsOf(option && (values[option.attributeName()] as string[] | true | undefined));
    // "-v=2" is how Go programs are told; to commander the value begins behind the letter.
    if (texts.length > 0) given.set(name, name === 'v' ? texts.map(withoutEquals) : texts);
  }
  return given;
}

function withoutEquals(text: string): string {
  return text.replace(/^=/, '');
}
