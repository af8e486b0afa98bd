import { familyOf, type Ip, ipFromBigInt, ipToBigInt } from '../core/address.ts';
import type { AddressRange, RangeSet } from './ranges.ts';

/** Above this many released addresses they are used again before new ones: the memory of a /64 stays bounded. */
export const releasedMax = 65_536;
/** No node runs this many pods in its life; keeps counting in plain numbers. */
const rangeAddressesMax = 2 ** 48;
/** The queue is written anew when it has this many entries that no longer count, and more of them than others. */
const queueSlackMax = 1024;

const nobody = () => false;

interface Span {
  readonly range: AddressRange;
  readonly first: bigint;
  readonly last: bigint;
  readonly size: number;
}

function spanOf(range: AddressRange): Span {
  const first = ipToBigInt(range.first);
  const last = ipToBigInt(range.last);
  const size = last - first + 1n;
  return { range, first, last, size: size > rangeAddressesMax ? rangeAddressesMax : Number(size) };
}

/** Where a pool stands: enough to make it again. */
export interface PoolState {
  /** Addresses never given so far begin here: index of the range, offset in it. */
  readonly cursor: readonly [range: number, offset: number];
  /** Given back, longest ago first. */
  readonly released: readonly Ip[];
}

/**
 * The order in which the addresses of one range set are given: first those never given, in ascending order,
 * then the ones given back longest ago. No order keeps an address unused for longer after its release, so the
 * cool-down is as long as the size of the pool allows, without a clock. Every operation is O(1).
 *
 * Who holds an address is not known here: pools may overlap, and {@link Ipam} keeps one list for all.
 */
export class Pool {
  readonly set: RangeSet;
  readonly #spans: readonly Span[];
  readonly #gateways: ReadonlySet<Ip>;
  #range = 0;
  #offset = 0;
  /** The address at the cursor, once it was asked for. */
  #cursorIp: Ip | undefined;
  /** Released addresses in order; an entry counts only if `#places` still says its place. */
  #queue: Ip[] = [];
  #head = 0;
  /** Place of an address in the queue. */
  readonly #places = new Map<Ip, number>();

  constructor(set: RangeSet, state?: PoolState) {
    this.set = set;
    this.#spans = set.map(spanOf);
    this.#gateways = new Set(set.map(({ gateway }) => gateway));
    if (state === undefined) return;
    [this.#range, this.#offset] = state.cursor;
    for (const ip of state.released) this.#enqueue(ip);
  }

  /** The next address that is not `held`, with its range; undefined when there is none. Gives nothing away yet. */
  pick(held: (ip: Ip) => boolean): { readonly ip: Ip; readonly range: AddressRange } | undefined {
    const ip =
      this.#places.size >= releasedMax
        ? (this.#oldest(held) ?? this.#fresh(held))
        : (this.#fresh(held) ?? this.#oldest(held));
    const range = ip === undefined ? undefined : this.rangeOf(ip);
    return ip === undefined || range === undefined ? undefined : { ip, range };
  }

  /** Notes that the address was given. */
  take(ip: Ip): void {
    if (this.rangeOf(ip) === undefined) return;
    this.#places.delete(ip);
    if (this.#fresh(nobody) === ip) this.#advance();
  }

  /** Notes that the address came back: it is the last to be given again. */
  release(ip: Ip): void {
    if (this.rangeOf(ip) !== undefined && !this.#gateways.has(ip)) this.#enqueue(ip);
  }

  rangeOf(ip: Ip): AddressRange | undefined {
    if (familyOf(ip) !== familyOf(this.set[0].subnet)) return undefined;
    const value = ipToBigInt(ip);
    return this.#spans.find(({ first, last }) => value >= first && value <= last)?.range;
  }

  state(): PoolState {
    this.#fresh(nobody);
    const released = this.#queue.filter((ip, at) => at >= this.#head && this.#places.get(ip) === at);
    return { cursor: [this.#range, this.#offset], released };
  }

  #freshAddress(): Ip | undefined {
    const span = this.#spans[this.#range];
    if (span === undefined) return undefined;
    this.#cursorIp ??= ipFromBigInt(span.first + BigInt(this.#offset), familyOf(span.range.subnet));
    return this.#cursorIp;
  }

  #advance(): void {
    this.#cursorIp = undefined;
    this.#offset += 1;
    if (this.#offset < (this.#spans[this.#range]?.size ?? 0)) return;
    this.#range += 1;
    this.#offset = 0;
  }

  /** Passes over what cannot be given new: gateways, addresses held through another pool, released ones. */
  #fresh(held: (ip: Ip) => boolean): Ip | undefined {
    for (;;) {
      const ip = this.#freshAddress();
      if (ip === undefined || !(this.#gateways.has(ip) || this.#places.has(ip) || held(ip))) return ip;
      this.#advance();
    }
  }

  #oldest(held: (ip: Ip) => boolean): Ip | undefined {
    while (this.#head < this.#queue.length) {
      const ip = this.#queue[this.#head] as Ip;
      const counts = this.#places.get(ip) === this.#head;
      if (counts && !held(ip)) return ip;
      if (counts) this.#places.delete(ip);
      this.#head += 1;
    }
    this.#trim();
    return undefined;
  }

  #enqueue(ip: Ip): void {
    this.#places.set(ip, this.#queue.length);
    this.#queue.push(ip);
    this.#trim();
  }

  #trim(): void {
    const useless = this.#queue.length - this.#places.size;
    if (useless < queueSlackMax || useless * 2 < this.#queue.length) return;
    const { released } = this.state();
    this.#queue = [];
    this.#head = 0;
    this.#places.clear();
    for (const ip of released) this.#places.set(ip, this.#queue.push(ip) - 1);
  }
}
