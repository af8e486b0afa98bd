import { join } from 'node:path';
import { type Cidr, type HostCidr, type Ip, ipOf } from '../core/address.ts';
import type { AttachmentRow } from '../kernel/attachment.ts';
import { isObject } from './fields.ts';
import { type GivenAddress, Ipam, monotonicMs } from './ipam.ts';
import { Journal, JournalError } from './journal.ts';
import { type AttachmentId, attachmentKey, leftOf, type Part } from './part.ts';
import type { PoolState } from './pool.ts';
import type { RangeSet } from './ranges.ts';
import type { Refusal } from './refusal.ts';

/** One line of the journal. */
type LeaseRecord =
  | { readonly pool: RangeSet; readonly state?: PoolState | undefined }
  /** In the place of an earlier part of the same plugin. */
  | { readonly part: Part }
  | { readonly del: string; readonly type: string; readonly atMs: number }
  /** Given to an ADD that is not recorded yet: to be given again if it never will be. */
  | { readonly free: readonly Ip[] };

/** Version 1 had these in the place of parts: all that there was of an attachment. */
type FirstRecord =
  | { readonly add: AttachmentId & { readonly row: AttachmentRow; readonly gateways: readonly HostCidr[] } }
  | { readonly del: string };
/** Of the parts that they become. */
const firstType = 'fairlead';

/** All of {@link Leases} but its end. */
export type LeaseBook = Omit<Leases, typeof Symbol.dispose>;

/**
 * Every attachment of the node with the addresses it holds, plugin by plugin: the rows that are wanted. In memory, and
 * in a journal that a next daemon reads.
 */
export class Leases implements Disposable {
  readonly #ipam = new Ipam();
  /** By key of the attachment, in the order in which the chain made them. */
  readonly #parts = new Map<string, readonly Part[]>();
  readonly #journal: Journal;

  private constructor(journal: Journal) {
    this.#journal = journal;
  }

