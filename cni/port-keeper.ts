import { setTimeout as sleep } from 'node:timers/promises';
import { reconcile } from '../core/reconcile.ts';
import type { Table } from '../core/rows.ts';
import type { AttachmentRow } from '../kernel/attachment.ts';
import { type PortState, PortsRead } from '../kernel/bridge-port-state.ts';
import { keptLayer } from './kept-layer.ts';
import type { Log } from './log.ts';
import type { KindRows, RowKind } from './part.ts';
import type { KernelTables } from './part-tables.ts';
import type { WantedRows } from './wanted.ts';

/**
 * How often the ports of bridges are looked at, which is one question for all of them. Notifications of the kernel would
 * come for every pod as well, and cost each of them more than all looks of its life.
 */
const pollMs = 1_000;
/** Limits, routes and ends without a bridge need several questions: no more often than this. */
const slowMs = 5_000;
/** A look that took long is not begun again before this many times as long. */
const restShare = 20;

export interface PortKeeperOptions {
  readonly tables: Pick<KernelTables, 'node' | 'socket'>;
  readonly wanted: WantedRows;
  readonly log: Log;
  /** Its number as far as it is known to stand; without one its ports are not looked at. */
  readonly indexOf: (bridge: string) => number | undefined;
}

/** Keeps the pods' ends on the host as they must be, with what lies on them, soon after somebody did something to them. */
export class PortKeeper {
  readonly #options: PortKeeperOptions;
  /** Nothing was wrong with these. */
  #sound: PortsRead | undefined;
  #slowAtMs = 0;
  /** Names of pairs that are not there. */
  readonly #gone = new Set<string>();
  readonly #troubles = new Map<RowKind, string>();

  constructor(options: PortKeeperOptions) {
    this.#options = options;
  }

  /** Until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    let restMs = pollMs;
    while (!signal.aborted) {
      await sleep(restMs, undefined, { signal }).catch(() => {});
      if (signal.aborted) return;
      const beginMs = performance.now();
      await this.#look().catch((error: Error) => {
        this.#options.log.error({ error: error.message }, 'ports of pods could not be compared');
      });
      restMs = Math.max(pollMs, (performance.now() - beginMs) * restShare);
    }
  }

  async #look(): Promise<void> {
    const { wanted } = this.#options;
    if (wanted.size('attachment') === 0) return;
    await this.#lookAtPorts();
    if (performance.now() < this.#slowAtMs) return;
    await this.#lookAtRest();
    this.#slowAtMs = performance.now() + slowMs;
  }

  async #lookAtPorts(): Promise<void> {
    const { tables } = this.#options;
    // Before the question: what is being made now need not be whole in the answer.
    const rows = this.#made('attachment');
    const read = await PortsRead.read(tables.socket);
    if (this.#sound?.equals(read)) return;
    const ports = read.ports();
    const unsound = [...rows].filter(([name, row]) => !this.#isSound(row, ports.get(name)));
    if (unsound.length > 0) await this.#repairPairs(new Map(unsound));
    const vlans = this.#made('vlans');
    if (vlans.size > 0) await this.#repair('vlans', tables.node.vlans, vlans);
    this.#sound = unsound.length === 0 ? read : undefined;
  }

  #isSound(row: AttachmentRow, port: PortState | undefined): boolean {
    const bridge = row.bridge === undefined ? undefined : this.#options.indexOf(row.bridge);
    // A bridge that does not stand has a keeper of its own.
    if (bridge === undefined) return true;
    if (port === undefined) return this.#gone.has(row.hostName);
    return (
      port.isUp &&
      port.masterIndex === bridge &&
      port.hairpin === (row.hairpin ?? false) &&
      port.isolated === (row.isolated ?? false) &&
      (row.mtuBytes === undefined || port.mtuBytes === row.mtuBytes)
    );
  }

  /** Those that are there: a pair may have gone with its pod, of which nobody has told us yet. */
  async #repairPairs(rows: ReadonlyMap<string, AttachmentRow>): Promise<void> {
    const { tables, wanted } = this.#options;
    const table = tables.node.attachment;
    const there = await table.read();
    for (const name of this.#gone)
      if (there.has(name) || !wanted.has('attachment', name)) this.#gone.delete(name);
    for (const name of rows.keys()) if (!there.has(name)) this.#gone.add(name);
    const made = this.#made('attachment');
    const left = new Map([...rows].filter(([name]) => there.has(name) && made.has(name)));
    if (left.size === 0) return;
    await this.#repair('attachment', asRead(table, there), left);
    // What was taken out of service meanwhile may have been put into it again.
    const lost = [...left].filter(([name]) => !wanted.has('attachment', name));
    if (lost.length > 0) await table.write(lost.map(([key, actual]) => ({ kind: 'delete', key, actual })));
  }

  async #lookAtRest(): Promise<void> {
    const { node } = this.#options.tables;
    const routed = new Map([...this.#made('attachment')].filter(([, { bridge }]) => bridge === undefined));
    if (routed.size > 0) await this.#repairPairs(routed);
    const [routes, qdiscs] = [this.#made('routes'), this.#made('qdiscs')];
    if (routes.size > 0) await this.#repair('routes', node.routes, routes);
    if (qdiscs.size > 0) await this.#repair('qdiscs', node.qdiscs, qdiscs);
  }

  async #repair<K extends RowKind>(
    kind: K,
    table: Table<string, KindRows[K]>,
    rows: ReadonlyMap<string, KindRows[K]>,
  ): Promise<void> {
    const { wanted, log } = this.#options;
    const { writes, failures } = await reconcile([keptLayer(table, rows)]);
    // What a pod had that has just gone is gone with it.
    const first = failures.find(({ key }) => wanted.has(kind, key as string));
    const error = first && `${first.table} ${first.key}: ${first.error.message}`;
    if (error !== undefined && error !== this.#troubles.get(kind))
      log.error({ error }, 'port of a pod not repaired');
    if (error === undefined) this.#troubles.delete(kind);
    else this.#troubles.set(kind, error);
    if (writes > failures.length) log.warn({ kind, writes }, 'ports of pods repaired');
  }

  /** Those whose ADD has made them. */
  #made<K extends RowKind>(kind: K): Map<string, KindRows[K]> {
    const { wanted } = this.#options;
    return new Map([...wanted.rows(kind)].filter(([key]) => wanted.isMade(kind, key)));
  }
}

/** Not read once more: a pair that goes meanwhile is not to be made. */
function asRead<V>(table: Table<string, V>, there: Map<string, V>): Table<string, V> {
  return {
    name: table.name,
    same: (wanted, actual) => table.same(wanted, actual),
    read: async () => there,
    write: (changes) => table.write(changes),
  };
}
