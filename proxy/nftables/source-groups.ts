import { type Cidr, cidrContains } from '../../core/address.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import { sourceRangeElement } from './elements.ts';
import { Ids } from './ids.ts';
import type { Journal } from './journal.ts';

interface Group {
  readonly id: number;
  readonly cidrs: readonly Cidr[];
  services: number;
}

/** The name of a list of networks: the same for lists that let the same sources through. */
export function sourceGroupName(ranges: readonly Cidr[]): string {
  return outermost(ranges).sort().join(' ');
}

/** Lists of networks that may connect, each once, however many services have it. */
export class SourceGroups {
  readonly #groups = new Map<string, Group>();
  readonly #known: ReadonlyMap<string, number>;
  readonly #ids: Ids;
  readonly #journal: Journal;

  /** `known` are the numbers of groups in the kernel, by name. */
  constructor(journal: Journal, known: ReadonlyMap<string, number>) {
    this.#journal = journal;
    this.#known = known;
    this.#ids = new Ids(new Set(known.values()));
  }

  /** The number of the group, for one more service; undefined when none is left. */
  enter(name: string): number | undefined {
    const group = this.#groups.get(name) ?? this.#newGroup(name);
    if (group !== undefined) group.services += 1;
    return group?.id;
  }

  #newGroup(name: string): Group | undefined {
    const id = this.#known.get(name) ?? this.#ids.take();
    if (id === undefined) return undefined;
    const cidrs = name === '' ? [] : (name.split(' ') as Cidr[]);
    const group: Group = { id, cidrs, services: 0 };
    this.#groups.set(name, group);
    this.#journal.exchange([], elementsOf(group));
    return group;
  }

  /** One service less. */
  leave(name: string): void {
    const group = this.#groups.get(name);
    if (group === undefined) return;
    group.services -= 1;
    if (group.services > 0) return;
    this.#groups.delete(name);
    if (!this.#known.has(name)) this.#ids.giveBack(group.id);
    this.#journal.exchange(elementsOf(group), []);
  }

  *elements(): Generator<NftElement> {
    for (const group of this.#groups.values()) yield* elementsOf(group);
  }
}

function elementsOf({ id, cidrs }: Group): NftElement[] {
  return cidrs.map((cidr) => sourceRangeElement(id, cidr));
}

/** Without networks that lie in others: ranges of one set must not overlap. */
export function outermost(cidrs: readonly Cidr[]): Cidr[] {
  const unique = [...new Set(cidrs)];
  return unique.filter((cidr) => !unique.some((other) => other !== cidr && cidrContains(other, cidr)));
}
