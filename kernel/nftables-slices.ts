import { setImmediate as turn } from 'node:timers/promises';

/** Longer than this nothing that comes in waits for work done in slices. */
const SLICE_MS = 8;

/** Long work in slices: ask `isOver` after each step, and when it is, await `next`, so that others get their turn. */
export class Slices {
  #endsMs = performance.now() + SLICE_MS;

  get isOver(): boolean {
    return performance.now() >= this.#endsMs;
  }

  async next(): Promise<void> {
    await turn();
    this.#endsMs = performance.now() + SLICE_MS;
  }
}
