/** Work with the same key runs one after the other, in the order in which it came; all else at the same time. */
export class KeyedQueue {
  readonly #tails = new Map<string, Promise<unknown>>();

  isBusy(key: string): boolean {
    return this.#tails.has(key);
  }

  /** Runs the work when all earlier work of the key has ended, however that ended. */
  async run<T>(key: string, work: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key);
    const own = before === undefined ? work() : before.then(work, work);
    this.#tails.set(key, own);
    try {
      return await own;
    } finally {
      if (this.#tails.get(key) === own) this.#tails.delete(key);
    }
  }
}
