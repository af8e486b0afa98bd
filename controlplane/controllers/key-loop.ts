const FIRST_RETRY_MS = 100;
const MOST_RETRY_MS = 5_000;

export interface KeyLoopOptions {
  readonly signal: AbortSignal;
  /** Makes what one key stands for as it should be. Runs for one key at a time. */
  readonly work: (key: string) => Promise<void>;
  /** A key whose work failed is tried again by itself. */
  readonly onError: (key: string, error: Error) => void;
}

/** Works off dirty keys. A key that is marked while it is worked on is worked on again. */
export class KeyLoop {
  readonly #options: KeyLoopOptions;
  readonly #dirty = new Set<string>();
  readonly #failures = new Map<string, number>();
  readonly #retries = new Set<NodeJS.Timeout>();
  #running: Promise<void> | undefined;
  #isOpen = false;

  constructor(options: KeyLoopOptions) {
    this.#options = options;
  }

  mark(key: string): void {
    if (this.#options.signal.aborted) return;
    this.#dirty.add(key);
    if (this.#isOpen) this.#running ??= this.#run().finally(() => this.#stopped());
  }

  /** Nothing is done before this: call it when all that the work reads is there. */
  open(): void {
    this.#isOpen = true;
    for (const key of this.#dirty) this.mark(key);
  }

  /** Fulfilled when nothing is being worked on; after an abort, nothing will be any more. */
  async idle(): Promise<void> {
    if (this.#options.signal.aborted) for (const timer of this.#retries) clearTimeout(timer);
    await this.#running;
  }

  #stopped(): void {
    this.#running = undefined;
    const [key] = this.#dirty;
    if (key !== undefined) this.mark(key);
  }

  async #run(): Promise<void> {
    const { signal, work, onError } = this.#options;
    for (const key of this.#dirty) {
      if (signal.aborted) return;
      this.#dirty.delete(key);
      try {
        await work(key);
        this.#failures.delete(key);
      } catch (error) {
        if (signal.aborted) return;
        onError(key, error as Error);
        this.#retryLater(key);
      }
    }
  }

  #retryLater(key: string): void {
    const failures = this.#failures.get(key) ?? 0;
    this.#failures.set(key, failures + 1);
    const delayMs = Math.min(FIRST_RETRY_MS * 2 ** failures, MOST_RETRY_MS);
    const timer = setTimeout(() => {
      this.#retries.delete(timer);
      this.mark(key);
    }, delayMs);
    this.#retries.add(timer);
  }
}
