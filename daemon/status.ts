import type { NodeNetwork } from '../cni/server.ts';
import type { Cidr } from '../core/address.ts';
import type { Lease } from './lease.ts';
import type { PassCounts } from './pass-counts.ts';
import type { Underlay } from './underlay.ts';

/** What the daemon says of itself: plain values, one level, for people and for JSON. */
export interface DaemonStatus {
  readonly node: string;
  readonly backend: string;
  readonly store: string;
  /** False until all leases have been read; the kernel is not touched before. */
  readonly synced: boolean;
  /** True once every row of the plan has been in the kernel. */
  readonly ready: boolean;
  /** Whether the last pass left every row in the kernel. */
  readonly inLine: boolean;
  readonly lease?: string;
  readonly subnets: readonly Cidr[];
  readonly interface?: string;
  /** Of pods. */
  readonly mtuBytes?: number;
  /** How many more pods' addresses there are, by subnet. */
  readonly freeAddresses: Readonly<Record<string, number>>;
  /** Other nodes that this one has a way to in all families that they share, and other nodes that it has not. */
  readonly peers: number;
  readonly unreachable: number;
  /** Passes over the kernel's tables since start. */
  readonly passes: number;
  /** Since the last one ended. */
  readonly idleSeconds: number;
  /** Rows written in them. */
  readonly writes: number;
  /** Of these, rows that somebody else had removed or changed. */
  readonly repaired: number;
  /** For how long changes in the store may have been missed; 0: it is followed. */
  readonly storeBehindSeconds: number;
  /** What is wrong at the moment, one sentence each. */
  readonly problems: readonly string[];
}

/** All that {@link renderStatus} needs. */
export interface StatusFacts
  extends Pick<DaemonStatus, 'node' | 'backend' | 'store' | 'synced' | 'ready' | 'peers' | 'problems'> {
  readonly lease: Lease | undefined;
  readonly counts: PassCounts;
  readonly storeBehindMs: number;
  /** As many as the store holds, this node's own among them. */
  readonly leases: number;
  /** Of those that the plan has ways to, nodes that the kernel refused a row of. */
  readonly refused: number;
  readonly freeAddresses: ReadonlyMap<Cidr, number>;
  readonly network: NodeNetwork | undefined;
  readonly underlay: Underlay | undefined;
}

export function renderStatus(facts: StatusFacts): DaemonStatus {
  const { node, backend, store, synced, ready, lease, leases, network, underlay } = facts;
  const peers = Math.max(0, facts.peers - facts.refused);
  const others = leases - (lease === undefined ? 0 : 1);
  return {
    node,
    ready,
    inLine: facts.counts.inLine,
    backend,
    store,
    synced,
    ...(lease === undefined ? {} : { lease: lease.key }),
    subnets: network?.subnets ?? [],
    ...(underlay === undefined ? {} : { interface: underlay.device }),
    ...(network === undefined ? {} : { mtuBytes: network.mtuBytes }),
    freeAddresses: Object.fromEntries(facts.freeAddresses),
    peers,
    unreachable: Math.max(0, others - peers),
    idleSeconds: Math.round(facts.counts.idleMs() / 1000),
    passes: facts.counts.passes,
    writes: facts.counts.writes,
    repaired: facts.counts.repaired,
    storeBehindSeconds: Math.round(facts.storeBehindMs / 1000),
    problems: facts.problems,
  };
}
