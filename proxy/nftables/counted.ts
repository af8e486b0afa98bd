import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import type { Journal } from './journal.ts';

/** Elements that several services want, each for itself: one is there as long as anybody wants it. */
export class CountedElements<Key> {
  readonly #services = new Map<Key, number>();
  readonly #journal: Journal;
  readonly #elementOf: (key: Key) => NftElement;

  constructor(journal: Journal, elementOf: (key: Key) => NftElement) {
    this.#journal = journal;
    this.#elementOf = elementOf;
  }

  /** Exchanges what one service wants for what it wants now, each once. */
  replace(before: readonly Key[], after: readonly Key[]): void {
    for (const key of after) if (!before.includes(key)) this.#add(key);
    for (const key of before) if (!after.includes(key)) this.#remove(key);
  }

  #add(key: Key): void {
    const count = this.#services.get(key) ?? 0;
    this.#services.set(key, count + 1);
    if (count === 0 && !this.#journal.isClosed) this.#journal.replace(undefined, this.#elementOf(key));
  }

  #remove(key: Key): void {
    const count = this.#services.get(key) ?? 0;
    if (count > 1) {
      this.#services.set(key, count - 1);
      return;
    }
    this.#services.delete(key);
    this.#journal.replace(this.#elementOf(key), undefined);
  }

  get size(): number {
    return this.#services.size;
  }

  *elements(): Generator<NftElement> {
    for (const key of this.#services.keys()) yield this.#elementOf(key);
  }
}
