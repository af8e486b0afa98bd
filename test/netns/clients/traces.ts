import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster } from '../../../cli/cluster/cluster.ts';
import type { RuntimeHost } from './runtime-host.ts';

const SETTLE_TIMEOUT_MS = 60_000;
const SETTLE_POLL_MS = 100;

/** How a machine differs from how it was, one line each: `link 7: veth0`. */
export interface Difference {
  readonly left: readonly string[];
  readonly lost: readonly string[];
}

/** Everything that a container may leave on a machine, a line each; kernel state in the words of ip, tc and nft. */
export async function readTraces(cluster: Cluster, host: RuntimeHost): Promise<string[]> {
  const links = await host.exec('ip', '-oneline', 'link');
  const addresses = await host.exec('ip', '-oneline', 'address');
  const ps = await host.exec('busybox', 'ps', '-o', 'comm');
  const run = cluster.paths.run(host.node.name);
  return [
    ...named('link', links.replace(/^(\d+: [^:]+).*$/gm, '$1')),
    ...named('address', addresses.replace(/^\d+: (\S+\s+\S+\s+\S+).*$/gm, '$1')),
    ...named('route', await host.exec('ip', '-4', 'route', 'show', 'table', 'all', 'type', 'unicast')),
    ...named('route', await host.exec('ip', '-6', 'route', 'show', 'table', 'all', 'type', 'unicast')),
    ...named('queue', await host.exec('tc', 'qdisc')),
    ...named('nft', withoutOurRules(await host.exec('/usr/sbin/nft', '--stateless', 'list', 'ruleset'))),
    ...named('iptables', await readLegacyRules(host)),
    ...leasesOf(readFileSync(`${run}/cni/leases.journal`, 'utf8')).map((key) => `lease ${key}`),
    ...entriesOf(`${run}/cni-queue`).map((name) => `queued DEL ${name}`),
    ...named('namespace', await host.exec('ls', '/run/netns')),
    ...named('mount', await host.exec('findmnt', '--list', '--noheadings', '--output', 'TARGET')),
    ...named('process', ps).filter((line) => line !== 'process busybox'),
    ...named('cgroup', await host.exec('find', '/sys/fs/cgroup', '-mindepth', '1', '-type', 'd')),
  ];
}

/** The plugin's own tables have constant chains and sets, made with the first element: only elements count. */
function withoutOurRules(ruleset: string): string {
  let isOurs = false;
  let isElements = false;
  return ruleset
    .split('\n')
    .filter((line) => {
      if (line.startsWith('table ')) isOurs = /^table (inet|bridge) fairlead-cni /.test(line);
      isElements ||= line.includes('elements = {');
      const isKept = !isOurs || isElements;
      if (line.includes('}')) isElements = false;
      return isKept;
    })
    .join('\n');
}

/** Those of the other kind are in the ruleset of nftables. */
async function readLegacyRules(host: RuntimeHost): Promise<string> {
  const programs = ['iptables-legacy-save', 'ip6tables-legacy-save'];
  const told = await Promise.all(programs.map((program) => host.exec(program).catch(() => '')));
  return told
    .join('')
    .replace(/^#.*$/gm, '')
    .replace(/\[\d+:\d+\]$/gm, '');
}

/** Of the queue's directory, those that were refused included. */
function entriesOf(directory: string): string[] {
  return existsSync(directory)
    ? readdirSync(directory, { recursive: true, encoding: 'utf8' }).filter((name) => name !== 'refused')
    : [];
}

function named(kind: string, lines: string): string[] {
  return lines
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => `${kind} ${line.trim()}`);
}

/** Attachments and types of the leases that are in force. */
function leasesOf(journal: string): string[] {
  const keys = new Set<string>();
  for (const line of journal.trim().split('\n')) {
    const { part, del, type } = JSON.parse(line);
    if (part !== undefined) keys.add(`${part.network}/${part.containerId}/${part.ifname} ${part.type}`);
    if (del !== undefined) keys.delete(`${del} ${type}`);
  }
  return [...keys];
}

/** Waits a limited time until all is as it was `before`: runtimes end their processes behind one's back. */
export async function readDifference(
  before: readonly string[],
  cluster: Cluster,
  host: RuntimeHost,
): Promise<Difference> {
  for (const end = performance.now() + SETTLE_TIMEOUT_MS; ; await sleep(SETTLE_POLL_MS)) {
    const now = await readTraces(cluster, host);
    const difference = { left: without(now, before), lost: without(before, now) };
    const isSame = difference.left.length + difference.lost.length === 0;
    if (isSame || performance.now() > end) return difference;
  }
}

/** Lines of `lines` that `others` do not have, or not so often. */
function without(lines: readonly string[], others: readonly string[]): string[] {
  const rest = [...others];
  return lines.filter((line) => {
    const index = rest.indexOf(line);
    if (index >= 0) rest.splice(index, 1);
    return index < 0;
  });
}
