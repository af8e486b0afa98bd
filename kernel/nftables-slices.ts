import { setImmediate as turn } from 'node:timers/promises';

/** Longer than this nothing that comes in waits for work done in slices. */
const SLICE_MS = 8;
/** Of small steps so many are done between looks at the clock. */
const STEPS = 64;

/** Long work in slices: ask `isOver` after each step, and when it is, await `next`, so that others get their turn. */
export class Slices {
  #steps = 0;
  #endsMs = performance.now() + SLICE_MS;

  get isOver(): boolean {
    return performance.now() >= this.#endsMs;
  }

  /** The same after steps of some microseconds, for which the clock is too slow. */
  isOverAfterStep(): boolean {
    this.#steps += 1;
    return this.#steps % STEPS === 0 && this.isOver;
  }

  async next(): Promise<void> {
    await turn();
    this.#endsMs = performance.now() + SLICE_MS;
  }

  /** Runs small steps to their end. */
  async run<T>(steps: Generator<unknown, T>): Promise<T> {
    for (;;) {
      const { done, value } = steps.next();
      if (done) return value;
      if (this.isOverAfterStep()) await this.next();
    }
  }

  /** The same at once. */
  static runAtOnce<T>(steps: Generator<unknown, T>): T {
    for (;;) {
      const { done, value } = steps.next();
      if (done) return value;
    }
  }
}
