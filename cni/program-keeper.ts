import type { Report } from '../core/reconcile.ts';
import type { Log } from './log.ts';
import type { KindRows, RowKind } from './part.ts';
import type { WantedRows } from './wanted.ts';

/** Rows are read by asking programs: no more often than this. */
const restMs = 5_000;

/** Rows that a program of the host makes for us. */
export interface ProgramTable<K extends RowKind> {
  readonly name: string;
  /** Whether they may change, or are to be changed, without a change of the generation of nftables. */
  readonly isUnheard: boolean;
  /** Whether rows may be there that nobody wants. */
  readonly hasOwn: boolean;
  /** As reconcile; what is wanted is asked when the rows were read. */
  repair(wanted: () => ReadonlyMap<string, KindRows[K]>): Promise<Report>;
}

export interface ProgramKeeperOptions<K extends RowKind> {
  readonly kind: K;
  readonly table: ProgramTable<K>;
  readonly wanted: WantedRows;
  readonly log: Log;
}

/**
 * Keeps the rows of iptables, or of firewalld, that parts want. Most changes of them change the generation of nftables,
 * of which {@link note} tells. Of others, as those of iptables' kind legacy, nothing tells: then the rows are compared
 * every few seconds.
 */
export class ProgramKeeper<K extends RowKind> {
  readonly #options: ProgramKeeperOptions<K>;
  #isDue = true;
  #restUntilMs = 0;
  #trouble: string | undefined;

  constructor(options: ProgramKeeperOptions<K>) {
    this.#options = options;
  }

  /** Somebody was at nftables. What comes while we rest is looked at afterwards. */
  note(): void {
    this.#isDue = true;
  }

  /** What is wanted and could not be made again. */
  trouble(): string | undefined {
    return this.#trouble;
  }

  /** Compares if there is something to compare for, and not too often. */
  async look(): Promise<void> {
    const { kind, table, wanted } = this.#options;
    if (wanted.size(kind) === 0 && !table.hasOwn) {
      this.#trouble = undefined;
      return;
    }
    if (!this.#isDue && !table.isUnheard) return;
    if (performance.now() < this.#restUntilMs) return;
    this.#isDue = false;
    try {
      this.#tell(await table.repair(() => wanted.rows(kind)));
    } catch (error) {
      this.#fail(error as Error);
    }
    this.#restUntilMs = performance.now() + restMs;
  }

  #tell({ writes, failures }: Report): void {
    const { log, table } = this.#options;
    this.#trouble = undefined;
    for (const { key, error } of failures) {
      log.error({ key, error: error.message }, `${table.name} not repaired`);
      this.#fail(error);
    }
    if (writes > failures.length) log.warn({ writes }, `${table.name} repaired`);
    // Which of the two kinds of iptables there is shows when there are rules.
    if (writes > 0) this.#isDue = true;
  }

  #fail(error: Error): void {
    this.#isDue = true;
    this.#trouble = error.message;
  }
}
