import { type KindRows, type Part, type RowKind, rowKinds, rowsOf } from './part.ts';

interface Wanted {
  readonly row: unknown;
  /** Parts that want it. */
  count: number;
}

/** The rows that all parts together want, by kind: what the kernel is compared with. */
export class WantedRows {
  readonly #kinds = new Map<RowKind, Map<string, Wanted>>(rowKinds.map((kind) => [kind, new Map()]));

  add({ rows }: Part): void {
    for (const [wanted, key, row] of this.#entries(rows)) {
      wanted.set(key, { row, count: (wanted.get(key)?.count ?? 0) + 1 });
    }
  }

  remove({ rows }: Part): void {
    for (const [wanted, key] of this.#entries(rows)) {
      const there = wanted.get(key);
      if (there === undefined) continue;
      there.count -= 1;
      if (there.count === 0) wanted.delete(key);
    }
  }

  has(kind: RowKind, key: string): boolean {
    return this.#of(kind).has(key);
  }

  size(kind: RowKind): number {
    return this.#of(kind).size;
  }

  rows<K extends RowKind>(kind: K): Map<string, KindRows[K]> {
    return new Map([...this.#of(kind)].map(([key, { row }]) => [key, row as KindRows[K]]));
  }

  #of(kind: RowKind): Map<string, Wanted> {
    return this.#kinds.get(kind) ?? new Map();
  }

  *#entries(rows: Part['rows']): Generator<[Map<string, Wanted>, string, unknown]> {
    for (const kind of rowKinds) {
      // Settings inside a container are the container's alone.
      if (kind === 'pod' || rows[kind] === undefined) continue;
      for (const [key, row] of rowsOf(rows, kind)) yield [this.#of(kind), key, row];
    }
  }
}
