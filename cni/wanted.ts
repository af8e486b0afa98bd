import type { NftElement } from '../kernel/netlink/nftables/spec.ts';
import type { CniError } from './error.ts';
import { attachmentKey, type KindRows, type Part, type RowKind, rowKinds, rowsOf } from './part.ts';
import { type HostPortHolder, HostPortHolders } from './types/hostport.ts';

interface Wanted {
  row: unknown;
  /** Parts that want it. */
  count: number;
  /** Whether one of them has been made. */
  isMade: boolean;
  /** Rows of the same key that lead elsewhere, in the order in which they take over. */
  later: unknown[] | undefined;
}

/** The rows that all parts together want, by kind: what the kernel is compared with. */
export class WantedRows {
  readonly #kinds = new Map<RowKind, Map<string, Wanted>>(rowKinds.map((kind) => [kind, new Map()]));

  readonly #hostPorts = new HostPortHolders();

  add(part: Part): void {
    this.#hostPorts.add(holderOf(part), part.rows);
    for (const [wanted, key, row] of this.#entries(part.rows)) {
      const there = wanted.get(key);
      if (there === undefined) wanted.set(key, { row, count: 1, isMade: false, later: undefined });
      else if (leadsElsewhere(there.row, row)) there.later = [...(there.later ?? []), row];
      else {
        there.row = row;
        there.count += 1;
      }
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
    for (const [wanted, key, row] of this.#entries(rows)) {
      const there = wanted.get(key);
      if (there !== undefined && !take(there, row)) wanted.delete(key);
    }
  }

  /** The row of this key that is to be in the kernel: of several that lead to different places the first. */
  current<K extends RowKind>(kind: K, key: string): KindRows[K] | undefined {
    return this.#of(kind).get(key)?.row as KindRows[K] | undefined;
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

  /** The refusal when a host port of the part is that of another container. */
  hostPortConflict(part: Part): CniError | undefined {
    return this.#hostPorts.conflict(part.containerId, part.rows, attachmentKey(part));
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

/** Of equal keys, as two networks of one container have them for its host ports, or for one address. */
export function leadsElsewhere(one: unknown, other: unknown): boolean {
  const [a, b] = [(one as Partial<NftElement>).data, (other as Partial<NftElement>).data];
  return a !== b && typeof a === 'string' && typeof b === 'string';
}

/** One part less wants the row; false when nobody wants any of this key. */
function take(there: Wanted, row: unknown): boolean {
  const { later = [] } = there;
  if (leadsElsewhere(there.row, row)) {
    const at = later.findIndex((one) => !leadsElsewhere(one, row));
    there.later = later.filter((_, index) => index !== at);
    return true;
  }
  there.count -= 1;
  if (there.count > 0) return true;
  const [next, ...rest] = later;
  if (next === undefined) return false;
  Object.assign(there, { row: next, count: 1, later: rest });
  return true;
}
