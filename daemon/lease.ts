import { type Cidr, type Family, families, type Ip, ipOf } from '../core/address.ts';

/** The cluster's pod network of one family and how it is cut into one subnet a node. */
export interface FamilyNetwork {
  readonly network: Cidr;
  readonly subnetLength: number;
  /** First addresses of the first and the last subnet that may be given to a node. */
  readonly subnetMin: Ip;
  readonly subnetMax: Ip;
}

/** One value a family, where the family is in use. */
export type PerFamily<T> = { readonly [F in Family]?: T };

/** What a node tells the others about itself. */
export interface LeaseAttributes {
  /** Addresses where the others send packets for this node's pods. */
  readonly publicIps: PerFamily<Ip>;
  /** "vxlan", "host-gw"; other tools' nodes may say others. */
  readonly backendType: string;
  /** What the backend's peers need to know, as JSON; vxlan: `{"VNI":1,"VtepMAC":"…"}`, host-gw: null. */
  readonly backendData: PerFamily<unknown>;
}

/** A node's right to its pod subnets, as every node sees it. */
export interface Lease extends LeaseAttributes {
  /** Unique in the store: the node's name (Kubernetes) or the subnet key (etcd). */
  readonly key: string;
  readonly subnets: PerFamily<Cidr>;
  /** When it was made, in the store's own count. */
  readonly since?: number;
  /** Further addresses of the node, where the store has any: its packets may come from these. */
  readonly addresses?: readonly Ip[];
}

/** The leases that a store holds, kept up to date until the watch's signal aborts. */
export interface LeaseView {
  /** Resolves when {@link leases} is complete for the first time. */
  readonly synced: Promise<void>;
  /** All leases, this node's own among them, by {@link Lease.key}. */
  leases(): ReadonlyMap<string, Lease>;
  /** What the store cannot do or read at the moment; empty when all is well. */
  problems(): readonly string[];
  /** For how long changes may have been missed; 0 while the store is followed. What cannot be read is not missed. */
  behindMs(): number;
  /** What an operator wrote at this node's entry. Only where a store has room for that. */
  wishes?(): NodeWishes;
}

/** An operator's word on one node, changed at any time. */
export interface NodeWishes {
  /** Addresses to select the underlay by, as if given at start. */
  readonly publicIps: PerFamily<Ip>;
  /** Addresses to tell the others, whatever the underlay is. */
  readonly announced: PerFamily<Ip>;
}

/** Where nodes agree who has which subnet. Implementations keep flannel's formats, so that nodes of both mix. */
export interface LeaseStore {
  readonly name: string;
  /**
   * Makes sure that this node has a lease with exactly these attributes, and keeps it alive until the signal
   * aborts. May be called again and again; writes only what differs. `previous` are the subnets to ask for
   * first, and `announced` the addresses that they were announced with. Throws {@link StoreError} when that cannot be had now.
   */
  acquire(attributes: LeaseAttributes, options: AcquireOptions): Promise<Lease>;
  /** Takes a changed network over, which this node's subnets fit into. */
  useNetworks?(networks: PerFamily<FamilyNetwork>): void;
  /** Tells everybody that pods on this node have a network. Called after the first complete pass with a lease. */
  announceReady?(signal: AbortSignal): Promise<void>;
  /** Follows all leases; `onChange` is called after each change, however small. Reconnects by itself. */
  watch(options: { readonly onChange: () => void; readonly signal: AbortSignal }): LeaseView;
}

export interface AcquireOptions {
  readonly previous?: PerFamily<Cidr> | undefined;
  readonly announced?: PerFamily<Ip> | undefined;
  readonly signal: AbortSignal;
}

/** The store does not answer, refuses, or has nothing for this node yet. Worth trying again. */
export class StoreError extends Error {
  override readonly name = 'StoreError';
}

/** Whether two leases say the same, whatever the order of keys in the backend's data. */
export function sameLease(a: Lease, b: Lease): boolean {
  return a.key === b.key && sameAttributes(a, b) && families.every((f) => a.subnets[f] === b.subnets[f]);
}

export function sameAttributes(a: LeaseAttributes, b: LeaseAttributes): boolean {
  return (
    a.backendType === b.backendType &&
    families.every(
      (f) =>
        a.publicIps[f] === b.publicIps[f] &&
        canonicalJson(a.backendData[f]) === canonicalJson(b.backendData[f]),
    )
  );
}

/** JSON text with the keys of objects in order; undefined reads as null. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value ?? null, (_, part: unknown) =>
    part !== null && typeof part === 'object' && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}

/** The families that a lease has a subnet of, in the order 4, 6. */
export function leaseFamilies(lease: Pick<Lease, 'subnets'>): Family[] {
  return families.filter((family) => lease.subnets[family] !== undefined);
}

/** The lease as a cluster of only these families sees it. */
export function narrowLease(lease: Lease, inUse: readonly Family[]): Lease {
  const narrow = <T>(values: PerFamily<T>) =>
    Object.fromEntries(inUse.map((family) => [family, values[family]])) as PerFamily<T>;
  const { subnets, publicIps, backendData } = lease;
  return {
    ...lease,
    subnets: narrow(subnets),
    publicIps: narrow(publicIps),
    backendData: narrow(backendData),
  };
}

/** Of two that claim the same, whose it is. Where a store does not say which was first, all agree all the same. */
export function isOlder(a: Pick<Lease, 'key' | 'since'>, b: Pick<Lease, 'key' | 'since'>): boolean {
  const [first, second] = [a.since ?? 0, b.since ?? 0];
  return first === second ? a.key < b.key : first < second;
}

/** What rows about a lease are named by: its subnets, their first addresses, and what its tunnel ends are known by. */
export function leaseTokens({ subnets, backendData }: Lease): string[] {
  return families.flatMap((family) => {
    const subnet = subnets[family];
    const data = backendData[family];
    const told = data !== null && typeof data === 'object' ? Object.values(data) : [];
    return [
      ...(subnet === undefined ? [] : [subnet, ipOf(subnet)]),
      ...told.filter((value) => typeof value === 'string'),
    ];
  });
}
