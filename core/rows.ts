/** One thing to do to one row of a {@link Table}. */
export type Change<K, V> =
  | { readonly kind: 'create'; readonly key: K; readonly wanted: V }
  | { readonly kind: 'update'; readonly key: K; readonly wanted: V; readonly actual: V }
  | { readonly kind: 'delete'; readonly key: K; readonly actual: V };

/** A row that could not be written; the rest of the batch was. */
export interface Failure<K = unknown> {
  readonly key: K;
  readonly kind: Change<K, unknown>['kind'];
  readonly error: Error;
}

/**
 * One kernel interface as a set of rows: one row = one entry of the kernel.
 * Implementations are thin appliers in kernel/, and small fakes in test/fake/.
 */
export interface Table<K, V> {
  /** For people: "route", "fdb", "nft-element". */
  readonly name: string;
  /** True where `write` is one transaction of the kernel: makes and removals then come in one batch. */
  readonly atomic?: boolean;
  /** Whether the row there is as wanted. Only what we set is compared, never what the kernel adds. */
  same(wanted: V, actual: V): boolean;
  /** Only rows that carry our mark: a row without it can never be deleted. */
  read(): Promise<Map<K, V>>;
  /**
   * Applies one batch, going on past failed rows, and returns these.
   * Deleting what is gone is no failure; creating what is there already exactly as wanted is none either.
   */
  write(changes: readonly Change<K, V>[]): Promise<Failure<K>[]>;
}

/** Wanted rows of one table: one step of a plan. */
export interface Layer<K, V> {
  readonly table: Table<K, V>;
  readonly wanted: ReadonlyMap<K, V>;
}

/**
 * Tables in order of dependency (links before addresses before routes). Build each entry with {@link layer},
 * which keeps key and value types together.
 */
export type Plan = readonly Layer<unknown, unknown>[];

export function layer<K, V>(table: Table<K, V>, wanted: ReadonlyMap<K, V>): Layer<unknown, unknown> {
  return { table, wanted } as unknown as Layer<unknown, unknown>;
}
