import type { Report } from '../../core/reconcile.ts';
import type { Log } from '../log.ts';
import type { WantedRows } from '../wanted.ts';
import type { IptablesTable } from './table.ts';

/** Rules of iptables are read by running programs: no more often than this. */
const restMs = 5_000;

export interface IptablesKeeperOptions {
  readonly table: IptablesTable;
  readonly wanted: WantedRows;
  readonly log: Log;
}

/**
 * Keeps the rules of iptables that parts want. Those of its kind nf_tables change with the generation of nftables, of
 * which {@link note} tells. For the kind legacy nothing tells: its rules are compared every few seconds.
 */
export class IptablesKeeper {
  readonly #options: IptablesKeeperOptions;
  #isDue = true;
  #restUntilMs = 0;
  #trouble: string | undefined;

  constructor(options: IptablesKeeperOptions) {
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
    const { table, wanted } = this.#options;
    if (wanted.size('iptables') === 0) return;
    if (!this.#isDue && !table.isLegacy) return;
    if (performance.now() < this.#restUntilMs) return;
    this.#isDue = false;
    try {
      this.#tell(await table.repair(() => wanted.rows('iptables')));
    } catch (error) {
      this.#fail(error as Error);
    }
    this.#restUntilMs = performance.now() + restMs;
  }

  #tell({ writes, failures }: Report): void {
    const { log } = this.#options;
    this.#trouble = undefined;
    for (const { key, error } of failures) {
      log.error({ key, error: error.message }, 'iptables not repaired');
      this.#fail(error);
    }
    if (writes > failures.length) log.warn({ writes }, 'iptables repaired');
    // Which of the two kinds there is shows when there are rules.
    if (writes > 0) this.#isDue = true;
  }

  #fail(error: Error): void {
    this.#isDue = true;
    this.#trouble = error.message;
  }
}
