import { type Cidr, cidrContains, familyOf, type Ip } from '../core/address.ts';
import { defaultCoolDownMs, type Picked, Pool, type PoolState } from './pool.ts';
import { type AddressRange, type RangeSet, rangeFor } from './ranges.ts';
import type { Refusal } from './refusal.ts';

/** Pools are forgotten, that used longest ago first, above this many: with them only the order of their addresses is lost. */
export const poolsMax = 64;

export interface GivenAddress {
  readonly ip: Ip;
  readonly range: AddressRange;
}

export interface NamedPool {
  readonly set: RangeSet;
  readonly state: PoolState;
}

export interface IpamOptions {
  readonly coolDownMs?: number;
  /** The same for every process of one boot, such as {@link monotonicMs}. */
  readonly nowMs?: () => number;
}

/** Since the machine started (CLOCK_MONOTONIC): no step of the clock moves it, and the next daemon goes on with it. */
export function monotonicMs(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1000 + Math.floor(nanoseconds / 1e6);
}

/**
 * Who holds which address. One book for all networks of the node, so that overlapping ranges never give an
 * address twice. A holder is any text, here network/containerID/ifname.
 */
export class Ipam {
  readonly #coolDownMs: number;
  readonly #nowMs: () => number;
  readonly #holders = new Map<string, readonly Ip[]>();
  readonly #held = new Map<Ip, string>();
  readonly #pools = new Map<string, Pool>();
  /** When addresses were released, for pools still to come: they rest there too. The first released comes first. */
  readonly #cooling = new Map<Ip, number>();
  #earlyReuses = 0;

  constructor({ coolDownMs = defaultCoolDownMs, nowMs = monotonicMs }: IpamOptions = {}) {
    this.#coolDownMs = coolDownMs;
    this.#nowMs = nowMs;
  }

  /** How many addresses were given again before they had rested, because no others were left. */
  get earlyReuses(): number {
    return this.#earlyReuses;
  }

  /**
   * One address of each set, or of none. Each of the `requested` ones goes to the first set that has it and got no
   * wish yet; a set without a wish gives the next of its pool.
   */
  grant(
    holder: string,
    sets: readonly RangeSet[],
    requested: readonly Ip[] = [],
  ): readonly GivenAddress[] | Refusal {
    const own = this.#holders.get(holder);
    if (own !== undefined) return duplicate(own, sets);
    const { wishes, left } = assignRequested(sets, requested);
    const picks: Picked[] = [];
    for (const [index, set] of sets.entries()) {
      const ip = wishes[index];
      const picked = ip === undefined ? this.#pick(set, index, picks) : this.#reserve(ip, set, index);
      if ('kind' in picked) return picked;
      picks.push(picked);
    }
    if (left.length > 0) return { kind: 'unmatched', ips: left };
    this.#earlyReuses += picks.filter(
      ({ restedMs = this.#coolDownMs }) => restedMs < this.#coolDownMs,
    ).length;
    this.hold(
      holder,
      picks.map(({ ip }) => ip),
    );
    return picks.map(({ ip, range }) => ({ ip, range }));
  }

  #pick(set: RangeSet, index: number, earlier: readonly Picked[]): Picked | Refusal {
    const isHeld = (ip: Ip) => this.#held.has(ip) || earlier.some((other) => other.ip === ip);
    const options = { isHeld, nowMs: this.#nowMs(), coolDownMs: this.#coolDownMs };
    return this.#poolOf(set).pick(options) ?? { kind: 'exhausted', index, set };
  }

  #reserve(ip: Ip, set: RangeSet, index: number): Picked | Refusal {
    const range = rangeFor(set, ip);
    const holder = this.#held.get(ip);
    if (range === undefined || holder !== undefined) return { kind: 'taken', index, ip, set, holder };
    this.#poolOf(set);
    return ip === range.gateway ? { kind: 'gateway', index, ip } : { ip, range };
  }

