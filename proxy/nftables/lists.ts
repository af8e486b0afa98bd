import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import type { Endpoint } from '../endpoints.ts';
import type { Protocol } from '../protocol.ts';
import type { ServicePortView } from '../view.ts';
import { MAX_LISTS, slotElement } from './elements.ts';
import type { Journal } from './journal.ts';
import { type Place, placeEndpoints } from './slots.ts';

/** The endpoints that new connections are spread over, each in a slot; never empty. */
export interface EndpointList {
  /** Which service port and protocol, and by which policy. */
  readonly name: string;
  readonly protocol: Protocol;
  readonly id: number;
  readonly slots: readonly Endpoint[];
}

/** The name of the list of a service port's endpoints under the policy "Cluster". */
export function listName({ name, protocol }: ServicePortView): string {
  return `${name} ${protocol}`;
}

/** A list as it was found in the kernel, by name: keeping to it keeps the elements as they are. */
export type KnownLists = ReadonlyMap<string, { readonly id: number; readonly slots: readonly Place[] }>;

/** All endpoint lists of one family. An id belongs to a list for as long as the list lives. */
export class EndpointLists {
  readonly #lists = new Map<string, EndpointList>();
  readonly #known: Map<string, { readonly id: number; readonly slots: readonly Place[] }>;
  readonly #journal: Journal;
  readonly #freeIds: number[] = [];
  readonly #takenIds: Set<number>;
  #nextId = 1;
  /** Slots of all lists. */
  endpoints = 0;
  /** The most slots that any list ever had. */
  mostSlots = 0;

  constructor(journal: Journal, known: KnownLists = new Map()) {
    this.#journal = journal;
    this.#known = new Map(known);
    this.#takenIds = new Set(Array.from(known.values(), ({ id }) => id));
  }

  /** Makes the list hold exactly `endpoints`; undefined when no id is left for a new one. */
  put(name: string, protocol: Protocol, endpoints: readonly Endpoint[]): EndpointList | undefined {
    const before = this.#lists.get(name);
    const known = before ?? this.#takeKnown(name);
    const id = known?.id ?? this.#newId();
    if (id === undefined) return undefined;
    const after = { name, protocol, id, slots: placeEndpoints(known?.slots ?? [], endpoints) };
    this.#lists.set(name, after);
    this.#note(before, after);
    return after;
  }

  #takeKnown(name: string) {
    const known = this.#known.get(name);
    this.#known.delete(name);
    return known;
  }

  drop(list: EndpointList): void {
    this.#lists.delete(list.name);
    this.#freeIds.push(list.id);
    this.#note(list, undefined);
  }

  #newId(): number | undefined {
    const freed = this.#freeIds.pop();
    if (freed !== undefined) return freed;
    while (this.#takenIds.has(this.#nextId)) this.#nextId += 1;
    return this.#nextId > MAX_LISTS ? undefined : this.#nextId++;
  }

  #note(before: EndpointList | undefined, after: EndpointList | undefined): void {
    this.endpoints += (after?.slots.length ?? 0) - (before?.slots.length ?? 0);
    this.mostSlots = Math.max(this.mostSlots, after?.slots.length ?? 0);
    const length = Math.max(before?.slots.length ?? 0, after?.slots.length ?? 0);
    for (let slot = 0; slot < length; slot += 1) {
      const [left, came] = [before?.slots[slot], after?.slots[slot]];
      if (left?.ip === came?.ip && left?.port === came?.port) continue;
      this.#journal.replace(elementOf(before, slot, left), elementOf(after, slot, came));
    }
  }

  *elements(): Generator<NftElement> {
    for (const list of this.#lists.values()) {
      for (const [slot, endpoint] of list.slots.entries()) yield slotElement(list, slot, endpoint);
    }
  }
}

function elementOf(
  list: EndpointList | undefined,
  slot: number,
  endpoint: Endpoint | undefined,
): NftElement | undefined {
  return list && endpoint && slotElement(list, slot, endpoint);
}
