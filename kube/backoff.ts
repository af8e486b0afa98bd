import { setTimeout as sleep } from 'node:timers/promises';

/** Waits that double from `firstMs` to `mostMs`, each shortened at random by up to a half. */
export class Backoff {
  readonly #firstMs: number;
  readonly #mostMs: number;
  #nextMs: number;

  constructor(firstMs = 100, mostMs = 5_000) {
    this.#firstMs = firstMs;
    this.#mostMs = mostMs;
    this.#nextMs = firstMs;
  }

  /** After a success. */
  reset(): void {
    this.#nextMs = this.#firstMs;
  }

  /** Rejects with the signal's reason when aborted. */
  async wait(signal: AbortSignal, atLeastMs = 0): Promise<void> {
    const jittered = this.#nextMs * (0.5 + Math.random() / 2);
    this.#nextMs = Math.min(this.#nextMs * 2, this.#mostMs);
    await sleep(Math.max(jittered, Math.min(atLeastMs, this.#mostMs)), undefined, { signal });
  }
}
