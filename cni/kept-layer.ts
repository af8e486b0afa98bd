import { layer, type Plan, type Table } from '../core/rows.ts';

/**
 * The rows are made again, or brought in line; what else is there stays: it may be of an ADD that has just begun, or be
 * somebody else's.
 */
export function keptLayer<V>(table: Table<string, V>, wanted: ReadonlyMap<string, V>): Plan[number] {
  const kept: Table<string, V> = {
    name: table.name,
    same: (one, other) => table.same(one, other),
    read: async () => new Map([...(await table.read())].filter(([key]) => wanted.has(key))),
    write: (changes) => table.write(changes),
  };
  return layer(kept, wanted);
}
