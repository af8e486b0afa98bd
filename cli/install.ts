import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Command, InvalidArgumentError } from 'commander';
import {
  conflistName,
  earlierConfigs,
  type InstalledPlugin,
  installConflist,
  installPlugins,
  type PluginName,
  pluginNames,
  pluginNamesDefault,
} from '../cni/install.ts';
import type { Log } from '../cni/log.ts';
import { installNetworkd, type NetworkdFile, SYSTEMD_DIR } from './networkd.ts';
import { askStatus } from './node-status.ts';
import { outputOption, wholeNumber } from './options.ts';
import { DEFAULT_RUN_DIR } from './status.ts';

export const DEFAULT_CNI_BIN_DIR = '/opt/cni/bin';
export const DEFAULT_CNI_CONF_DIR = '/etc/cni/net.d';

const SHIM = fileURLToPath(new URL('../.cache/native/fairlead-cni', import.meta.url));
const READY_TIMEOUT_S = 60;
const READY_POLL_MS = 300;
const CONFLIST_RETRY_MS = 10_000;

interface InstallOptions {
  readonly cniBinDir: string;
  readonly cniConfDir: string;
  readonly runDir: string;
  readonly plugins?: readonly PluginName[];
  readonly replacePlugins: boolean;
  readonly conflist: boolean;
  readonly networkd: boolean;
  readonly systemdDir: string;
  readonly timeout: number;
  readonly output: string;
}

interface InstallReport {
  readonly directory: string;
  readonly plugins: readonly InstalledPlugin[];
  /** Undefined: they were not asked for. */
  readonly networkd?: readonly NetworkdFile[];
  /** Undefined: it was not asked for. */
  readonly conflist?: { readonly path: string; readonly isNew: boolean; readonly earlier: readonly string[] };
}

export function installCommand(): Command {
  return new Command('install')
    .description(
      "Put the CNI plugin where the container runtime looks, and the node's network when it is ready",
    )
    .option('--cni-bin-dir <path>', "the runtime's directory of plugins", DEFAULT_CNI_BIN_DIR)
    .option('--cni-conf-dir <path>', "the runtime's directory of networks", DEFAULT_CNI_CONF_DIR)
    .option('--run-dir <path>', "the agent's runtime directory", DEFAULT_RUN_DIR)
    .option(
      '--plugins <names>',
      `names to put it under, "all" for ${pluginNames.join(', ')} (default: ${pluginNamesDefault.join(', ')})`,
      pluginList,
    )
    .option('--replace-plugins', "other projects' plugins of these names (default: of all) give way", false)
    .option('--no-conflist', `only the plugins, no ${conflistName}`)
    .option(
      '--networkd',
      'tell systemd to leave our interfaces and routes alone, with files of its own',
      false,
    )
    .option('--systemd-dir <path>', "systemd's directory of configuration", SYSTEMD_DIR)
    .option(
      '--timeout <seconds>',
      'how long to wait for the agent to be ready',
      wholeNumber(0, 86_400),
      READY_TIMEOUT_S,
    )
    .addOption(outputOption())
    .addHelpText(
      'after',
      "\nA plugin of somebody else's is never overwritten without --replace-plugins, and then kept beside ours for" +
        '\n`fairlead cleanup`. The conflist comes last, when the node is ready, and stays when the agent stops.',
    )
    .action(run);
}

function pluginList(text: string): readonly PluginName[] {
  if (text === 'all') return pluginNames;
  return text.split(',').map((part) => {
    const name = pluginNames.find((known) => known === part.trim());
    if (name !== undefined) return name;
    throw new InvalidArgumentError(`"${part}" is none of all, ${pluginNames.join(', ')}.`);
  });
}

async function run(options: InstallOptions): Promise<void> {
  const { cniBinDir: directory, cniConfDir, plugins: names, replacePlugins: replace } = options;
  const plugins = installPlugins({ shimPath: SHIM, directory, names, replace });
  const networkd = options.networkd ? { networkd: installNetworkd(options.systemdDir) } : {};
  if (!options.conflist) {
    print({ directory, plugins, ...networkd }, options.output);
    return;
  }
  await waitForAgent(options);
  const isNew = installConflist(cniConfDir);
  const conflist = { path: `${cniConfDir}/${conflistName}`, isNew, earlier: earlierConfigs(cniConfDir) };
  print({ directory, plugins, ...networkd, conflist }, options.output);
}

/** With its conflist a node takes pods, so it must be able to attach them. */
async function waitForAgent({ runDir, timeout }: InstallOptions): Promise<void> {
  const deadline = performance.now() + timeout * 1000;
  for (;;) {
    const status = await askStatus(`${runDir}/node.sock`);
    if (status?.ready) return;
    if (performance.now() >= deadline) {
      const what = status === undefined ? 'answers' : 'is ready';
      throw new Error(
        `the plugin is installed, but not ${conflistName}: no node agent ${what} on ${runDir}/node.sock; ` +
          'start it with `fairlead node`, see `fairlead status`, then run this again',
      );
    }
    await sleep(READY_POLL_MS);
  }
}

function print(report: InstallReport, output: string): void {
  process.stdout.write(output === 'json' ? `${JSON.stringify(report, null, 2)}\n` : renderInstall(report));
}

function renderInstall({ directory, plugins, networkd = [], conflist }: InstallReport): string {
  const lines = plugins.map(({ name, outcome }) =>
    outcome === 'left'
      ? `${directory}/${name}: left, it is another project's plugin (see --replace-plugins)`
      : `${directory}/${name}: ${outcome}`,
  );
  for (const { path, outcome } of networkd) {
    lines.push(`${path}: ${outcome === 'left' ? 'left, it is not ours' : outcome}`);
  }
  if (networkd.some(({ outcome }) => outcome === 'installed')) {
    lines.push('in force after: udevadm control --reload; systemctl restart systemd-networkd');
  }
  if (conflist !== undefined) {
    lines.push(`${conflist.path}: ${conflist.isNew ? 'installed' : 'unchanged'}`);
    if (conflist.earlier.length > 0) {
      lines.push(`runtimes take the first configuration, which is another: ${conflist.earlier.join(', ')}`);
    }
  }
  return `${lines.join('\n')}\n`;
}

/** For an agent that installs the conflist itself: when `ready` is fulfilled, again and again until it is there. */
export async function installConflistWhenReady(options: {
  readonly ready: Promise<void>;
  readonly directory: string;
  readonly log: Log;
  readonly signal: AbortSignal;
}): Promise<void> {
  const { ready, directory, log, signal } = options;
  try {
    await ready;
    while (!signal.aborted) {
      if (tryInstall(directory, log)) return;
      await sleep(CONFLIST_RETRY_MS, undefined, { signal });
    }
  } catch {
    // Stopped before.
  }
}

function tryInstall(directory: string, log: Log): boolean {
  try {
    const isNew = installConflist(directory);
    const earlier = earlierConfigs(directory);
    log.info({ file: `${directory}/${conflistName}`, isNew }, 'the runtime has its network');
    if (earlier.length > 0) log.warn({ directory, earlier }, 'runtimes take another configuration first');
    return true;
  } catch (error) {
    log.error({ directory, error: (error as Error).message }, 'the network of the runtime is not written');
    return false;
  }
}
