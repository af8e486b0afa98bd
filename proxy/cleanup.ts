import { families } from '../kernel/netlink/nftables/constants.ts';
import { batch, decodeTable, deleteTable, type TableName } from '../kernel/netlink/nftables/messages.ts';
import { getTables } from '../kernel/netlink/nftables/requests.ts';
import type { NetlinkSocket } from '../kernel/netlink/socket.ts';
import { openNftSocket } from '../kernel/nftables.ts';
import { Backoff } from '../kube/backoff.ts';
import type { Backend } from './backend.ts';
import { removeIptables } from './iptables/remove.ts';
import { TABLE as IPVS_TABLE } from './ipvs/layout.ts';
import { removeIpvs, retireIpvs } from './ipvs/remove.ts';
import { TABLE } from './nftables/layout.ts';

/**
 * Tables of service proxies, by name and the beginning of their comment: ours, and kube-proxy's, in whose place we
 * stand. Of that name without the comment it is somebody else's.
 */
const proxyTables: ReadonlyMap<string, string> = new Map([
  [TABLE, 'fairlead layout '],
  [IPVS_TABLE, 'fairlead layout '],
  ['kube-proxy', 'rules for kube-proxy'],
]);

/** What was taken away, in words. */
export type Removed = readonly string[];

interface CleanupOptions {
  /** The node's network namespace; else that of the process. */
  readonly namespaceFd?: number | undefined;
}

/** Takes one kind of things away, if they are there. Throws when they cannot go. */
export type Removal = () => Promise<Removed>;

export interface RemovalOptions {
  readonly signal?: AbortSignal | undefined;
  /** Something is gone. */
  readonly onRemoved?: (removed: Removed) => void;
  /** Something cannot go; it is tried again. `isNew`: not for the reason of the last time. */
  readonly onFailure?: (error: Error, isNew: boolean) => void;
  readonly firstRetryMs?: number;
}

const FIRST_RETRY_MS = 1_000;
/** The lock of iptables may be held for minutes, a module may come much later. */
const LONGEST_RETRY_MS = 60_000;

/**
 * Takes away what other backends left, ours or kube-proxy's: two sets of rules for one Service would send its
 * connections to endpoints of the past. To be called when the rules of this one are in place. Chains of iptables have
 * one name with both, and are the iptables mode's own to put right. Of IPVS the servers stay that have connections, for
 * these: with a `signal` it takes as long as they last. Each kind of things goes by itself, and is tried until it is gone.
 */
export async function removeOtherModes(
  mode: Backend['name'],
  { namespaceFd, ...options }: CleanupOptions & RemovalOptions = {},
): Promise<void> {
  const own = ownTables[mode];
  const inside = { namespaceFd };
  const { signal } = options;
  const removeServers = () => (signal === undefined ? removeIpvs(inside) : retireIpvs({ ...inside, signal }));
  const removals: Removal[] = [() => removeNftables(inside, (table) => table !== own)];
  if (mode !== 'iptables') removals.push(() => removeChains(inside));
  if (mode !== 'ipvs') removals.push(removeServers);
  await removeUntilGone(removals, options);
}

/** Fulfilled when all are done, or aborted. */
export async function removeUntilGone(
  removals: readonly Removal[],
  { onRemoved = () => {}, onFailure = () => {}, firstRetryMs = FIRST_RETRY_MS, ...options }: RemovalOptions,
): Promise<void> {
  const { signal = new AbortController().signal } = options;
  const until = async (remove: Removal) => {
    const backoff = new Backoff(firstRetryMs, LONGEST_RETRY_MS);
    for (let said = ''; !signal.aborted; await backoff.wait(signal).catch(() => {})) {
      try {
        const removed = await remove();
        if (removed.length > 0) onRemoved(removed);
        return;
      } catch (error) {
        const { message } = error as Error;
        onFailure(error as Error, message !== said);
        said = message;
      }
    }
  };
  await Promise.all(removals.map(until));
}

const ownTables: Readonly<Partial<Record<Backend['name'], string>>> = { nftables: TABLE, ipvs: IPVS_TABLE };

/** Takes away everything that any service proxy left. Throws when some of it cannot go, after all the rest has. */
export async function removeAllModes(options: CleanupOptions = {}): Promise<Removed> {
  const outcomes = await Promise.allSettled([
    removeNftables(options, () => true),
    removeChains(options),
    removeIpvs(options),
  ]);
  const errors = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []));
  if (errors.length > 0) throw new Error(errors.map((error: Error) => error.message).join('; '));
  return outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? outcome.value : []));
}

async function removeChains({ namespaceFd }: CleanupOptions): Promise<string[]> {
  const found = await removeIptables(namespaceFd === undefined ? {} : { namespaceFd });
  return found ? ['chains of iptables'] : [];
}

async function removeNftables(
  { namespaceFd }: CleanupOptions,
  isUnwanted: (table: string) => boolean,
): Promise<string[]> {
  using socket = openNftSocket(namespaceFd === undefined ? {} : { namespaceFd });
  const removed: string[] = [];
  for (const name of await readTables(socket)) {
    if (!isUnwanted(name.table)) continue;
    const outcomes = await socket.transaction(batch([deleteTable(name)]));
    const error = outcomes.find((outcome) => outcome !== undefined);
    if (error !== undefined) throw error;
    removed.push(`table ${name.family} ${name.table} of nftables`);
  }
  return removed;
}

async function readTables(socket: NetlinkSocket): Promise<TableName[]> {
  const messages = await socket.dump(getTables());
  return messages.flatMap((message) => {
    const { name: table, comment } = decodeTable(message);
    const mark = proxyTables.get(table);
    const family = familyNames.get(message.payload[0] ?? 0);
    const isProxys = mark !== undefined && comment?.startsWith(mark) === true;
    return isProxys && family !== undefined ? [{ family, table }] : [];
  });
}

const familyNames: ReadonlyMap<number, TableName['family']> = new Map([
  [families.ip, 'ip'],
  [families.ip6, 'ip6'],
  [families.inet, 'inet'],
]);
