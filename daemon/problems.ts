import type { Log } from '../cni/server.ts';

/** What is wrong at the moment, by where it comes from. Each problem is logged once when it begins and once when it ends. */
export class Problems<Source extends string> {
  readonly #log: Log;
  readonly #bySource = new Map<Source, readonly string[]>();
  readonly #sinceMs = new Map<Source, number>();
  #logged: ReadonlySet<string> = new Set();

  constructor(log: Log) {
    this.#log = log;
  }

  /** Replaces what this source had to complain about. */
  set(source: Source, problems: readonly string[]): void {
    this.#bySource.set(source, problems);
    if (problems.length === 0) this.#sinceMs.delete(source);
    else if (!this.#sinceMs.has(source)) this.#sinceMs.set(source, performance.now());
  }

  all(): string[] {
    return [...this.#bySource.values()].flat();
  }

  /** How long this source has had something to complain about; 0 when it has not. */
  lastingMs(source: Source): number {
    const sinceMs = this.#sinceMs.get(source);
    return sinceMs === undefined ? 0 : performance.now() - sinceMs;
  }

  log(): void {
    const now = new Set(this.all());
    for (const problem of now.difference(this.#logged)) this.#log.warn({ problem }, 'problem');
    for (const problem of this.#logged.difference(now)) this.#log.info({ problem }, 'problem is over');
    this.#logged = now;
  }
}
