import type { Ip } from '../../core/address.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import { hairpinElement } from './elements.ts';
import type { Journal } from './journal.ts';

/** Endpoints of this node that may reach themselves through a service; counted, because services share them. */
export class Hairpins {
  readonly #services = new Map<Ip, number>();
  readonly #journal: Journal;

  constructor(journal: Journal) {
    this.#journal = journal;
  }

  /** Exchanges what one service has for what it has now. */
  replace(before: ReadonlySet<Ip>, after: ReadonlySet<Ip>): void {
    for (const ip of after) if (!before.has(ip)) this.#add(ip);
    for (const ip of before) if (!after.has(ip)) this.#remove(ip);
  }

  #add(ip: Ip): void {
    const count = this.#services.get(ip) ?? 0;
    this.#services.set(ip, count + 1);
    if (count === 0) this.#journal.replace(undefined, hairpinElement(ip));
  }

  #remove(ip: Ip): void {
    const count = this.#services.get(ip) ?? 0;
    if (count > 1) {
      this.#services.set(ip, count - 1);
      return;
    }
    this.#services.delete(ip);
    this.#journal.replace(hairpinElement(ip), undefined);
  }

  *elements(): Generator<NftElement> {
    for (const ip of this.#services.keys()) yield hairpinElement(ip);
  }
}
