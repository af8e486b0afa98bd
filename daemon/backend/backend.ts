import type { Cidr } from '../../core/address.ts';
import type { AddressRow } from '../../kernel/address.ts';
import type { LinkRow } from '../../kernel/link.ts';
import type { FdbRow, NeighborRow } from '../../kernel/neighbor.ts';
import type { RouteRow } from '../../kernel/route.ts';
import type { Lease, PerFamily } from '../lease.ts';
import type { Underlay } from '../underlay.ts';

/** The mark on backends' links; other parts of the product have links, and marks, of their own. */
export const backendAlias = 'fairlead backend';

/** Whether a link has a name that only backends give. */
export function isBackendDevice(name: string): boolean {
  return /^fl6?\.\d+$/.test(name);
}

/** The facts that a backend plans from. */
export interface BackendFacts {
  /** This node's lease. */
  readonly self: Lease;
  /** All leases; this node's own may be among them. */
  readonly leases: ReadonlyMap<string, Lease>;
  /** The cluster's networks: no peer gets a route to anything outside of them. */
  readonly networks: PerFamily<Cidr>;
  readonly underlay: Underlay;
  readonly nodeName: string;
}

/** Kernel rows that connect this node to its peers. */
export interface BackendRows {
  readonly links: readonly LinkRow[];
  readonly addresses: readonly AddressRow[];
  readonly neighbors: readonly NeighborRow[];
  readonly fdb: readonly FdbRow[];
  readonly routes: readonly RouteRow[];
  /** Peers that cannot be reached and why, one sentence each. */
  readonly problems: readonly string[];
  /** Peers that are reached in at least one family. */
  readonly peers: number;
}

/** One way to carry pod packets between nodes. Pure: the same facts give the same rows in the same order. */
export interface Backend {
  /** What the peers must know of this node, for {@link Lease.backendData}. */
  data(nodeName: string, underlay: Underlay): PerFamily<unknown>;
  /** The largest packet that a pod may send so that no node has to cut it. */
  mtuBytes(underlay: Underlay): number;
  plan(facts: BackendFacts): BackendRows;
}
