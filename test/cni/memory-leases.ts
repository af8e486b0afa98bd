import type { AddressLeases } from '../../cni/address-leases.ts';
import { Ipam } from '../../cni/ipam.ts';
import { attachmentKey, type Part } from '../../cni/part.ts';

/** The book of addresses without a journal. */
export class MemoryLeases implements AddressLeases {
  readonly ipam = new Ipam();
  readonly parts = new Map<string, Part>();
  /** What {@link record} throws. */
  failure: Error | undefined;

  readonly allocate = this.ipam.grant.bind(this.ipam);
  readonly hold = this.ipam.hold.bind(this.ipam);
  readonly holderOf = this.ipam.holderOf.bind(this.ipam);
  readonly exhausted = this.ipam.exhausted.bind(this.ipam);
  readonly openPool = this.ipam.openPool.bind(this.ipam);

  get(key: string): readonly Part[] {
    return [...this.parts.values()].filter((part) => attachmentKey(part) === key);
  }

  values(): Iterable<Part> {
    return this.parts.values();
  }

  giveBack(key: string): void {
    this.ipam.release(key);
  }

  record(part: Part): void {
    if (this.failure !== undefined) throw this.failure;
    this.parts.set(`${attachmentKey(part)} ${part.type}`, part);
  }

  release(part: Part): void {
    this.parts.delete(`${attachmentKey(part)} ${part.type}`);
    this.ipam.release(attachmentKey(part));
  }

  /** "network/containerID/ifname address,address" of every lease, in order. */
  lines(): string[] {
    return [...this.parts.values()].map((part) => `${attachmentKey(part)} ${part.addresses}`).sort();
  }
}
