/** Why something may not be as it should be. */
export type Dirt = 'start' | 'config' | 'leases' | 'kernel' | 'nftables' | 'timer' | 'retry';

/**
 * How a pass ended: all is done; all but rows of single peers, to be tried again after a while; try all again after a
 * while; only a part was looked at.
 */
export type Outcome = 'done' | 'mostly' | 'again' | 'partial';

export interface LoopOptions {
  readonly work: (dirt: ReadonlySet<Dirt>) => Promise<Outcome>;
  /** What `work` threw; the loop goes on. */
  readonly onError: (error: unknown) => void;
  /** A whole pass takes place at least this often. */
  readonly resyncMs: number;
  /** Wait before the second try; doubles up to the most. */
  readonly retryMs: number;
  readonly retryMostMs: number;
}

/**
 * One worker, and everybody else only says what is dirty. What becomes dirty during a pass makes another one;
 * what becomes dirty together makes one.
 */
export class Loop {
  readonly #options: LoopOptions;
  #dirt = new Set<Dirt>();
  #dueMs = Number.POSITIVE_INFINITY;
  /** The next whole pass, if nothing becomes dirty before. */
  #later: { readonly dirt: Dirt; readonly dueMs: number };
  #retryMs: number;
  #timer: NodeJS.Timeout | undefined;
  #wake: (() => void) | undefined;

  constructor(options: LoopOptions) {
    this.#options = options;
    this.#retryMs = options.retryMs;
    this.#later = { dirt: 'start', dueMs: performance.now() };
  }

  /** Asks for a pass within `withinMs`, together with what else becomes dirty until then. */
  kick(dirt: Dirt, withinMs: number): void {
    this.#dirt.add(dirt);
    this.#dueMs = Math.min(this.#dueMs, performance.now() + withinMs);
    this.#arm();
  }

  /** Works until the signal aborts; a pass that has begun is ended first. Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    const stop = () => this.#wake?.();
    signal.addEventListener('abort', stop);
    while (!signal.aborted) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        this.#arm();
      });
      this.#wake = undefined;
      if (!signal.aborted) await this.#pass();
    }
    clearTimeout(this.#timer);
    signal.removeEventListener('abort', stop);
  }

  /** While a pass runs there is nobody to wake. */
  #arm(): void {
    clearTimeout(this.#timer);
    if (this.#wake === undefined) return;
    const inMs = Math.min(this.#dueMs, this.#later.dueMs) - performance.now();
    this.#timer = setTimeout(this.#wake, Math.max(0, inMs));
  }

  async #pass(): Promise<void> {
    const dirt = this.#dirt;
    if (dirt.size === 0 || performance.now() >= this.#later.dueMs) dirt.add(this.#later.dirt);
    this.#dirt = new Set();
    this.#dueMs = Number.POSITIVE_INFINITY;
    let outcome: Outcome = 'again';
    try {
      outcome = await this.#options.work(dirt);
    } catch (error) {
      this.#options.onError(error);
    }
    this.#plan(outcome);
  }

  #plan(outcome: Outcome): void {
    const { retryMs, retryMostMs, resyncMs } = this.#options;
    if (outcome === 'partial') return;
    const now = performance.now();
    if (outcome === 'done') {
      this.#later = { dirt: 'timer', dueMs: now + resyncMs };
      this.#retryMs = retryMs;
    } else {
      this.#later = { dirt: 'retry', dueMs: now + this.#retryMs };
      this.#retryMs = Math.min(2 * this.#retryMs, retryMostMs);
    }
  }
}
