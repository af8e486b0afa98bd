import type { Cidr, Family, Ip } from '../../core/address.ts';
import type { Plan } from '../../core/rows.ts';
import type { AddressRow } from '../../kernel/address.ts';
import type { LinkRow } from '../../kernel/link.ts';
import type { FdbRow, NeighborRow } from '../../kernel/neighbor.ts';
import type { OffloadRow } from '../../kernel/offload.ts';
import type { RouteRow } from '../../kernel/route.ts';
import type { JsonObject } from '../json-object.ts';
import type { Lease, PerFamily } from '../lease.ts';
import type { Underlay } from '../underlay.ts';

/*
 * One file of this folder is one way to carry pods' packets between nodes: a BackendKind. `backends.ts` lists them,
 * and nothing else of the daemon knows their names: options, lease data, MTU and rows all come from that file.
 */

/** The mark on backends' links; other parts of the product have links, and marks, of their own. */
export const backendAlias = 'fairlead backend';

/** Whether a link has a name that only backends give: "fl.1", "fl6.1", "fl-udp". */
export function isBackendDevice(name: string): boolean {
  return /^fl6?\.\d+$|^fl-[a-z]+6?$/.test(name);
}

/** Options of a backend: its type, and what the kind's {@link BackendKind.parse} read. Plain data. */
export interface BackendConfig {
  readonly type: string;
}

/** What a backend may know of the machine it is on. */
export interface BackendHome {
  /** A folder that outlives a reboot, for what a node must not forget. */
  readonly stateDir: string;
  /** Where flanneld had its files, if this node takes its place. */
  readonly flannelDir?: string | undefined;
}

/** What a backend's file exports. `parse` adds what is wrong to the object's problems. */
export interface BackendKind<C extends BackendConfig = BackendConfig> {
  /** `Backend.Type` in the configuration, `backendType` in leases; lower case. */
  readonly type: C['type'];
  /** `families`: those of the cluster's networks. */
  parse(options: JsonObject, families: readonly Family[]): C;
  make(config: C, home: BackendHome): Backend;
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

/** Encapsulated packets that are taken from these senders only. */
export interface Guard {
  /** Port where encapsulated packets arrive. */
  readonly udpPort?: number | undefined;
  /** Number of the protocol directly in IP, per family of the outer packet. */
  readonly protocols?: PerFamily<number> | undefined;
  /** This node's addresses that packets of these protocols have to go to, to be for its tunnels. */
  readonly ends?: PerFamily<Ip> | undefined;
  readonly senders: readonly Ip[];
}

/** Kernel rows that connect this node to its peers. */
export interface BackendRows {
  readonly links: readonly LinkRow[];
  readonly offloads: readonly OffloadRow[];
  readonly addresses: readonly AddressRow[];
  readonly neighbors: readonly NeighborRow[];
  readonly fdb: readonly FdbRow[];
  readonly routes: readonly RouteRow[];
  /** Undefined: anybody's packets are taken, because none are encapsulated or because they are told apart otherwise. */
  readonly guard: Guard | undefined;
  /** Peers that cannot be reached and why, one sentence each. */
  readonly problems: readonly string[];
  /** Nodes that are reached in all families that they share with this one. */
  readonly peers: number;
}

/** What a backend's plan begins with. */
export const noRows: BackendRows = Object.freeze({
  links: [],
  offloads: [],
  addresses: [],
  neighbors: [],
  fdb: [],
  routes: [],
  guard: undefined,
  problems: [],
  peers: 0,
});

/** This node among the others, as the store has it. */
export interface Standing {
  /** Of this node's lease, where it has or had one, and what was announced with that. */
  readonly key?: string | undefined;
  readonly backendData?: Lease['backendData'] | undefined;
  readonly leases: ReadonlyMap<string, Lease>;
}

/** One way to carry pod packets between nodes. Pure: the same facts give the same rows in the same order. */
export interface Backend {
  readonly type: string;
  /** What the peers must know of this node, for {@link Lease.backendData}. */
  data(nodeName: string, underlay: Underlay, standing: Standing): PerFamily<unknown>;
  /** The largest packet that a pod may send so that no node has to cut it. */
  mtuBytes(underlay: Underlay): number;
  plan(facts: BackendFacts): BackendRows;
  /** For what only this backend has in the kernel, or in a thread of its own: see {@link OpenBackend}. */
  open?(place: BackendPlace): OpenBackend;
}

/** Where a backend's own tables are. */
export interface BackendPlace {
  readonly namespaceFd?: number | undefined;
}

/** Tables that only one backend has, and what they hold open. Disposing of it leaves the kernel as it is. */
export interface OpenBackend extends Disposable {
  /** Wanted rows of these tables: they are made after links and addresses, and before the ways over them. */
  layers(facts: BackendFacts): Plan;
  /** Only where packets go through this process. Undefined while they do not. */
  packets?(): TunnelPackets | undefined;
}

/** What a backend's own pump counts, since it began: all that it carried, and what it dropped by why. */
export type TunnelPackets = Readonly<
  Record<'sent' | 'received' | 'no_route' | 'bad_sender' | 'malformed' | 'lost', number>
>;
