import { MAX_IDS } from './elements.ts';

/**
 * Numbers from 1 on, each given to one owner at a time. What was given back rests as long as possible: packets under way,
 * and what the kernel remembers of clients, may still be about its last owner.
 */
export class Ids {
  readonly #known: ReadonlySet<number>;
  /** In the order in which they came back. */
  readonly #free = new Set<number>();
  readonly #first: number;
  #given = 0;

  /** `known` are given already. Behind them the numbers have rested longest, whatever another process gave. */
  constructor(known: ReadonlySet<number>) {
    this.#known = known;
    this.#first = known.values().reduce((most, id) => Math.max(most, id), 0) % MAX_IDS;
  }

  /** Undefined when all are given. */
  take(): number | undefined {
    while (this.#given < MAX_IDS) {
      const id = ((this.#first + this.#given) % MAX_IDS) + 1;
      this.#given += 1;
      if (!this.#known.has(id)) return id;
    }
    const [longest] = this.#free;
    if (longest !== undefined) this.#free.delete(longest);
    return longest;
  }

  /** This one, if nobody has got it since it was given back. */
  takeBack(id: number): boolean {
    return this.#free.delete(id);
  }

  giveBack(id: number): void {
    this.#free.add(id);
  }
}
