import type { StorageEvent } from './storage.ts';

const MOST_EVENTS = 8_192;
const MOST_CHARACTERS = 32 << 20;

/** The newest changes, shared by all watches, so that a live watch never reads the database. */
export class RecentEvents {
  /** Of consecutive revisions, oldest first. */
  #events: StorageEvent[] = [];
  /** How many at the front have been let go; they are cut off in bulk. */
  #dropped = 0;
  #characters = 0;

  push(event: StorageEvent): void {
    this.#events.push(event);
    this.#characters += sizeOf(event);
    while (this.#events.length - this.#dropped > MOST_EVENTS || this.#characters > MOST_CHARACTERS)
      this.#drop();
    if (this.#dropped > MOST_EVENTS) {
      this.#events = this.#events.slice(this.#dropped);
      this.#dropped = 0;
    }
  }

  /** All changes after `revision`; undefined when some of them are no longer here. */
  after(revision: number): readonly StorageEvent[] | undefined {
    const first = this.#events[this.#dropped]?.revision;
    if (first === undefined || revision + 1 < first) return undefined;
    return this.#events.slice(this.#dropped + revision + 1 - first);
  }

  #drop(): void {
    const event = this.#events[this.#dropped];
    if (event !== undefined) this.#characters -= sizeOf(event);
    this.#dropped += 1;
  }
}

function sizeOf(event: StorageEvent): number {
  return (event.value?.length ?? 0) + (event.previous?.value.length ?? 0);
}
