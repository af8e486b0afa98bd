import { diff } from '../core/diff.ts';
import { applyChanges, type Report } from '../core/reconcile.ts';
import type { Change, Plan } from '../core/rows.ts';

/**
 * Makes the kernel what the plan says, for those who know that it holds the rows of another plan: nothing is read, and
 * only what differs between the two is written. Undefined when the plans are not of the same tables.
 */
export async function advance(from: Plan, to: Plan): Promise<Report | undefined> {
  const isSame =
    from.length === to.length && from.every(({ table }, at) => table.name === to[at]?.table.name);
  if (!isSame) return undefined;
  return await applyChanges(
    to.map((layer, at) => {
      const { table, wanted } = layer;
      const before = from[at]?.wanted ?? new Map();
      const changes: Change<unknown, unknown>[] = diff(wanted, before, (a, b) => a === b || table.same(a, b));
      return { layer, changes };
    }),
  );
}
