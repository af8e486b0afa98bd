import type { ElementPacker } from '../../kernel/netlink/nftables/element-packer.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import type { Protocol } from '../protocol.ts';
import { samePlace } from '../same-view.ts';
import type { ServicePortView } from '../view.ts';
import { affinityTimeout } from './affinity-timeouts.ts';
import {
  AFFINITY_KIND,
  endpointData,
  type ListKey,
  LOCAL_KIND,
  listElement,
  type Place,
  packSlot,
  slotElement,
  timeoutElement,
  tokenData,
  tokenElement,
} from './elements.ts';
import { Ids } from './ids.ts';
import type { Journal } from './journal.ts';
import { placeEndpoints } from './slots.ts';
import { firstToken, type Tokens, tokensFor } from './tokens.ts';

/** Endpoints of one policy, each in one or several slots. */
export interface SlotList {
  /** The endpoint of each slot. Empty: nobody gets connections by this policy. */
  readonly slots: readonly Place[];
  /** What stands for the number of slots in a frontend's value. */
  readonly code: number;
}

/** The slots that a list is to have. */
export interface WantedList extends SlotList {
  /** Each endpoint is wanted in its very slot. */
  readonly isTable: boolean;
}

export interface WantedPort {
  /** {@link portKey}. */
  readonly name: string;
  readonly protocol: Protocol;
  readonly cluster: WantedList;
  readonly local: WantedList;
  readonly affinitySeconds: number | undefined;
}

/** The endpoints of one service port, whatever its frontends. At least one of the lists has some. */
export interface PortLists {
  readonly name: string;
  readonly protocol: Protocol;
  readonly id: number;
  readonly cluster: SlotList;
  readonly local: SlotList;
  readonly affinitySeconds: number | undefined;
  /** Of endpoints in either list, by `endpointData`; empty without affinity. */
  readonly tokens: Tokens;
}

/** The name of a service port, under which its lists are kept. */
export function portKey({ name, protocol }: Pick<ServicePortView, 'name' | 'protocol'>): string {
  return `${name} ${protocol}`;
}

/** What was found in the kernel of a port: keeping to it keeps the elements as they are. */
export interface KnownPort {
  readonly id: number;
  readonly cluster: readonly (Place | undefined)[];
  readonly local: readonly (Place | undefined)[];
  readonly tokens: Tokens;
}

const noSlots: readonly Place[] = [];
const noList: SlotList = { slots: noSlots, code: 0 };
export const noTokens: Tokens = new Map();

/** The endpoint lists of all service ports of one family. An id belongs to a port for as long as it has endpoints. */
export class EndpointLists {
  /** Slots in `endpoints`. */
  endpoints = 0;
  /** The most slots that any list had whose slots are drawn by a random number. */
  mostSlots = 0;
  /** Clients of some port keep their endpoint, or did. */
  hasAffinity = false;
  readonly #ports = new Map<string, PortLists>();
  /** Ports found in the kernel, by name, until they are put; and those that went, while nobody else has their id. */
  readonly #known: Map<string, KnownPort>;
  /** Names of ports that went and whose clients are remembered, by id: they may come back for them. */
  readonly #resting = new Map<number, string>();
  readonly #journal: Journal;
  readonly #ids: Ids;

  constructor(journal: Journal, known: ReadonlyMap<string, KnownPort>) {
    this.#journal = journal;
    this.#known = new Map(known);
    this.#ids = new Ids(new Set(Array.from(known.values(), ({ id }) => id)));
  }

  /** Makes the port's lists hold exactly these endpoints; undefined when no id is left for a new one. */
  put(wanted: WantedPort): PortLists | undefined {
    const before = this.#ports.get(wanted.name);
    const known = before === undefined ? this.#takeKnown(wanted.name) : knownOf(before);
    const id = known?.id ?? this.#takeId();
    if (id === undefined) return undefined;
    const { name, protocol, affinitySeconds } = wanted;
    const cluster = place(known?.cluster ?? noSlots, wanted.cluster);
    const local = place(known?.local ?? noSlots, wanted.local);
    const tokens =
      affinitySeconds === undefined
        ? noTokens
        : tokensFor(
            known?.tokens ?? noTokens,
            new Set([...cluster.slots, ...local.slots].map(endpointData)),
            firstToken(name),
          );
    const after = { name, protocol, id, cluster, local, affinitySeconds, tokens };
    this.#ports.set(name, after);
    this.#note(before, after);
    return after;
  }

  drop(port: PortLists): void {
    this.#ports.delete(port.name);
    this.#ids.giveBack(port.id);
    if (port.affinitySeconds !== undefined) {
      this.#known.set(port.name, { id: port.id, cluster: noSlots, local: noSlots, tokens: port.tokens });
      this.#resting.set(port.id, port.name);
    }
    this.#note(port, undefined);
  }

