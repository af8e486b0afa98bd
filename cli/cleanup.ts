import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { changesName, type NodeChanges, readChanges } from '../cni/changes.ts';
import { LockedError, lockDirectory } from '../cni/lock.ts';
import { readSettingsRecord, settingsRecordName } from '../daemon/settings-record.ts';
import { DEFAULT_CNI_BIN_DIR, DEFAULT_CNI_CONF_DIR } from './install.ts';
import { SYSTEMD_DIR } from './networkd.ts';
import { daemonPlaces } from './node-places.ts';
import { askStatus, statusSockets } from './node-status.ts';
import { outputOption } from './options.ts';
import {
  type FilePlaces,
  type OwnedFile,
  ownedConfiguration,
  ownedFiles,
  removeIfEmpty,
} from './owned-files.ts';
import { type Left, OwnedRows } from './owned-kernel.ts';
import { type ProxyRecord, readProxyRecord } from './proxy-record.ts';
import { DEFAULT_RUN_DIR } from './status.ts';

interface CleanupOptions extends FilePlaces {
  readonly dryRun: boolean;
  readonly force: boolean;
  readonly output: string;
}

/** What was removed, or with a dry run would be; names by kind. */
interface CleanupReport {
  readonly dryRun: boolean;
  readonly removed: Readonly<Record<string, readonly string[]>>;
  readonly failed: readonly Left[];
}

export function cleanupCommand(): Command {
  return new Command('cleanup')
    .description('Remove all that Fairlead made on this node, pods’ interfaces too, and nothing else')
    .option('--run-dir <path>', "the agent's runtime directory", DEFAULT_RUN_DIR)
    .option('--cni-bin-dir <path>', "the runtime's directory of plugins", DEFAULT_CNI_BIN_DIR)
    .option('--cni-conf-dir <path>', "the runtime's directory of networks", DEFAULT_CNI_CONF_DIR)
    .option(
      '--subnet-file <path>',
      "flannel's subnet.env, where the agent wrote it at another place than is on record",
    )
    .option('--systemd-dir <path>', "systemd's directory of configuration", SYSTEMD_DIR)
    .option('--dry-run', 'only say what would be removed', false)
    .option('--force', 'even while an agent or a proxy runs, which makes most of it again', false)
    .addOption(outputOption())
    .addHelpText(
      'after',
      '\nRemoved are: links whose alias begins with "fairlead", routes and rules of protocol 88, our qdiscs, tables of' +
        '\nnftables and chains of iptables, sources that firewalld was given, 05-fairlead.conflist, our plugins (those' +
        "\nthey replaced come back), and the agent's files. Pods lose their network. Settings of the kernel (sysctl) go" +
        '\nback to what they were, except those that somebody else has changed since.',
    )
    .action(run);
}

async function run(options: CleanupOptions): Promise<void> {
  const { dryRun, force, runDir, output } = options;
  if (!dryRun && !force) await refuseBesideAgent(runDir);
  using lock = new DisposableStack();
  if (!dryRun && !force && existsSync(join(runDir, 'cni'))) lock.use(lockOrRefuse(join(runDir, 'cni')));
  using rows = new OwnedRows(...readRecords(runDir));
  const configuration = ownedConfiguration(options);
  const inKernel = await rows.list();
  const files = ownedFiles(options);
  const failed: Left[] = [];
  if (!dryRun) {
    failed.push(...removeFiles(configuration));
    failed.push(...(await rows.remove((table, count) => say(`removed from ${table}: ${count}`))));
    failed.push(...removeFiles(files));
    for (const directory of new Set([runDir, daemonPlaces(runDir).keptDir])) removeIfEmpty(directory);
  }
  const paths = [...configuration, ...files].map(({ path }) => path);
  const removed = { ...Object.fromEntries(inKernel), file: paths };
  print({ dryRun, removed: withoutFailed(removed, failed), failed }, output);
  if (failed.length > 0) throw new Error(`${failed.length} things could not be removed`);
}

/** What agent, plugin and proxy wrote down of what their rows do not tell. */
function readRecords(runDir: string): [ProxyRecord, Omit<NodeChanges, 'settings'>] {
  const { cni, stateDir } = daemonPlaces(runDir);
  const { mode, sysctls } = readProxyRecord(runDir);
  const ofAgent = readSettingsRecord(join(stateDir, settingsRecordName));
  const { settings, ...changes } = readChanges(join(cni.stateDir, changesName));
  return [{ mode, sysctls: { ...settings, ...ofAgent, ...sysctls } }, changes];
}

/** An agent, or a service proxy, that works would make its rows again. */
async function refuseBesideAgent(runDir: string): Promise<void> {
  const agent = await askStatus(join(runDir, statusSockets.node));
  if (agent !== undefined) throw runs(runDir, `process ${agent.pid}`);
  const proxy = await askStatus(join(runDir, statusSockets.proxy));
  if (proxy !== undefined) throw runs(runDir, `process ${proxy.pid}`, 'a service proxy');
}

/** No agent can start while this is held; one that is there but silent holds it. */
function lockOrRefuse(directory: string): Disposable {
  try {
    return lockDirectory(directory);
  } catch (error) {
    if (error instanceof LockedError) throw runs(directory, error.message);
    throw error;
  }
}

function runs(directory: string, who: string, what = 'a node agent'): Error {
  return new Error(`${what} uses ${directory} (${who}); stop it first, or use --force`);
}

function removeFiles(files: readonly OwnedFile[]): Left[] {
  const left: Left[] = [];
  for (const { path, remove } of files) {
    try {
      remove();
    } catch (error) {
      left.push({ table: 'file', key: path, error: (error as Error).message });
    }
  }
  if (files.length > left.length) say(`removed files: ${files.length - left.length}`);
  return left;
}

function withoutFailed(
  removed: Readonly<Record<string, readonly string[]>>,
  failed: readonly Left[],
): Record<string, readonly string[]> {
  const isLeft = (kind: string, name: string) =>
    failed.some(({ table, key }) => table === kind && key === name);
  return Object.fromEntries(
    Object.entries(removed).map(([kind, names]) => [kind, names.filter((name) => !isLeft(kind, name))]),
  );
}

function say(text: string): void {
  process.stderr.write(`fairlead cleanup: ${text}\n`);
}

function print(report: CleanupReport, output: string): void {
  process.stdout.write(output === 'json' ? `${JSON.stringify(report, null, 2)}\n` : renderCleanup(report));
}

function renderCleanup({ dryRun, removed, failed }: CleanupReport): string {
  const lines = Object.entries(removed).flatMap(([kind, names]) =>
    names.map((name) => `${dryRun ? 'would remove' : 'removed'} ${kind} ${name}\n`),
  );
  const left = failed.map(({ table, key, error }) => `not removed: ${table} ${key}: ${error}\n`);
  return lines.length + left.length === 0 ? 'nothing of Fairlead is here\n' : [...lines, ...left].join('');
}
