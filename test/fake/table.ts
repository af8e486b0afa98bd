import { constants } from 'node:os';
import type { Change, Failure, Table } from '../../core/rows.ts';
import { KernelError } from '../../kernel/errors.ts';

/** A row as the fakes keep it: what it is, whose it is, and what it lies on. */
interface Stored<V> {
  readonly row: V;
  readonly ours: boolean;
}

/** A place in the fake kernel: table and key. */
export type Place = `${string}/${string}`;

/** What the tables of one kernel share: each sees whether the rows that its own lie on are there. */
export class FakeKernel {
  readonly tables = new Map<string, FakeTable<unknown>>();

  has(place: Place): boolean {
    const slash = place.indexOf('/');
    return this.tables.get(place.slice(0, slash))?.stored.has(place.slice(slash + 1)) ?? false;
  }

  /** Rows that lie on something that is not there. */
  dangling(): Place[] {
    return [...this.#places()].flatMap(({ place, liesOn }) =>
      liesOn.every((below) => this.has(below)) ? [] : [place],
    );
  }

  /** Rows that lie on a place. */
  above(place: Place): Place[] {
    return [...this.#places()].flatMap(({ place: above, liesOn }) => (liesOn.includes(place) ? [above] : []));
  }

  *#places(): Generator<{ place: Place; liesOn: readonly Place[] }> {
    for (const table of this.tables.values()) {
      for (const [key, { row }] of table.stored) {
        yield { place: `${table.name}/${key}`, liesOn: table.liesOn(row) };
      }
    }
  }
}

export interface FakeTableOptions<V> {
  readonly name: string;
  readonly kernel: FakeKernel;
  /** Which rows of other tables must be there for this one (a route's link). */
  readonly liesOn?: (row: V) => readonly Place[];
  readonly same?: (wanted: V, actual: V) => boolean;
  readonly atomic?: boolean;
}

/**
 * A table in memory that refuses what a kernel refuses: a row that is there already (EEXIST), one on something
 * that is not there (ENODEV), the removal of what others lie on (EBUSY), and whatever a test forbids (EPERM).
 */
export class FakeTable<V> implements Table<string, V> {
  readonly name: string;
  readonly atomic: boolean;
  readonly stored = new Map<string, Stored<V>>();
  /** Every batch that was written, in order. */
  readonly batches: (readonly Change<string, V>[])[] = [];
  /** Keys that are refused whatever is done to them. */
  readonly forbidden = new Set<string>();
  readonly liesOn: (row: V) => readonly Place[];
  readonly #kernel: FakeKernel;
  readonly #same: (wanted: V, actual: V) => boolean;

  constructor({ name, kernel, liesOn, same, atomic }: FakeTableOptions<V>) {
    this.name = name;
    this.atomic = atomic ?? false;
    this.liesOn = liesOn ?? (() => []);
    this.#same = same ?? ((a, b) => JSON.stringify(a) === JSON.stringify(b));
    this.#kernel = kernel;
    kernel.tables.set(name, this as unknown as FakeTable<unknown>);
  }

  same(wanted: V, actual: V): boolean {
    return this.#same(wanted, actual);
  }

  /** Puts a row there behind the engine's back. */
  put(key: string, row: V, { ours = true } = {}): void {
    this.stored.set(key, { row, ours });
  }

  /** All rows, of whomever. */
  rows(): Map<string, V> {
    return new Map([...this.stored].map(([key, { row }]) => [key, row]));
  }

  async read(): Promise<Map<string, V>> {
    return new Map([...this.stored].flatMap(([key, { row, ours }]) => (ours ? [[key, row]] : [])));
  }

  async write(changes: readonly Change<string, V>[]): Promise<Failure<string>[]> {
    this.batches.push(changes);
    if (this.atomic) return this.#writeAll(changes);
    return changes.flatMap((change) => this.#failureOf(change, this.#apply(change)));
  }

  /** All or nothing, judged by how it stands at the end. */
  #writeAll(changes: readonly Change<string, V>[]): Failure<string>[] {
    const before = new Map(this.stored);
    const errors = changes.map((change) => this.#apply(change));
    if (errors.every((error) => error === undefined)) return [];
    this.stored.clear();
    for (const [key, stored] of before) this.stored.set(key, stored);
    return changes.flatMap((change, index) =>
      this.#failureOf(change, errors[index] ?? this.#error(change, 'ECANCELED')),
    );
  }

  #failureOf({ key, kind }: Change<string, V>, error: KernelError | undefined): Failure<string>[] {
    return error === undefined ? [] : [{ key, kind, error }];
  }

  #apply(change: Change<string, V>): KernelError | undefined {
    const { key, kind } = change;
    const there = this.stored.get(key);
    if (this.forbidden.has(key)) return this.#error(change, 'EPERM');
    if (kind === 'delete') return there?.ours ? this.#remove(change) : undefined;
    const missing = this.liesOn(change.wanted).filter((place) => !this.#kernel.has(place));
    if (missing.length > 0) return this.#error(change, 'ENODEV', `no ${missing.join(', ')}`);
    if (kind === 'create' && there !== undefined) {
      return there.ours && this.same(change.wanted, there.row) ? undefined : this.#error(change, 'EEXIST');
    }
    if (kind === 'update' && !there?.ours) return this.#error(change, 'ENOENT');
    this.stored.set(key, { row: change.wanted, ours: true });
    return undefined;
  }

  #remove(change: Change<string, V>): KernelError | undefined {
    const above = this.#kernel.above(`${this.name}/${change.key}`);
    if (above.length > 0) return this.#error(change, 'EBUSY', `in use by ${above.join(', ')}`);
    this.stored.delete(change.key);
    return undefined;
  }

  #error({ key, kind }: Change<string, V>, code: keyof typeof constants.errno, detail?: string): KernelError {
    return new KernelError(`${kind} ${this.name} ${key}`, constants.errno[code], { detail });
  }
}
