import { Command } from 'commander';
import { flannelFlags, flannelVariable } from '../daemon/flannel-flag-table.ts';

/**
 * A node's agent with flanneld's own command line, also by the name `flanneld`. The flags are read as Go reads them,
 * not as the other commands' options are.
 */
export function flannelCommand(): Command {
  return new Command('flannel')
    .description("Run a node's agent in the place of flanneld: its flags, variables, keys and annotations")
    .usage('[flags]')
    .argument('[flags...]')
    .allowUnknownOption()
    .passThroughOptions()
    .helpOption(false)
    .action(async (words: readonly string[]) => {
      if (words.some((word) => /^--?h(elp)?$/.test(word))) {
        process.stdout.write(renderFlannelHelp());
        return;
      }
      const { runFlannel } = await import('./flannel-run.ts');
      await runFlannel(words);
    });
}

export function renderFlannelHelp(): string {
  const flags = flannelFlags.map(({ name, kind, absent, help, idle }) => {
    const value = kind === 'boolean' ? '' : kind === 'number' ? ' <number>' : ' <text>';
    const by = absent === '' ? '' : ` (default: ${absent})`;
    return `  --${name}${value}\n      ${idle ? `${help}; without effect` : help}${by}\n`;
  });
  const example = `--etcd-prefix is also ${flannelVariable('etcd-prefix')}`;
  return [
    "Usage: fairlead flannel [flags]\n\nRuns a node's agent with flanneld's flags. Each is a variable as well: ",
    `${example}.\nSockets and state are in FAIRLEAD_RUN_DIR, by default /run/fairlead.\n\nFlags:\n`,
    ...flags,
  ].join('');
}
