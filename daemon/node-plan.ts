import { type Cidr, families } from '../core/address.ts';
import { type AddressRow, addressKey } from '../kernel/address.ts';
import { type LinkRow, linkKey } from '../kernel/link.ts';
import { type FdbRow, fdbKey, type NeighborRow, neighborKey } from '../kernel/neighbor.ts';
import { type NftElement, nftElementKey } from '../kernel/netlink/nftables/spec.ts';
import { type OffloadRow, offloadKey } from '../kernel/offload.ts';
import { type RouteRow, routeKey } from '../kernel/route.ts';
import type { Backend, BackendFacts } from './backend/backend.ts';
import { guardRows } from './guard.ts';
import { type ForwardRow, forwardRows } from './iptables-forward.ts';
import type { Lease, PerFamily } from './lease.ts';
import { masqueradeRows } from './masquerade.ts';
import type { Underlay } from './underlay.ts';

/** Everything that decides what the kernel of this node has to hold. */
export interface NodeFacts {
  readonly nodeName: string;
  readonly self: Lease;
  readonly leases: ReadonlyMap<string, Lease>;
  readonly networks: PerFamily<Cidr>;
  readonly underlay: Underlay;
  /** The sysctls of {@link sysctlKeys} that this kernel has. */
  readonly sysctls: ReadonlyMap<string, string>;
  /** Packets to this node's pod addresses that nobody has end here, and do not follow the default route. */
  readonly blackhole?: boolean | undefined;
  /** By default true: what is forwarded from and to pods is accepted where iptables' FORWARD drops. */
  readonly forwardRules?: boolean | undefined;
  /** Networks outside that see addresses of pods. */
  readonly nonMasqueradeCidrs?: readonly Cidr[] | undefined;
}

/** Wanted rows of every table of the daemon, and what the backend plans its own tables from. */
export interface NodePlan {
  readonly facts: BackendFacts;
  readonly sysctls: ReadonlyMap<string, string>;
  /** Settings of devices among `links`. */
  readonly linkSysctls: ReadonlyMap<string, string>;
  readonly links: ReadonlyMap<string, LinkRow>;
  readonly offloads: ReadonlyMap<string, OffloadRow>;
  readonly addresses: ReadonlyMap<string, AddressRow>;
  readonly neighbors: ReadonlyMap<string, NeighborRow>;
  readonly fdb: ReadonlyMap<string, FdbRow>;
  readonly routes: ReadonlyMap<string, RouteRow>;
  readonly nft: ReadonlyMap<string, NftElement>;
  readonly forward: ReadonlyMap<string, ForwardRow>;
  readonly problems: readonly string[];
  readonly peers: number;
}

/** Pure: the same facts give the same plan, whatever was there before. */
export function planNode(facts: NodeFacts, backend: Backend): NodePlan {
  const rows = backend.plan(facts);
  const sysctls = planSysctls(facts);
  return {
    facts,
    sysctls: sysctls.rows,
    linkSysctls: planReversePathFilter(rows.links, facts.sysctls),
    links: keyed(rows.links, linkKey),
    offloads: keyed(rows.offloads, offloadKey),
    addresses: keyed(rows.addresses, addressKey),
    neighbors: keyed(rows.neighbors, neighborKey),
    fdb: keyed(rows.fdb, fdbKey),
    routes: keyed([...rows.routes, ...blackholes(facts)], routeKey),
    nft: keyed(
      [
        ...masqueradeRows(facts.networks, facts.self.subnets, facts.nonMasqueradeCidrs),
        ...guardRows(rows.guard),
      ],
      nftElementKey,
    ),
    forward: forwardRows(facts.forwardRules === false ? [] : networksOf(facts)),
    problems: [...sysctls.problems, ...rows.problems],
    peers: rows.peers,
  };
}

function networksOf({ networks }: NodeFacts): Cidr[] {
  return families.flatMap((family) => networks[family] ?? []);
}

function blackholes({ self, blackhole }: NodeFacts): RouteRow[] {
  if (!blackhole) return [];
  const subnets = families.flatMap((family) => self.subnets[family] ?? []);
  return subnets.map((destination) => ({ destination, device: '', blackhole: true }));
}

/** Of rows that are the same objects in many plans. */
const keys = new WeakMap<object, string>();

function keyed<V extends object>(rows: readonly V[], keyOf: (row: V) => string): Map<string, V> {
  const byKey = new Map<string, V>();
  for (const row of rows) {
    let key = keys.get(row);
    if (key === undefined) {
      key = keyOf(row);
      keys.set(row, key);
    }
    byKey.set(key, row);
  }
  return byKey;
}

const forwarding = { 4: 'net/ipv4/ip_forward', 6: 'net/ipv6/conf/all/forwarding' } as const;
const bridgeFilter = {
  4: 'net/bridge/bridge-nf-call-iptables',
  6: 'net/bridge/bridge-nf-call-ip6tables',
} as const;
const acceptRa = (device: string) => `net/ipv6/conf/${device}/accept_ra`;

/** The sysctls that a plan may be about. */
export function sysctlKeys(device: string): string[] {
  return [
    acceptRa(device),
    ...Object.values(forwarding),
    ...Object.values(bridgeFilter),
    ...Object.values(strictness),
  ];
}

const rpFilter = (device: string) => `net/ipv4/conf/${device}/rp_filter`;
/** What counts is the larger one of `all` and of the device, which begins as `default`. */
const strictness = { all: rpFilter('all'), new: rpFilter('default') } as const;
const STRICT = '1';
const LOOSE = '2';

/**
 * A strict filter takes packets only from the interface that leads back to their sender. A peer may well send through
 * the tunnel what we would send it on the underlay: with DirectRouting at one end, or while it is switched on node by
 * node. The kernel has this filter for IPv4 alone.
 */
function planReversePathFilter(
  links: readonly LinkRow[],
  sysctls: ReadonlyMap<string, string>,
): Map<string, string> {
  const isStrict = Object.values(strictness).some((key) => sysctls.get(key) === STRICT);
  return new Map(isStrict ? links.map(({ name }) => [rpFilter(name), LOOSE]) : []);
}

/**
 * A node forwards for its pods. A kernel that forwards IPv6 no longer listens to router advertisements unless
 * accept_ra is 2, and would lose the default route that it has from them, so that comes first. What two pods
 * on one bridge say to each other passes the service proxy's rules only with bridge-nf-call.
 */
function planSysctls({ self, underlay, sysctls }: NodeFacts) {
  const rows = new Map<string, string>();
  const problems: string[] = [];
  const used = families.filter((family) => self.subnets[family] !== undefined);
  const listensToRouters = Number(sysctls.get(acceptRa(underlay.device)) ?? 0) > 0;
  if (used.includes(6) && listensToRouters) rows.set(acceptRa(underlay.device), '2');
  for (const family of used) {
    rows.set(forwarding[family], '1');
    if (sysctls.has(bridgeFilter[family])) rows.set(bridgeFilter[family], '1');
    else
      problems.push(`this node: ${bridgeFilter[family]} does not exist: is the module br_netfilter loaded?`);
  }
  return { rows, problems };
}
