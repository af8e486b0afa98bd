import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import type { Protocol } from '../protocol.ts';
import type { ServicePortView } from '../view.ts';
import { MAX_LISTS, slotElement } from './elements.ts';
import type { Journal } from './journal.ts';
import { placeEndpoints } from './slots.ts';

/** The endpoints that new connections are spread over, each in a slot; never empty. */
export interface EndpointList {
  /** Which service port and protocol, and by which policy. */
  readonly name: string;
  readonly protocol: Protocol;
  readonly id: number;
  /** By slot: the endpoint as the map's data (`endpointData`). */
  readonly slots: readonly string[];
}

/** The name of the list of a service port's endpoints under the policy "Cluster". */
export function listName({ name, protocol }: Pick<ServicePortView, 'name' | 'protocol'>): string {
  return `${name} ${protocol}`;
}

/** A list as it was found in the kernel: keeping to it keeps the elements as they are. */
export interface KnownList {
  readonly id: number;
  readonly slots: readonly (string | undefined)[];
}

/** All endpoint lists of one family. An id belongs to a list for as long as the list lives. */
export class EndpointLists {
  /** Slots of all lists. */
  endpoints = 0;
  /** The most slots that any list ever had. */
  mostSlots = 0;
  readonly #lists = new Map<string, EndpointList>();
  /** Lists found in the kernel, by name, until they are put. */
  readonly #known: Map<string, KnownList>;
  readonly #journal: Journal;
  readonly #freeIds: number[] = [];
  readonly #knownIds: ReadonlySet<number>;
  #nextId = 1;

  constructor(journal: Journal, known: ReadonlyMap<string, KnownList>) {
    this.#journal = journal;
    this.#known = new Map(known);
    this.#knownIds = new Set(Array.from(known.values(), ({ id }) => id));
  }

  /** Makes the list hold exactly `endpoints`; undefined when no id is left for a new one. */
  put(name: string, protocol: Protocol, endpoints: readonly string[]): EndpointList | undefined {
    const before = this.#lists.get(name);
    const known = before ?? this.#takeKnown(name);
    const id = known?.id ?? this.#newId();
    if (id === undefined) return undefined;
    const after = { name, protocol, id, slots: placeEndpoints(known?.slots ?? [], endpoints) };
    this.#lists.set(name, after);
    this.#note(before, after);
    return after;
  }

  drop(list: EndpointList): void {
    this.#lists.delete(list.name);
    this.#freeIds.push(list.id);
    this.#note(list, undefined);
  }

  #takeKnown(name: string): KnownList | undefined {
    const known = this.#known.get(name);
    this.#known.delete(name);
    return known;
  }

  #newId(): number | undefined {
    const freed = this.#freeIds.pop();
    if (freed !== undefined) return freed;
    while (this.#knownIds.has(this.#nextId)) this.#nextId += 1;
    return this.#nextId > MAX_LISTS ? undefined : this.#nextId++;
  }

  #note(before: EndpointList | undefined, after: EndpointList | undefined): void {
    const [were, are] = [before?.slots.length ?? 0, after?.slots.length ?? 0];
    this.endpoints += are - were;
    this.mostSlots = Math.max(this.mostSlots, are);
    if (this.#journal.isClosed) return;
    for (let slot = 0; slot < Math.max(were, are); slot += 1) {
      const [left, came] = [before?.slots[slot], after?.slots[slot]];
      if (left !== came) this.#journal.replace(elementOf(before, slot, left), elementOf(after, slot, came));
    }
  }

  *elements(): Generator<NftElement> {
    for (const list of this.#lists.values()) {
      for (let slot = 0; slot < list.slots.length; slot += 1) {
        yield slotElement(list, slot, list.slots[slot] as string);
      }
    }
  }
}

function elementOf(
  list: EndpointList | undefined,
  slot: number,
  data: string | undefined,
): NftElement | undefined {
  return list && data !== undefined ? slotElement(list, slot, data) : undefined;
}
