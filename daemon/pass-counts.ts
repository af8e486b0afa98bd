import type { Dirt, Outcome } from './loop.ts';

/** The cluster did not change, so rows that are written for these reasons were lost or changed by somebody else. */
const driftReasons: ReadonlySet<Dirt> = new Set(['kernel', 'nftables', 'timer']);

/** What the passes over the kernel's tables did, since start. */
export class PassCounts {
  passes = 0;
  writes = 0;
  /** Rows written that had been in place before. */
  repaired = 0;
  /** Whether the last pass left every row in the kernel, those of refused peers aside. */
  inLine = false;
  /** How long the last one took. */
  lastMs = 0;
  #beginMs = performance.now();
  #endMs = performance.now();

  begin(): void {
    this.passes += 1;
    this.#beginMs = performance.now();
  }

  /** `outcome`: undefined when it threw. */
  end(outcome: Outcome | undefined): void {
    this.#endMs = performance.now();
    this.lastMs = this.#endMs - this.#beginMs;
    if (outcome !== 'partial') this.inLine = outcome === 'done' || outcome === 'mostly';
  }

  wrote(writes: number, because: ReadonlySet<Dirt>): void {
    this.writes += writes;
    if (this.inLine && because.isSubsetOf(driftReasons)) this.repaired += writes;
  }

  /** Since a pass ended, or since start. */
  idleMs(): number {
    return performance.now() - this.#endMs;
  }
}