  /** `boot` is the kernel's boot id: leases of another boot are gone with their pods. */
  static open(directory: string, boot: string): Leases {
    const path = join(directory, 'leases.journal');
    const { journal, version, records } = Journal.open(path, boot);
    const leases = new Leases(journal);
    for (const record of records) {
      if (!isObject(record))
        throw new JournalError(`${path}: no record of a lease: ${JSON.stringify(record)}`);
      leases.#replay(version === 1 ? fromFirst(record as FirstRecord) : (record as LeaseRecord));
    }
    journal.compact(leases.#records());
    return leases;
  }

  /** How many addresses of the network are given. */
  heldIn(network: Cidr): number {
    return this.#ipam.heldIn(network);
  }

  /** Attachments. */
  get size(): number {
    return this.#parts.size;
  }

  /** What the plugins of a chain made, in order; empty for an attachment that is not there. */
  get(key: string): readonly Part[] {
    return this.#parts.get(key) ?? noParts;
  }

  /** Every part of every attachment. */
  *values(): Generator<Part> {
    for (const parts of this.#parts.values()) yield* parts;
  }

  /** Takes an address of each set for the key, in memory only: {@link record} or {@link giveBack} must follow. */
  allocate(
    key: string,
    sets: readonly RangeSet[],
    requested: readonly Ip[] = [],
  ): readonly GivenAddress[] | Refusal {
    for (const set of sets) this.openPool(set);
    return this.#ipam.grant(key, sets, requested);
  }

  /** As {@link allocate}, of exactly these addresses; throws when the key or one of them is taken. */
  hold(key: string, ips: readonly Ip[]): void {
    this.#ipam.hold(key, ips);
  }

  /** Key of the attachment that has the address. */
  holderOf(ip: Ip): string | undefined {
    return this.#ipam.holderOf(ip);
  }

  /** Makes sure that there is a pool for the set; a new one begins in this state. */
  openPool(set: RangeSet, state?: PoolState): void {
    if (this.#ipam.hasPool(set)) return;
    this.#journal.append({ pool: set, state } satisfies LeaseRecord);
    this.#ipam.openPool(set, state);
  }

  /** The first set that has nothing left. */
  exhausted(sets: readonly RangeSet[]): RangeSet | undefined {
    return this.#ipam.exhausted(sets);
  }

  /** Takes back what was allocated and not recorded. */
  giveBack(key: string): void {
    this.#ipam.release(key);
  }

  /** Keeps the part beyond the end of this process. Throws when the journal cannot be written. */
  record(part: Part): void {
    this.#journal.append({ part } satisfies LeaseRecord);
    this.#put(part);
    this.#compactIfLong();
  }

  /** Forgets the part and takes its addresses back. */
  release(part: Part): void {
    const key = attachmentKey(part);
    const atMs = monotonicMs();
    if (this.get(key).some(({ type }) => type === part.type)) {
      this.#journal.append({ del: key, type: part.type, atMs } satisfies LeaseRecord);
    }
    this.#remove(key, part.type);
    if (part.addresses !== undefined) this.#ipam.release(key, atMs);
    this.#compactIfLong();
  }

  /** The part's rows are gone: as {@link release}, but what another program is still to be told stays on record. */
  strip(part: Part): Part | undefined {
    const left = leftOf(part);
    if (left === undefined) this.release(part);
    else if (part.isLeft !== true) this.record(left);
    return left;
  }

  [Symbol.dispose](): void {
    this.#journal[Symbol.dispose]();
  }

  #put(part: Part): void {
    const key = attachmentKey(part);
    const others = this.get(key).filter(({ type }) => type !== part.type);
    this.#parts.set(key, [...others, part]);
  }

  #remove(key: string, type: string): Part | undefined {
    const parts = this.get(key);
    const rest = parts.filter((part) => part.type !== type);
    if (rest.length > 0) this.#parts.set(key, rest);
    else this.#parts.delete(key);
    return parts.find((part) => part.type === type);
  }

  #compactIfLong(): void {
    if (!this.#journal.isLong) return;
    try {
      this.#journal.compact(this.#records());
    } catch {
      // No room for a second file: the long one stays in force, and this is tried again when it is longer still.
    }
  }

  #replay(record: LeaseRecord): void {
    if ('pool' in record) this.#ipam.openPool(record.pool, record.state);
    else if ('part' in record) this.#replayPart(record.part);
    else if ('del' in record) {
      const removed = this.#remove(record.del, record.type);
      if (removed?.addresses !== undefined) this.#ipam.release(record.del, record.atMs);
    } else {
      this.#ipam.hold('', record.free);
      this.#ipam.release('', 0);
    }
  }

  #replayPart(part: Part): void {
    const key = attachmentKey(part);
    if (this.#remove(key, part.type)?.addresses !== undefined) this.#ipam.release(key);
    this.#put(part);
    if (part.addresses !== undefined) this.#ipam.hold(key, part.addresses);
  }

  *#records(): Generator<LeaseRecord> {
    for (const { set, state } of this.#ipam.pools()) yield { pool: set, state };
    for (const part of this.values()) yield { part };
    for (const holder of this.#ipam.holders()) {
      if (!this.#isRecorded(holder)) yield { free: this.#ipam.addressesOf(holder) };
    }
  }

  #isRecorded(holder: string): boolean {
    return this.get(holder).some(({ addresses }) => addresses !== undefined);
  }
}

const noParts: readonly Part[] = [];

function fromFirst(record: FirstRecord): LeaseRecord {
  if ('add' in record) return { part: partOfFirst(record.add) };
  // Pools and free addresses were the same.
  return 'del' in record ? { ...record, type: firstType, atMs: 0 } : (record as LeaseRecord);
}

function partOfFirst({ row, gateways, ...id }: Extract<FirstRecord, { add: unknown }>['add']): Part {
  const { bridge = '', mtuBytes, pod } = row;
  return {
    ...id,
    type: firstType,
    rows: { attachment: row },
    addresses: (pod?.addresses ?? []).map(ipOf),
    bridge: { bridge, mtuBytes, gateways },
  };
}
