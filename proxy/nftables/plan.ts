import type { Family, Ip } from '../../core/address.ts';
import type { Change } from '../../core/rows.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import type { Views } from '../backend.ts';
import type { ServicePortView } from '../view.ts';
import { knownLists } from './adopt.ts';
import { endpointData, kinds, MAX_SLOTS } from './elements.ts';
import { type Claim, Frontends, frontendId } from './frontends.ts';
import { Hairpins } from './hairpins.ts';
import { Journal } from './journal.ts';
import { type EndpointList, EndpointLists, listName } from './lists.ts';

/*
 * A connection's first packet to 10.96.0.10:80, whose service has three endpoints. In prerouting (from a pod) or
 * output (from the node) `services` gives the value of 10.96.0.10 . tcp . 80, `7:1003`, which the packet carries in its
 * priority: list 7, kind 1, three slots. The kind leads to the chain that decides about masquerading, the number of
 * slots to the chain that draws one of three, and `endpoints` has the address under 7:0 . tcp . (what was drawn).
 * So whatever a service is, it is elements: one for each frontend, one for each endpoint.
 */

/** The elements that one service stands for. */
interface Entry {
  readonly lists: readonly EndpointList[];
  readonly claims: ReadonlyMap<string, Claim>;
  readonly localIps: ReadonlySet<Ip>;
}

const nothing: Entry = { lists: [], claims: new Map(), localIps: new Set() };

/** How much a plan holds, for which the layout must have room. */
export interface PlanSize {
  readonly frontends: number;
  readonly endpoints: number;
  /** The most slots of one list. */
  readonly slots: number;
}

/** The size of a plan of these views, without making it. */
export function planSize(views: Views, family: Family): PlanSize {
  const size = { frontends: 0, endpoints: 0, slots: 0 };
  for (const port of [...views.values()].flat()) {
    if (port.family !== family) continue;
    const slots = Math.min(port.clusterEndpoints.length, MAX_SLOTS);
    size.frontends += port.frontends.length;
    size.endpoints += slots;
    size.slots = Math.max(size.slots, slots);
  }
  return size;
}

/**
 * The wanted elements of one family, without any I/O: built from all views and what the kernel holds, then kept
 * current service by service. The same views and the same kernel give the same plan.
 */
export class FamilyPlan {
  readonly family: Family;
  /** What could not be planned as it should be, by service; gone when the service is well again. */
  readonly problems = new Map<string, string>();
  readonly #journal = new Journal();
  readonly #lists: EndpointLists;
  readonly #frontends = new Frontends(this.#journal);
  readonly #hairpins = new Hairpins(this.#journal);
  readonly #services = new Map<string, Entry>();

  constructor(family: Family, views: Views, actual: ReadonlyMap<string, NftElement> = new Map()) {
    this.family = family;
    const services = [...views].sort(([a], [b]) => (a < b ? -1 : 1));
    const ports = services.flatMap(([, its]) => its.filter((port) => port.family === family));
    this.#lists = new EndpointLists(this.#journal, knownLists(ports, actual));
    for (const [service, its] of services) this.put(service, its);
    this.#journal.isClosed = false;
  }

  /** This service is now these ports; without ports it is gone. */
  put(service: string, views: readonly ServicePortView[]): void {
    const before = this.#services.get(service) ?? nothing;
    this.problems.delete(service);
    const ports = views.filter((port) => port.family === this.family);
    const names = new Set(ports.filter(isServed).map(listName));
    for (const list of before.lists) if (!names.has(list.name)) this.#lists.drop(list);
    const after = this.#entryOf(service, ports);
    this.#claim(before, after);
    this.#hairpins.replace(before.localIps, after.localIps);
    if (ports.length === 0) this.#services.delete(service);
    else this.#services.set(service, after);
  }

  #entryOf(service: string, ports: readonly ServicePortView[]): Entry {
    const lists: EndpointList[] = [];
    const claims = new Map<string, Claim>();
    for (const port of ports) {
      const list = isServed(port) ? this.#listOf(service, port) : undefined;
      if (list !== undefined) lists.push(list);
      for (const claim of claimsOf(service, port, list)) claims.set(frontendId(claim), claim);
    }
    return { lists, claims, localIps: localIpsOf(ports) };
  }

  #listOf(service: string, port: ServicePortView): EndpointList | undefined {
    const count = port.clusterEndpoints.length;
    if (count > MAX_SLOTS) this.problems.set(service, `${count} endpoints: only ${MAX_SLOTS} are used`);
    const list = this.#lists.put(
      listName(port),
      port.protocol,
      port.clusterEndpoints.slice(0, MAX_SLOTS).map(endpointData),
    );
    if (list === undefined) this.problems.set(service, 'too many services: no endpoint list is left for it');
    return list;
  }

  #claim(before: Entry, after: Entry): void {
    for (const [id, claim] of before.claims) if (!after.claims.has(id)) this.#frontends.release(claim);
    for (const [id, claim] of after.claims) {
      const old = before.claims.get(id);
      if (old === undefined || !sameValue(old, claim)) this.#frontends.claim(claim);
    }
  }

  /** The changes to elements since the last call. */
  drain(): Change<string, NftElement>[] {
    return this.#journal.drain();
  }

  /** All wanted elements that come from services. */
  *elements(): Generator<NftElement> {
    yield* this.#lists.elements();
    yield* this.#frontends.elements();
    yield* this.#hairpins.elements();
  }

  size(): PlanSize {
    return {
      frontends: this.#frontends.size,
      endpoints: this.#lists.endpoints,
      slots: this.#lists.mostSlots,
    };
  }
}

function localIpsOf(ports: readonly ServicePortView[]): ReadonlySet<Ip> {
  const ips = new Set<Ip>();
  for (const { clusterEndpoints } of ports)
    for (const { ip, local } of clusterEndpoints) if (local) ips.add(ip);
  return ips.size === 0 ? nothing.localIps : ips;
}

function isServed(port: ServicePortView): boolean {
  return port.clusterEndpoints.length > 0;
}

function claimsOf(owner: string, port: ServicePortView, list: EndpointList | undefined): Claim[] {
  return port.frontends.map((frontend) => {
    const kind = frontend.kind === 'clusterIP' ? kinds['cluster-ip'] : kinds.external;
    const value = list && { id: list.id, kind, slots: list.slots.length };
    return { owner, frontend, protocol: port.protocol, value };
  });
}

function sameValue(a: Claim, b: Claim): boolean {
  if (a.frontend.kind !== b.frontend.kind) return false;
  return a.value?.id === b.value?.id && a.value?.kind === b.value?.kind && a.value?.slots === b.value?.slots;
}
