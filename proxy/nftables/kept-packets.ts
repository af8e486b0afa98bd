import type { ElementPackets } from '../../kernel/nftables-packets.ts';
import { Slices } from '../../kernel/nftables-slices.ts';

/*
 * The kernel counts on an element, and an element with a new value is a new one, at zero. Here is what all elements
 * under one key have counted together, one after the other.
 */

interface Entry {
  /** By elements that are gone. */
  kept: number;
  /** By the one that is there, when it was last looked at. */
  seen: number;
  isWanted: boolean;
}

/** Sums of packets by the row's key. They never go down. */
export class KeptPackets {
  readonly #entries = new Map<string, Entry>();
  /** Elements that were taken away while somebody reads: what is read of them is old, or counted already. */
  #replaced: Set<string> | undefined;

  /** Elements were taken away, and had counted this. */
  takenAway(packets: ElementPackets): void {
    for (const [key, count] of packets) {
      const entry = this.#entry(key);
      entry.kept += Math.max(count, entry.seen);
      entry.seen = 0;
      this.#replaced?.add(key);
    }
  }

  /** Takes in what elements have counted by now, in slices. One reading at a time. */
  async take(read: () => Promise<ElementPackets>): Promise<void> {
    const replaced = new Set<string>();
    this.#replaced = replaced;
    try {
      const packets = await read();
      const slices = new Slices();
      await slices.next();
      for (const [key, count] of packets) {
        if (!replaced.has(key)) this.#see(key, count);
        if (slices.isOverAfterStep()) await slices.next();
      }
    } finally {
      this.#replaced = undefined;
    }
  }

  /** Fewer than before: somebody else has made the element anew. */
  #see(key: string, count: number): void {
    const entry = this.#entry(key);
    if (count < entry.seen) entry.kept += entry.seen;
    entry.seen = count;
  }

  #entry(key: string): Entry {
    const entry = this.#entries.get(key) ?? { kept: 0, seen: 0, isWanted: true };
    this.#entries.set(key, entry);
    return entry;
  }

  /** As of the last reading. */
  sum(key: string): number {
    const entry = this.#entries.get(key);
    if (entry === undefined) return 0;
    entry.isWanted = true;
    return entry.kept + entry.seen;
  }

  /** Forgets what nobody has asked for since this was last called. */
  forgetUnwanted(): void {
    for (const [key, entry] of this.#entries) {
      if (!entry.isWanted) this.#entries.delete(key);
      entry.isWanted = false;
    }
  }
}
