import type { CniError } from './error.ts';
import { attachmentKey, type KindRows, type Part, type RowKind, rowKinds, rowsOf } from './part.ts';
import { type HostPortHolder, HostPortHolders } from './types/hostport.ts';

interface Wanted {
  readonly row: unknown;
  /** Parts that want it. */
  count: number;
  /** Whether one of them has been made. */
  isMade: boolean;
}

/** The rows that all parts together want, by kind: what the kernel is compared with. */
export class WantedRows {
  readonly #kinds = new Map<RowKind, Map<string, Wanted>>(rowKinds.map((kind) => [kind, new Map()]));

  readonly #hostPorts = new HostPortHolders();

  add(part: Part): void {
    this.#hostPorts.add(holderOf(part), part.rows);
    for (const [wanted, key, row] of this.#entries(part.rows)) {
      const there = wanted.get(key);
      wanted.set(key, { row, count: (there?.count ?? 0) + 1, isMade: there?.isMade ?? false });
    }
  }

  /** The rows of the part are in the kernel. */
  noteMade({ rows }: Part): void {
    for (const [wanted, key] of this.#entries(rows)) {
      const there = wanted.get(key);
      if (there !== undefined) there.isMade = true;
    }
  }

  remove(part: Part): void {
    this.#hostPorts.remove(holderOf(part), part.rows);
    const { rows } = part;
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

  /** Whether the row is in the kernel for another part already. */
  isMade(kind: RowKind, key: string): boolean {
    return this.#of(kind).get(key)?.isMade ?? false;
  }

  /** What rows of this kind lie on was made anew. */
  noteLost(kind: RowKind): void {
    for (const there of this.#of(kind).values()) there.isMade = false;
  }

  /** The refusal when a host port of the part is that of another attachment. */
  hostPortConflict(part: Part): CniError | undefined {
    return this.#hostPorts.conflict(attachmentKey(part), part.rows);
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

function holderOf(part: Part): HostPortHolder {
  return { key: attachmentKey(part), containerId: part.containerId };
}
