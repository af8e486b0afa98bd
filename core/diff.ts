import type { Change } from './rows.ts';

/** Rows wanted minus rows there. The order is that of `wanted`, then of what is no longer wanted. */
export function diff<K, V>(
  wanted: ReadonlyMap<K, V>,
  actual: ReadonlyMap<K, V>,
  same: (wanted: V, actual: V) => boolean,
): Change<K, V>[] {
  const changes: Change<K, V>[] = [];
  for (const [key, row] of wanted) {
    const there = actual.get(key);
    if (there === undefined) changes.push({ kind: 'create', key, wanted: row });
    else if (!same(row, there)) changes.push({ kind: 'update', key, wanted: row, actual: there });
  }
  for (const [key, row] of actual) {
    if (!wanted.has(key)) changes.push({ kind: 'delete', key, actual: row });
  }
  return changes;
}
