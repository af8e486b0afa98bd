import { setTimeout as sleep } from 'node:timers/promises';
import { reconcile } from '../core/reconcile.ts';
import { layer } from '../core/rows.ts';
import { attachmentKey } from './attachment.ts';
import type { ElementTable } from './element-table.ts';
import { keptLayer } from './kept-layer.ts';
import type { LeaseBook } from './leases.ts';
import type { Log } from './log.ts';
import { type Part, rowKinds } from './part.ts';
import type { KernelTables } from './part-tables.ts';
import { ProgramKeeper } from './program-keeper.ts';
import type { WantedRows } from './wanted.ts';

/** How often nftables is asked whether somebody else was at it; it takes 2 µs. */
const pollMs = 400;
/** Parameters of the kernel tell nobody when they change: some of them are looked at this often. */
const sysctlRestMs = 2_000;
const sysctlsAtOnce = 16;
/** A repair that took long is not begun again before this many times as long. */
const restShare = 20;

export interface RowKeeperOptions {
  readonly tables: KernelTables;
  readonly leases: LeaseBook;
  readonly wanted: WantedRows;
  readonly log: Log;
  /** False: pairs that are there and not recorded may be those of another agent. */
  readonly isOwn: boolean;
}

/** Keeps the rows of all parts in the kernel: makes those again that somebody took away, removes those of no part. */
export class RowKeeper {
  readonly #options: RowKeeperOptions;
  #restUntilMs = 0;
  #sysctlsAtMs = 0;
  /** Where among the parameters the next look begins. */
  #sysctlsFrom = 0;
  readonly #troubles = new Map<string, string>();

  readonly #iptables: ProgramKeeper<'iptables'>;
  readonly #firewalld: ProgramKeeper<'firewalld'>;

  constructor(options: RowKeeperOptions) {
    this.#options = options;
    const { iptables, firewalld } = options.tables.node;
    this.#iptables = new ProgramKeeper({ ...options, kind: 'iptables', table: iptables });
    this.#firewalld = new ProgramKeeper({ ...options, kind: 'firewalld', table: firewalld });
  }

  /**
   * Brings the kernel and the leases of an earlier daemon in line. Call it before anything else is written.
   * `makeBridges`: those of the leases that are left, which may be gone.
   */
  async restore(makeBridges: () => Promise<void>): Promise<void> {
    const { tables, leases, wanted, log, isOwn } = this.#options;
    const pairs = await tables.node.attachment.read();
    for (const part of [...leases.values()]) {
      const row = part.rows.attachment;
      const there = row === undefined ? undefined : pairs.get(row.hostName);
      if (row !== undefined && (there === undefined || there.isQuiesced === true)) {
        this.#drop(leases.get(attachmentKey(part)));
      }
    }
    for (const part of leases.values()) wanted.add(part);
    if (!isOwn && leases.size === 0) return;
    await makeBridges();
    const names = wanted.rows('attachment');
    // A pair that is there is brought in line on this side; nothing changes inside the container.
    const kept = new Map([...names].filter(([name]) => pairs.has(name)));
    const { node } = tables;
    await this.#repairElements();
    const layerOf: typeof keptLayer = isOwn ? layer : keptLayer;
    const { writes, failures } = await reconcile([
      layerOf(node.attachment, kept),
      layerOf(node.vlans, wanted.rows('vlans')),
      layerOf(node.ports, wanted.rows('ports')),
      layerOf(node.routes, wanted.rows('routes')),
      layerOf(node.qdiscs, wanted.rows('qdiscs')),
      layer(node.sysctls, wanted.rows('sysctls')),
    ]);
    for (const { table, key, error } of failures)
      log.error({ table, key, error: error.message }, 'row not brought in line');
    if (writes > 0) log.warn({ writes }, 'rows of pods brought in line');
    for (const part of leases.values()) wanted.noteMade(part);
    if (failures.some(({ table }) => table === node.sysctls.name)) wanted.noteLost('sysctls');
    await this.#iptables.look();
    await tables.flush();
  }

