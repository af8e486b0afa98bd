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
  | { readonly del: string };

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
    for (const set of sets) if (this.#ipam.openPool(set)) this.#append({ pool: set });
    return this.#ipam.allocate(key, sets);
  }

  /** Keeps the attachment beyond the end of this process. Throws when the journal cannot be written. */
  record(attachment: Attachment): void {
    this.#append({ add: attachment });
    this.#attachments.set(attachmentKey(attachment), attachment);
  }

  /** Forgets the attachment and takes its addresses back. */
  release(key: string): void {
    if (this.#attachments.has(key)) this.#append({ del: key });
    this.#attachments.delete(key);
    this.#ipam.release(key);
  }

  [Symbol.dispose](): void {
    this.#journal[Symbol.dispose]();
  }

  #append(record: LeaseRecord): void {
    this.#journal.append(record);
    if (this.#journal.isLong) this.#journal.compact(this.#records());
  }

  #replay(record: LeaseRecord, path: string): void {
    if (!isObject(record)) throw new JournalError(`${path}: no record of a lease: ${JSON.stringify(record)}`);
    if ('pool' in record) this.#ipam.openPool(record.pool, record.state);
    else if ('add' in record) {
      const key = attachmentKey(record.add);
      this.#attachments.set(key, record.add);
      this.#ipam.hold(key, addressesOf(record.add));
    } else {
      this.#attachments.delete(record.del);
      this.#ipam.release(record.del);
    }
  }

  *#records(): Generator<LeaseRecord> {
    for (const { set, state } of this.#ipam.pools()) yield { pool: set, state };
    for (const attachment of this.#attachments.values()) yield { add: attachment };
  }
}

function addressesOf({ row }: Attachment): Ip[] {
  return (row.pod?.addresses ?? []).map(ipOf);
}