  #takeKnown(name: string): KnownPort | undefined {
    const known = this.#known.get(name);
    this.#known.delete(name);
    if (known !== undefined && this.#resting.delete(known.id)) this.#ids.takeBack(known.id);
    return known;
  }

  /** Whoever had it before is forgotten. */
  #takeId(): number | undefined {
    const id = this.#ids.take();
    const name = id === undefined ? undefined : this.#resting.get(id);
    if (id === undefined || name === undefined) return id;
    this.#resting.delete(id);
    this.#known.delete(name);
    return id;
  }

  #note(before: PortLists | undefined, after: PortLists | undefined): void {
    this.endpoints += plainSlots(after) - plainSlots(before);
    if (after !== undefined) {
      this.mostSlots = Math.max(this.mostSlots, drawnSlots(after.cluster), drawnSlots(after.local));
      this.hasAffinity ||= after.affinitySeconds !== undefined;
    }
    if (this.#journal.isClosed) return;
    if (before?.affinitySeconds !== undefined || after?.affinitySeconds !== undefined) {
      this.#journal.exchange(before ? elementsOf(before) : [], after ? elementsOf(after) : []);
      return;
    }
    this.#noteSlots(before, after, false);
    this.#noteSlots(before, after, true);
  }

  /** Slot by slot: of a long list only the difference is looked at twice. */
  #noteSlots(before: PortLists | undefined, after: PortLists | undefined, local: boolean): void {
    const were = before === undefined ? noSlots : (local ? before.local : before.cluster).slots;
    const are = after === undefined ? noSlots : (local ? after.local : after.cluster).slots;
    for (let slot = 0; slot < Math.max(were.length, are.length); slot += 1) {
      const [left, came] = [were[slot], are[slot]];
      if (left !== undefined && came !== undefined && samePlace(left, came)) continue;
      this.#journal.replace(
        before && left && endpointElement(listKey(before, local), slot, left),
        after && came && endpointElement(listKey(after, local), slot, came),
      );
    }
  }

  *elements(): Generator<NftElement> {
    for (const port of this.#ports.values()) yield* elementsOf(port);
  }

  /** Packs the elements of a port into messages about `endpoints`, and returns those that belong to other maps. */
  pack(port: PortLists, packer: ElementPacker): Iterable<NftElement> {
    if (port.affinitySeconds !== undefined) return elementsOf(port);
    for (const local of [false, true]) {
      const { slots } = local ? port.local : port.cluster;
      const key = listKey(port, local);
      for (let slot = 0; slot < slots.length; slot += 1) packSlot(packer, key, slot, slots[slot] as Place);
    }
    return [];
  }
}

function listKey({ id, protocol }: Pick<PortLists, 'id' | 'protocol'>, local: boolean): ListKey {
  return { id, protocol, local };
}

function knownOf({ id, cluster, local, tokens }: PortLists): KnownPort {
  return { id, cluster: cluster.slots, local: local.slots, tokens };
}

function place(previous: readonly (Place | undefined)[], { slots, code, isTable }: WantedList): SlotList {
  if (slots.length === 0) return noList;
  return { slots: isTable ? slots : placeEndpoints(previous, slots, placeKey), code };
}

function plainSlots(port: PortLists | undefined): number {
  if (port === undefined || port.affinitySeconds !== undefined) return 0;
  return port.cluster.slots.length + port.local.slots.length;
}

/** 0 for tables, whose chains are always there. */
function drawnSlots({ slots, code }: SlotList): number {
  return slots.length === code ? code : 0;
}

function placeKey({ ip, port }: Place): string {
  return `${ip} ${port}`;
}

function endpointElement(key: ListKey, slot: number, endpoint: Place): NftElement {
  return slotElement('endpoints', key, slot, endpointData(endpoint));
}

function* elementsOf(port: PortLists): Generator<NftElement> {
  if (port.affinitySeconds !== undefined)
    yield timeoutElement(port.id, affinityTimeout(port.affinitySeconds));
  yield* listElements(port, port.cluster, listKey(port, false));
  yield* listElements(port, port.local, listKey(port, true));
}

function* listElements(port: PortLists, { slots, code }: SlotList, key: ListKey): Generator<NftElement> {
  if (port.affinitySeconds === undefined) {
    for (let slot = 0; slot < slots.length; slot += 1) yield endpointElement(key, slot, slots[slot] as Place);
    return;
  }
  if (slots.length === 0) return;
  const endpoints = slots.map(endpointData);
  const token = (endpoint: string) => port.tokens.get(endpoint) ?? 0;
  for (const endpoint of new Set(endpoints)) yield tokenElement(key, token(endpoint), endpoint);
  for (const [slot, endpoint] of endpoints.entries())
    yield slotElement('tokens', key, slot, tokenData(port.id, token(endpoint)));
  const kind = AFFINITY_KIND + (key.local ? LOCAL_KIND : 0);
  yield listElement(key, { id: port.id, kind, slots: code });
}
