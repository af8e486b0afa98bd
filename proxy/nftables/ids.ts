import { MAX_IDS } from './elements.ts';

/** Numbers from 1 on, each given to one owner at a time. */
export class Ids {
  readonly #known: ReadonlySet<number>;
  readonly #free: number[] = [];
  #next = 1;

  /** `known` are given already. */
  constructor(known: ReadonlySet<number>) {
    this.#known = known;
  }

  /** Undefined when all are given. */
  take(): number | undefined {
    const freed = this.#free.pop();
    if (freed !== undefined) return freed;
    while (this.#known.has(this.#next)) this.#next += 1;
    return this.#next > MAX_IDS ? undefined : this.#next++;
  }

  giveBack(id: number): void {
    this.#free.push(id);
  }
}
