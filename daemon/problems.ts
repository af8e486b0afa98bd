import type { Log } from '../cni/server.ts';

/** What is wrong at the moment, by where it comes from. Each problem is logged once when it begins and once when it ends. */
export class Problems<Source extends string> {
  readonly #log: Log;
  readonly #bySource = new Map<Source, readonly string[]>();
  #logged: ReadonlySet<string> = new Set();

  constructor(log: Log) {
    this.#log = log;
  }

  /** Replaces what this source had to complain about. */
  set(source: Source, problems: readonly string[]): void {
    this.#bySource.set(source, problems);
  }

  all(): string[] {
    return [...this.#bySource.values()].flat();
  }

  log(): void {
    const now = new Set(this.all());
    for (const problem of now.difference(this.#logged)) this.#log.warn({ problem }, 'problem');
    for (const problem of this.#logged.difference(now)) this.#log.info({ problem }, 'problem is over');
    this.#logged = now;
  }
}
