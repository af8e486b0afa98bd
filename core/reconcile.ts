import { diff } from './diff.ts';
import type { Change, Failure, Layer, Plan } from './rows.ts';

/** What one pass did. A pass over an unchanged world has `writes: 0` and no failures. */
export interface Report {
  readonly writes: number;
  readonly failures: readonly (Failure & { readonly table: string })[];
}

/**
 * Makes the kernel what the plan says: reads every table, then makes rows in the order of the tables and
 * removes rows in the reverse order, so that nothing ever rests on a row that is not there.
 *
 * A failed row never stops the others; what depends on it fails in turn and is reported with it.
 * The result depends on the plan and on the tables, never on what was called before.
 */
export async function reconcile(plan: Plan): Promise<Report> {
  const changes = await Promise.all(plan.map(changesOf));
  return applyChanges(plan.map((layer, index) => ({ layer, changes: changes[index] ?? [] })));
}

async function changesOf({ table, wanted }: Layer<unknown, unknown>): Promise<Change<unknown, unknown>[]> {
  return diff(wanted, await table.read(), (a, b) => table.same(a, b));
}

interface LayerChanges {
  readonly layer: Pick<Layer<unknown, unknown>, 'table'>;
  readonly changes: readonly Change<unknown, unknown>[];
}

/** The second half of {@link reconcile}, for callers that know what is dirty and need no read-back. */
export async function applyChanges(layers: readonly LayerChanges[]): Promise<Report> {
  const failures: (Failure & { table: string })[] = [];
  let writes = 0;
  const write = async ({ layer, changes }: LayerChanges, deletes: boolean) => {
    const part = layer.table.atomic
      ? deletes
        ? []
        : changes
      : changes.filter((change) => (change.kind === 'delete') === deletes);
    if (part.length === 0) return;
    writes += part.length;
    for (const failure of await layer.table.write(part))
      failures.push({ ...failure, table: layer.table.name });
  };
  for (const layer of layers) await write(layer, false);
  for (const layer of layers.toReversed()) await write(layer, true);
  return { writes, failures };
}
