import type { Change } from '../../core/rows.ts';

/**
 * Wanted rows of one table, of several owners: where more than one wants a row of one key, the owner whose name sorts
 * first has it. Keeps what changed since the last {@link WantedRows.drain}.
 */
export class WantedRows<V> {
  readonly #same: (a: V, b: V) => boolean;
  /** By key; sorted by owner. */
  readonly #claims = new Map<string, readonly Claim<V>[]>();
  /** The row before the first change to it. */
  #touched = new Map<string, V | undefined>();

  constructor(same: (a: V, b: V) => boolean) {
    this.#same = same;
  }

  get(key: string): V | undefined {
    return this.#claims.get(key)?.[0]?.row;
  }

  has(key: string): boolean {
    return this.#claims.has(key);
  }

  *values(): Generator<V> {
    for (const [claim] of this.#claims.values()) if (claim !== undefined) yield claim.row;
  }

  /** As a map of its own. */
  rows(): Map<string, V> {
    return new Map(Array.from(this.#claims, ([key, [claim]]) => [key, (claim as Claim<V>).row]));
  }

  /** What this owner wanted `before`, as it was given, and wants from now on. */
  replace(owner: string, before: ReadonlyMap<string, V>, after: ReadonlyMap<string, V>): void {
    for (const key of before.keys()) if (!after.has(key)) this.#put(key, owner, undefined);
    for (const [key, row] of after) {
      const there = before.get(key);
      if (there === undefined || !this.#same(there, row)) this.#put(key, owner, row);
    }
  }

  #put(key: string, owner: string, row: V | undefined): void {
    const claims = this.#claims.get(key) ?? [];
    const [first] = claims;
    if (!this.#touched.has(key)) this.#touched.set(key, first?.row);
    const others = claims.filter((claim) => claim.owner !== owner);
    const all = row === undefined ? others : [...others, { owner, row }];
    if (all.length === 0) this.#claims.delete(key);
    else this.#claims.set(key, all.length === 1 ? all : all.sort((a, b) => (a.owner < b.owner ? -1 : 1)));
  }

  /** What changed since the last call; what came back to where it was did not. */
  drain(): Change<string, V>[] {
    const touched = this.#touched;
    this.#touched = new Map();
    return Array.from(touched, ([key, actual]): Change<string, V> | undefined => {
      const wanted = this.get(key);
      if (actual === undefined) return wanted && { kind: 'create', key, wanted };
      if (wanted === undefined) return { kind: 'delete', key, actual };
      return this.#same(wanted, actual) ? undefined : { kind: 'update', key, wanted, actual };
    }).filter((change) => change !== undefined);
  }
}

interface Claim<V> {
  readonly owner: string;
  readonly row: V;
}