  /** Gives exactly these addresses; throws when the holder or one of them is taken. */
  hold(holder: string, ips: readonly Ip[]): void {
    const taken = ips.find((ip) => this.#held.has(ip));
    if (taken !== undefined || this.#holders.has(holder)) {
      throw new Error(`${taken ?? holder} is held already`);
    }
    this.#holders.set(holder, ips);
    for (const ip of ips) {
      this.#held.set(ip, holder);
      this.#cooling.delete(ip);
      for (const pool of this.#pools.values()) pool.take(ip);
    }
  }

  /**
   * Takes back what the holder holds; nothing is fine too. `atMs` is when that was, by the clock of the options:
   * a replayed release does not begin to rest again.
   */
  release(holder: string, atMs: number = this.#nowMs()): void {
    const ips = this.#holders.get(holder) ?? [];
    this.#holders.delete(holder);
    for (const ip of ips) {
      this.#held.delete(ip);
      this.#cooling.set(ip, atMs);
      for (const pool of this.#pools.values()) pool.release(ip, atMs);
    }
    this.#dropRested();
  }

  holders(): IterableIterator<string> {
    return this.#holders.keys();
  }

  addressesOf(holder: string): readonly Ip[] {
    return this.#holders.get(holder) ?? [];
  }

  holderOf(ip: Ip): string | undefined {
    return this.#held.get(ip);
  }

  /** How many addresses of the network are held. */
  heldIn(network: Cidr): number {
    let count = 0;
    for (const ip of this.#held.keys()) if (cidrContains(network, ip)) count += 1;
    return count;
  }

  /** The first set that could give nothing now. One that nothing was asked of yet is taken to have something. */
  exhausted(sets: readonly RangeSet[]): RangeSet | undefined {
    const options = { isHeld: (ip: Ip) => this.#held.has(ip), nowMs: this.#nowMs(), coolDownMs: 0 };
    return sets.find((set) => {
      const pool = this.#pools.get(poolKey(set));
      return pool !== undefined && pool.pick(options) === undefined;
    });
  }

  hasPool(set: RangeSet): boolean {
    return this.#pools.has(poolKey(set));
  }

  /** Makes sure that there is a pool for the set; what rests elsewhere rests in it too. */
  openPool(set: RangeSet, state?: PoolState): void {
    const key = poolKey(set);
    if (this.#pools.has(key)) return;
    const pool = new Pool(set, state);
    this.#pools.set(key, pool);
    for (const [ip, atMs] of this.#cooling) if (!pool.isReleased(ip)) pool.release(ip, atMs);
    state?.released.forEach((ip, index) => {
      this.#cool(ip, state.releasedAtMs?.[index] ?? 0);
    });
    const [oldest] = this.#pools.keys();
    if (this.#pools.size > poolsMax && oldest !== undefined) this.#pools.delete(oldest);
  }

  #cool(ip: Ip, atMs: number): void {
    if (!this.#held.has(ip) && !this.#isRested(atMs)) this.#cooling.set(ip, atMs);
  }

  #isRested(atMs: number): boolean {
    return this.#nowMs() - atMs >= this.#coolDownMs;
  }

  #dropRested(): void {
    for (const [ip, atMs] of this.#cooling) {
      if (!this.#isRested(atMs)) return;
      this.#cooling.delete(ip);
    }
  }

  pools(): readonly NamedPool[] {
    return [...this.#pools.values()].map((pool) => ({ set: pool.set, state: pool.state() }));
  }

  /** The first is the one to be forgotten: that used longest ago. */
  #putLast(key: string, pool: Pool): void {
    this.#pools.delete(key);
    this.#pools.set(key, pool);
  }

  #poolOf(set: RangeSet): Pool {
    const key = poolKey(set);
    const there = this.#pools.get(key);
    if (there === undefined) this.openPool(set);
    else if (this.#pools.size > 1) this.#putLast(key, there);
    return there ?? (this.#pools.get(key) as Pool);
  }
}

function duplicate(own: readonly Ip[], sets: readonly RangeSet[]): Refusal {
  const places = sets.map((set) => own.find((ip) => rangeFor(set, ip) !== undefined));
  const index = Math.max(
    0,
    places.findIndex((ip) => ip !== undefined),
  );
  return { kind: 'duplicate', index, ip: places[index] ?? (own[0] as Ip) };
}

/** Which set is asked for which address, and what no set can be asked for. Each takes at most one. */
export function assignRequested(
  sets: readonly RangeSet[],
  requested: readonly Ip[],
): { readonly wishes: readonly (Ip | undefined)[]; readonly left: readonly Ip[] } {
  const left = new Set(requested);
  if (left.size === 0) return { wishes: [], left: [] };
  const wishes = sets.map((set) => {
    const family = familyOf(set[0].subnet);
    const wish = [...left].find((ip) => familyOf(ip) === family && rangeFor(set, ip) !== undefined);
    if (wish !== undefined) left.delete(wish);
    return wish;
  });
  return { wishes, left: [...left] };
}

const keys = new WeakMap<RangeSet, string>();

function poolKey(set: RangeSet): string {
  const known = keys.get(set);
  if (known !== undefined) return known;
  const key = set
    .map(({ subnet, first, last, gateway }) => `${subnet} ${first}-${last} ${gateway}`)
    .join(',');
  keys.set(set, key);
  return key;
}
