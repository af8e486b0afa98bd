import { applyChanges, reconcile } from '../core/reconcile.ts';
import { type Change, layer, type Table } from '../core/rows.ts';
import { type Frame, interleave } from './frame.ts';

export const description = 'the engine alone: the cost of a pass and of one change, in memory';

/** A table in memory: what is left of a pass when the kernel costs nothing. */
class MemoryTable implements Table<string, number> {
  readonly name = 'memory';
  readonly rows: Map<string, number>;

  constructor(rows: ReadonlyMap<string, number>) {
    this.rows = new Map(rows);
  }

  same(wanted: number, actual: number): boolean {
    return wanted === actual;
  }

  async read(): Promise<Map<string, number>> {
    return this.rows;
  }

  async write(changes: readonly Change<string, number>[]): Promise<[]> {
    for (const change of changes) {
      if (change.kind === 'delete') this.rows.delete(change.key);
      else this.rows.set(change.key, change.wanted);
    }
    return [];
  }
}

export async function run(frame: Frame): Promise<void> {
  const count = frame.quick ? 1_000 : 100_000;
  const wanted = new Map(Array.from({ length: count }, (_, index) => [`row ${index}`, index]));
  const table = new MemoryTable(wanted);
  let value = 0;
  const changeOne = () => {
    const change = { kind: 'update', key: 'row 0', wanted: ++value, actual: value - 1 } as const;
    return applyChanges([{ layer: layer(table, wanted), changes: [change] }]);
  };
  const { full, one, first } = await interleave(frame.quick ? 3 : 15, {
    full: async () => void (await reconcile([layer(table, wanted)])),
    one: async () => void (await changeOne()),
    first: async () => void (await reconcile([layer(new MemoryTable(new Map()), wanted)])),
  });
  const rows = count.toLocaleString('en');
  frame.samples(`first pass, ${rows} rows to make`, first);
  frame.samples(`pass over ${rows} rows, nothing to do`, full, { target: { atMost: 100 } });
  frame.samples(`one dirty row of ${rows}`, one, { target: { atMost: 1 } });
  frame.ratio('full pass / one dirty row', full, one, { target: { atLeast: 2 } });
}
