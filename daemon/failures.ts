import type { Report } from '../core/reconcile.ts';
import type { Plan } from '../core/rows.ts';
import { type Lease, leaseTokens } from './lease.ts';

type Refused = Report['failures'][number];

/** Tables of rows about peers: one that fails is no reason to keep pods from starting. */
const peerTables: readonly string[] = ['neighbor', 'fdb', 'route', 'tunnel', 'wireguard'];

export function letsPodsStart({ table }: Refused): boolean {
  return peerTables.includes(table);
}

/**
 * Whether a row that the kernel refused is about one peer only. Anybody may write nonsense into a lease, or have an
 * address that is ours now; this node has a network all the same. The udp backend's table is its socket as well, and
 * WireGuard's row without a peer is the device itself.
 */
export function isAboutPeer(refused: Refused): boolean {
  if (refused.table === 'wireguard') return String(refused.key).includes(' ');
  return letsPodsStart(refused) && refused.table !== 'tunnel';
}

/** What the kernel refused, for people: each begins with the lease that it is about, where one is known. */
export class Failures {
  readonly texts: readonly string[];
  /** Keys of others' leases that the kernel refused a row of. */
  readonly leases: ReadonlySet<string>;
  readonly #rows: ReadonlySet<string>;

  /** `own`: the key of this node's lease, which is nobody else's. */
  constructor(failures: readonly Refused[], leases: ReadonlyMap<string, Lease>, own?: string) {
    const owners = failures.length === 0 ? new Map<string, string>() : ownersOf(leases.values());
    const named = failures.map((refused) => ({ refused, owner: ownerOf(refused, owners) }));
    this.texts = named.map(
      ({ refused, owner }) => (owner === undefined ? '' : `${owner}: `) + textOf(refused),
    );
    this.leases = new Set(named.flatMap(({ owner }) => (owner === own ? [] : (owner ?? []))));
    this.#rows = new Set(failures.map(nameOf));
  }

  /** Whether there is nothing among these that was not refused then, too. */
  covers(later: readonly Refused[]): boolean {
    return later.every((refused) => this.#rows.has(nameOf(refused)));
  }
}

function textOf({ table, key, error }: Refused): string {
  return `${table} ${key}: ${error.message}`;
}

function nameOf({ table, key }: Refused): string {
  return `${table} ${key}`;
}

/** A row's key names a subnet, its first address, a MAC address or a key of the peer. */
function ownerOf({ key }: Refused, owners: ReadonlyMap<string, string>): string | undefined {
  return String(key)
    .split(' ')
    .map((part) => owners.get(part))
    .find((owner) => owner !== undefined);
}

function ownersOf(leases: Iterable<Lease>): Map<string, string> {
  const owners = new Map<string, string>();
  for (const lease of leases) for (const token of leaseTokens(lease)) owners.set(token, lease.key);
  return owners;
}

/** The plan without the rows that the kernel refused: what it holds. */
export function withoutRefused(plan: Plan, failures: readonly Refused[]): Plan {
  if (failures.length === 0) return plan;
  return plan.map((layer) => {
    const refused = new Set(failures.filter(({ table }) => table === layer.table.name).map(({ key }) => key));
    if (refused.size === 0) return layer;
    return { ...layer, wanted: new Map([...layer.wanted].filter(([key]) => !refused.has(key))) };
  });
}