  /** Whoever made them ended in the middle, or the pod is gone. */
  #drop(parts: readonly Part[]): void {
    const { leases, log } = this.#options;
    for (const part of parts.toReversed()) {
      log.warn({ attachment: attachmentKey(part), type: part.type }, 'lease without an interface released');
      leases.strip(part);
    }
  }

  /** What is wanted and could not be made again. */
  trouble(): string | undefined {
    const [first] = this.#troubles.values();
    return first ?? this.#iptables.trouble() ?? this.#firewalld.trouble();
  }

  /** Until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    // It may take its time, for which nothing else waits.
    let asked: Promise<void> | undefined;
    while (!signal.aborted) {
      await sleep(pollMs, undefined, { signal }).catch(() => {});
      if (signal.aborted) break;
      asked ??= this.#firewalld.look().finally(() => {
        asked = undefined;
      });
      await this.#lookAround().catch((error: Error) => {
        this.#options.log.error({ error: error.message }, 'rows of pods could not be compared');
      });
    }
    await asked;
  }

  async #lookAround(): Promise<void> {
    if (!this.#isIdle()) await this.#look();
    await this.#iptables.look();
    await this.#repairSysctls();
  }

  /** A bridge was made again: its ports are none any more, and have lost what goes with that. */
  async onBridge(): Promise<void> {
    const { tables, wanted, log } = this.#options;
    const { node } = tables;
    const rows = wanted.rows('attachment');
    const there = await node.attachment.read();
    const { writes, failures } = await reconcile([
      keptLayer(node.attachment, new Map([...rows].filter(([name]) => there.has(name)))),
      keptLayer(node.vlans, wanted.rows('vlans')),
      keptLayer(node.ports, wanted.rows('ports')),
      layer(node.sysctls, wanted.rows('sysctls')),
    ]);
    for (const { table, key, error } of failures)
      log.error({ table, key, error: error.message }, 'row on a bridge not made again');
    if (writes > failures.length) log.warn({ writes }, 'rows on a bridge made again');
  }

  #isIdle(): boolean {
    const { wanted } = this.#options;
    return rowKinds.every((kind) => !isFilter(kind) || wanted.size(kind) === 0);
  }

  async #look(): Promise<void> {
    const nowMs = performance.now();
    if (nowMs < this.#restUntilMs) return;
    if (this.#troubles.size === 0 && !(await this.#options.tables.foreign.any())) return;
    await this.#repairElements();
    this.#iptables.note();
    this.#firewalld.note();
    this.#restUntilMs = performance.now() + (performance.now() - nowMs) * restShare;
  }

  async #repairElements(): Promise<void> {
    const { node, foreign } = this.#options.tables;
    // Before: what changes while the tables are read is looked at the next time.
    await foreign.mark();
    await this.#repair(node.bridgeElements, 'bridgeElements');
    await this.#repair(node.elements, 'elements');
  }

  async #repair(table: ElementTable, kind: 'elements' | 'bridgeElements'): Promise<void> {
    const { wanted, log } = this.#options;
    const { writes, failures } = await table.repair(() => wanted.rows(kind));
    for (const { key, error } of failures)
      log.error({ table: table.name, key, error: error.message }, 'packet filter not repaired');
    if (writes > 0) log.warn({ table: table.name, writes }, 'packet filter repaired');
    const [failure] = failures;
    if (failure === undefined) this.#troubles.delete(kind);
    else this.#troubles.set(kind, `packet filter ${table.name}: ${failure.error.message}`);
  }

  async #repairSysctls(): Promise<void> {
    const { tables, wanted, log } = this.#options;
    if (wanted.size('sysctls') === 0 || performance.now() < this.#sysctlsAtMs) return;
    this.#sysctlsAtMs = performance.now() + sysctlRestMs;
    const rows = [...wanted.rows('sysctls')];
    if (this.#sysctlsFrom >= rows.length) this.#sysctlsFrom = 0;
    const some = new Map(rows.slice(this.#sysctlsFrom, this.#sysctlsFrom + sysctlsAtOnce));
    this.#sysctlsFrom += sysctlsAtOnce;
    const { writes, failures } = await reconcile([layer(tables.sysctls([...some.keys()]), some)]);
    // A pod that has just gone has taken its parameters along.
    const unmet = failures.filter(({ key }) => wanted.has('sysctls', key as string));
    for (const { key, error } of unmet) log.error({ key, error: error.message }, 'parameter not repaired');
    if (writes > failures.length) log.warn({ writes }, 'parameters of the kernel repaired');
  }
}

function isFilter(kind: (typeof rowKinds)[number]): boolean {
  return kind === 'elements' || kind === 'bridgeElements' || kind === 'iptables' || kind === 'firewalld';
}
