import type { Ip } from '../core/address.ts';
import type { GivenAddress } from './ipam.ts';
import { type AttachmentId, attachmentKey, type Part } from './part.ts';
import type { PoolState } from './pool.ts';
import type { RangeSet } from './ranges.ts';
import type { Refusal } from './refusal.ts';

/** The type of parts that are addresses only: for an interface that another plugin made. */
export const addressLeaseType = 'host-local';

/** What {@link Leases} offers to those who hold addresses without an interface. */
export interface AddressLeases {
  get(key: string): readonly Part[];
  values(): Iterable<Part>;
  /** Who holds the address, with or without an interface of ours: the key of the attachment. */
  holderOf(ip: Ip): string | undefined;
  /** In memory only: {@link record} or {@link giveBack} must follow. */
  allocate(
    key: string,
    sets: readonly RangeSet[],
    requested?: readonly Ip[],
  ): readonly GivenAddress[] | Refusal;
  /** As {@link allocate}, of exactly these addresses; throws when the holder or one of them is taken. */
  hold(key: string, ips: readonly Ip[]): void;
  giveBack(key: string): void;
  /** Throws when it cannot be written down. */
  record(part: Part): void;
  release(part: Part): void;
  /** The first set that has nothing left. */
  exhausted(sets: readonly RangeSet[]): RangeSet | undefined;
  /** Begins the pool of a set in this state; one that is there stays as it is. */
  openPool(set: RangeSet, state?: PoolState): void;
}

/** What the attachment holds without an interface of ours. */
export function addressLeaseOf(leases: AddressLeases, id: AttachmentId): Part | undefined {
  return leases.get(attachmentKey(id)).find(({ type }) => type === addressLeaseType);
}

/** The same; or, by host-local's oldest files, what its container holds with whatever interface. */
export function findAddressLease(leases: AddressLeases, id: AttachmentId): Part | undefined {
  return addressLeaseOf(leases, id) ?? addressLeaseOf(leases, { ...id, ifname: '' });
}

/** Writes down that the attachment holds the addresses, which it has in memory; throws and takes them back if not. */
export function recordAddressLease(
  leases: AddressLeases,
  { network, containerId, ifname }: AttachmentId,
  addresses: readonly Ip[],
  sandbox?: Part['sandbox'],
): void {
  const id = { network, containerId, ifname };
  const part: Part = { ...id, type: addressLeaseType, rows: {}, addresses, ...(sandbox && { sandbox }) };
  try {
    leases.record(part);
  } catch (error) {
    leases.giveBack(attachmentKey(part));
    throw error;
  }
}
