import { join } from 'node:path';
import { type Ip, ipOf } from '../core/address.ts';
import { type Attachment, attachmentKey } from './attachment.ts';
import { isObject } from './fields.ts';
import { type Exhausted, type GivenAddress, Ipam } from './ipam.ts';
import { Journal, JournalError } from './journal.ts';
import type { PoolState } from './pool.ts';
import type { RangeSet } from './ranges.ts';

/** One line of the journal. */
type LeaseRecord =
  | { readonly pool: RangeSet; readonly state?: PoolState | undefined }
  | { readonly add: Attachment }
  | { readonly del: string }
  /** Given to an ADD that is not recorded yet: to be given again if it never will be. */
  | { readonly free: readonly Ip[] };

/**
 * Every attachment of the node with the addresses it holds: the rows that are wanted. In memory, and in a journal
 * that a next daemon reads.
 */
export class Leases implements Disposable {
  readonly #ipam = new Ipam();
  readonly #attachments = new Map<string, Attachment>();
  readonly #journal: Journal;

  private constructor(journal: Journal) {
    this.#journal = journal;
  }

  /** `boot` is the kernel's boot id: leases of another boot are gone with their pods. */
  static open(directory: string, boot: string): Leases {
    const path = join(directory, 'leases.journal');
    const { journal, records } = Journal.open(path, boot);
    const leases = new Leases(journal);
    for (const record of records) leases.#replay(record as LeaseRecord, path);
    journal.compact(leases.#records());
    return leases;
  }

  get size(): number {
    return this.#attachments.size;
  }

  get(key: string): Attachment | undefined {
    return this.#attachments.get(key);
  }

  values(): IterableIterator<Attachment> {
    return this.#attachments.values();
  }

  /** Takes an address of each set for the key, in memory only: {@link record} or {@link release} must follow. */
  allocate(key: string, sets: readonly RangeSet[]): readonly GivenAddress[] | Exhausted {
    for (const set of sets) {
      if (!this.#ipam.hasPool(set)) this.#journal.append({ pool: set } satisfies LeaseRecord);
      this.#ipam.openPool(set);
    }
    return this.#ipam.allocate(key, sets);
  }

  /** Keeps the attachment beyond the end of this process. Throws when the journal cannot be written. */
  record(attachment: Attachment): void {
    this.#journal.append({ add: attachment } satisfies LeaseRecord);
    this.#attachments.set(attachmentKey(attachment), attachment);
    this.#compactIfLong();
  }

  /** Forgets the attachment and takes its addresses back. */
  release(key: string): void {
    if (this.#attachments.has(key)) this.#journal.append({ del: key } satisfies LeaseRecord);
    this.#attachments.delete(key);
    this.#ipam.release(key);
    this.#compactIfLong();
  }

  [Symbol.dispose](): void {
    this.#journal[Symbol.dispose]();
  }

  #compactIfLong(): void {
    if (!this.#journal.isLong) return;
    try {
      this.#journal.compact(this.#records());
    } catch {
      // No room for a second file: the long one stays in force, and this is tried again when it is longer still.
    }
  }

  #replay(record: LeaseRecord, path: string): void {
    if (!isObject(record)) throw new JournalError(`${path}: no record of a lease: ${JSON.stringify(record)}`);
    if ('pool' in record) this.#ipam.openPool(record.pool, record.state);
    else if ('add' in record) {
      const key = attachmentKey(record.add);
      this.#attachments.set(key, record.add);
      this.#ipam.hold(key, addressesOf(record.add));
    } else if ('del' in record) {
      this.#attachments.delete(record.del);
      this.#ipam.release(record.del);
    } else {
      this.#ipam.hold('', record.free);
      this.#ipam.release('');
    }
  }

  *#records(): Generator<LeaseRecord> {
    for (const { set, state } of this.#ipam.pools()) yield { pool: set, state };
    for (const attachment of this.#attachments.values()) yield { add: attachment };
    for (const holder of this.#ipam.holders()) {
      if (!this.#attachments.has(holder)) yield { free: this.#ipam.addressesOf(holder) };
    }
  }
}

function addressesOf({ row }: Attachment): Ip[] {
  return (row.pod?.addresses ?? []).map(ipOf);
}
