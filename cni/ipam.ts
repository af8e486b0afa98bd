import type { Ip } from '../core/address.ts';
import { Pool, type PoolState } from './pool.ts';
import type { AddressRange, RangeSet } from './ranges.ts';

/** Pools are forgotten, oldest first, above this many: with them only the order of their addresses is lost. */
export const poolsMax = 64;

export interface GivenAddress {
  readonly ip: Ip;
  readonly range: AddressRange;
}

/** What {@link Ipam.allocate} says when one of the sets has nothing left; then nothing was given. */
export interface Exhausted {
  readonly exhausted: RangeSet;
}

export interface NamedPool {
  readonly set: RangeSet;
  readonly state: PoolState;
}

/**
 * Who holds which address. One book for all networks of the node, so that overlapping ranges never give an
 * address twice. A holder is any text, here network/containerID/ifname.
 */
export class Ipam {
  readonly #holders = new Map<string, readonly Ip[]>();
  readonly #held = new Set<Ip>();
  readonly #pools = new Map<string, Pool>();

  /** One address of each set, or of none. The holder must hold nothing yet. */
  allocate(holder: string, sets: readonly RangeSet[]): readonly GivenAddress[] | Exhausted {
    const given: GivenAddress[] = [];
    const isHeld = (ip: Ip) => this.#held.has(ip) || given.some((other) => other.ip === ip);
    for (const set of sets) {
      const picked = this.#poolOf(set).pick(isHeld);
      if (picked === undefined) return { exhausted: set };
      given.push(picked);
    }
    this.hold(
      holder,
      given.map(({ ip }) => ip),
    );
    return given;
  }

  /** Gives exactly these addresses; throws when the holder or one of them is taken. */
  hold(holder: string, ips: readonly Ip[]): void {
    const taken = ips.find((ip) => this.#held.has(ip));
    if (taken !== undefined || this.#holders.has(holder)) {
      throw new Error(`${taken ?? holder} is held already`);
    }
    this.#holders.set(holder, ips);
    for (const ip of ips) {
      this.#held.add(ip);
      for (const pool of this.#pools.values()) pool.take(ip);
    }
  }

  /** Takes back what the holder holds; nothing is fine too. */
  release(holder: string): void {
    const ips = this.#holders.get(holder) ?? [];
    this.#holders.delete(holder);
    for (const ip of ips) {
      this.#held.delete(ip);
      for (const pool of this.#pools.values()) pool.release(ip);
    }
  }

  holders(): IterableIterator<string> {
    return this.#holders.keys();
  }

  addressesOf(holder: string): readonly Ip[] {
    return this.#holders.get(holder) ?? [];
  }

  hasPool(set: RangeSet): boolean {
    return this.#pools.has(poolKey(set));
  }

  /** Makes sure that there is a pool for the set. */
  openPool(set: RangeSet, state?: PoolState): void {
    const key = poolKey(set);
    if (this.#pools.has(key)) return;
    this.#pools.set(key, new Pool(set, state));
    const [oldest] = this.#pools.keys();
    if (this.#pools.size > poolsMax && oldest !== undefined) this.#pools.delete(oldest);
  }

  pools(): readonly NamedPool[] {
    return [...this.#pools.values()].map((pool) => ({ set: pool.set, state: pool.state() }));
  }

  #poolOf(set: RangeSet): Pool {
    const key = poolKey(set);
    const there = this.#pools.get(key);
    if (there !== undefined) return there;
    this.openPool(set);
    return this.#pools.get(key) as Pool;
  }
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
