import type { Cidr, Ip } from '../core/address.ts';
import type { LeaseBook } from './leases.ts';
import { attachmentKey, type Part } from './part.ts';
import type { PoolState } from './pool.ts';
import type { RangeSet } from './ranges.ts';

/** The pods of one host in the one book: others are not seen, and what is recorded is this host's. */
export class HostLeases implements LeaseBook {
  readonly #book: LeaseBook;
  readonly #host: string | undefined;

  constructor(book: LeaseBook, host: string | undefined) {
    this.#book = book;
    this.#host = host;
  }

  get size(): number {
    return new Set([...this.values()].map(attachmentKey)).size;
  }

  get(key: string): readonly Part[] {
    const parts = this.#book.get(key);
    return parts.every(({ host }) => host === this.#host)
      ? parts
      : parts.filter(({ host }) => host === this.#host);
  }

  *values(): Generator<Part> {
    for (const part of this.#book.values()) if (part.host === this.#host) yield part;
  }

  record(part: Part): void {
    this.#book.record(this.#host === undefined ? part : { ...part, host: this.#host });
  }

  release(part: Part): void {
    this.#book.release(part);
  }

  strip(part: Part): Part | undefined {
    return this.#book.strip(part);
  }

  allocate(
    key: string,
    sets: readonly RangeSet[],
    requested?: readonly Ip[],
  ): ReturnType<LeaseBook['allocate']> {
    return this.#book.allocate(key, sets, requested);
  }

  hold(key: string, ips: readonly Ip[]): void {
    this.#book.hold(key, ips);
  }

  giveBack(key: string): void {
    this.#book.giveBack(key);
  }

  holderOf(ip: Ip): string | undefined {
    return this.#book.holderOf(ip);
  }

  heldIn(network: Cidr): number {
    return this.#book.heldIn(network);
  }

  openPool(set: RangeSet, state?: PoolState): void {
    this.#book.openPool(set, state);
  }

  exhausted(sets: readonly RangeSet[]): RangeSet | undefined {
    return this.#book.exhausted(sets);
  }
}
