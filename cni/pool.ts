import { familyOf, type Ip, ipFromBigInt, ipToBigInt } from '../core/address.ts';
import type { AddressRange, RangeSet } from './ranges.ts';

/** With this many released addresses the rested ones are used before new ones: the memory of a /64 stays bounded. */
export const releasedMax = 65_536;
/** How long a released address rests before it is given again, where others are left. */
export const defaultCoolDownMs = 60_000;
/** No node runs this many pods in its life; keeps counting in plain numbers. */
const rangeAddressesMax = 2 ** 48;
/** The queue is written anew when it has this many entries that no longer count, and more of them than others. */
const queueSlackMax = 1024;

/** {@link poolStateAfter} makes no list longer than this: it costs some milliseconds. */
const passedMax = 4096;

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
  /** When each of them was, by the clock of {@link Pool.pick}; absent: long ago. */
  readonly releasedAtMs?: readonly number[];
}

/** What {@link Pool.pick} proposes. */
export interface Picked {
  readonly ip: Ip;
  readonly range: AddressRange;
  /** Since its release; undefined when it was never given before. */
  readonly restedMs?: number | undefined;
}

export interface PickOptions {
  readonly isHeld: (ip: Ip) => boolean;
  readonly nowMs: number;
  readonly coolDownMs: number;
}

/**
 * The order in which the addresses of one range set are given: first those never given, in ascending order,
 * then the ones given back longest ago. No order keeps an address unused for longer after its release: it rests
 * for the whole cool-down if any other could, and as long as possible if the pool is too small for that. Every
 * operation is O(1).
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
  /** When the entries of the queue were released. */
  #times: number[] = [];
  #head = 0;
  /** Place of an address in the queue. */
  readonly #places = new Map<Ip, number>();

  constructor(set: RangeSet, state?: PoolState) {
    this.set = set;
    this.#spans = set.map(spanOf);
    this.#gateways = new Set(set.map(({ gateway }) => gateway));
    if (state === undefined) return;
    [this.#range, this.#offset] = state.cursor;
    state.released.forEach((ip, index) => {
      this.#enqueue(ip, state.releasedAtMs?.[index] ?? 0);
    });
  }

  /** The next address that is not held; undefined when there is none. Gives nothing away yet. */
  pick({ isHeld, nowMs, coolDownMs }: PickOptions): Picked | undefined {
    if (this.#places.size >= releasedMax) {
      const rested = this.#oldest(isHeld, nowMs);
      if (rested !== undefined && rested.restedMs >= coolDownMs) return rested;
    }
    const ip = this.#fresh(isHeld);
    const range = this.#spans[this.#range]?.range;
    return ip === undefined || range === undefined ? this.#oldest(isHeld, nowMs) : { ip, range };
  }

  /** Notes that the address was given. One of another pool is no matter. */
  take(ip: Ip): void {
    this.#places.delete(ip);
    if (this.#fresh(nobody) === ip) this.#advance();
  }

  /** Notes that the address came back: it is the last to be given again. One of another pool is no matter. */
  release(ip: Ip, atMs: number): void {
    if (this.rangeOf(ip) !== undefined && !this.#gateways.has(ip)) this.#enqueue(ip, atMs);
  }

  /** Whether it was given back and not given again. */
  isReleased(ip: Ip): boolean {
    return this.#places.has(ip);
  }

  rangeOf(ip: Ip): AddressRange | undefined {
    if (familyOf(ip) !== familyOf(this.set[0].subnet)) return undefined;
    const value = ipToBigInt(ip);
    return this.#spans.find(({ first, last }) => value >= first && value <= last)?.range;
  }

  state(): PoolState {
    this.#fresh(nobody);
    const counts = (ip: Ip, at: number) => at >= this.#head && this.#places.get(ip) === at;
    const released = this.#queue.filter(counts);
    const releasedAtMs = this.#times.filter((_, at) => counts(this.#queue[at] as Ip, at));
    return { cursor: [this.#range, this.#offset], released, releasedAtMs };
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
  #fresh(isHeld: (ip: Ip) => boolean): Ip | undefined {
    for (;;) {
      const ip = this.#freshAddress();
      if (ip === undefined || !(this.#gateways.has(ip) || this.#places.has(ip) || isHeld(ip))) return ip;
      this.#advance();
    }
  }

  #oldest(isHeld: (ip: Ip) => boolean, nowMs: number): (Picked & { restedMs: number }) | undefined {
    while (this.#head < this.#queue.length) {
      const ip = this.#queue[this.#head] as Ip;
      const counts = this.#places.get(ip) === this.#head;
      const range = counts && !isHeld(ip) ? this.rangeOf(ip) : undefined;
      if (range !== undefined) {
        return { ip, range, restedMs: Math.max(0, nowMs - (this.#times[this.#head] ?? 0)) };
      }
      if (counts) this.#places.delete(ip);
      this.#head += 1;
    }
    this.#trim();
    return undefined;
  }

  #enqueue(ip: Ip, atMs: number): void {
    this.#places.set(ip, this.#queue.length);
    this.#queue.push(ip);
    this.#times.push(atMs);
    this.#trim();
  }

  #trim(): void {
    const useless = this.#queue.length - this.#places.size;
    if (useless < queueSlackMax || useless * 2 < this.#queue.length) return;
    const { released, releasedAtMs = [] } = this.state();
    this.#queue = [...released];
    this.#times = [...releasedAtMs];
    this.#head = 0;
    this.#places.clear();
    this.#queue.forEach((ip, place) => {
      this.#places.set(ip, place);
    });
  }
}

/**
 * The state of a pool that gave its addresses in ascending order up to `last`, as host-local did: what lies before
 * comes after the rest. Undefined when `last` is not in the set or too far in to be worth a list.
 */
export function poolStateAfter(set: RangeSet, last: Ip): PoolState | undefined {
  const spans = set.map(spanOf);
  const value = ipToBigInt(last);
  const family = familyOf(last);
  const at = spans.findIndex(
    ({ range, first, last: end }) => familyOf(range.subnet) === family && value >= first && value <= end,
  );
  const span = spans[at];
  if (span === undefined) return undefined;
  const offset = Number(value - span.first) + 1;
  const sizes = [...spans.slice(0, at).map(({ size }) => size), offset];
  if (sizes.reduce((sum, size) => sum + size, 0) > passedMax) return undefined;
  const gateways = new Set(set.map(({ gateway }) => gateway));
  const released = sizes.flatMap((size, index) => {
    const first = spans[index]?.first ?? 0n;
    return Array.from({ length: size }, (_, place) => ipFromBigInt(first + BigInt(place), family));
  });
  const cursor = offset === span.size ? ([at + 1, 0] as const) : ([at, offset] as const);
  return { cursor, released: released.filter((ip) => !gateways.has(ip)) };
}
