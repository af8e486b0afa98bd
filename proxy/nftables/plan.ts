import type { Family, Ip } from '../../core/address.ts';
import type { Change } from '../../core/rows.ts';
import type { ElementPacker, PackedElements } from '../../kernel/netlink/nftables/element-packer.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import { Slices } from '../../kernel/nftables-slices.ts';
import type { Views } from '../backend.ts';
import type { Endpoint, ServicePortView } from '../view.ts';
import { type KernelState, knownState } from './adopt.ts';
import { spreadOf } from './balancing.ts';
import { CountedElements } from './counted.ts';
import { clusterIpElement, hairpinElement, MAX_SLOTS } from './elements.ts';
import { type Claim, Frontends, frontendElements, frontendId } from './frontends.ts';
import { Journal } from './journal.ts';
import { EndpointLists, type PortLists, portKey, type WantedList } from './lists.ts';
import { SourceGroups, sourceGroupName } from './source-groups.ts';

/*
 * A connection's first packet to 10.96.0.10:80, whose service has three endpoints. In prerouting (from a pod) or
 * output (from the node) `services` gives the value of 10.96.0.10 . tcp . 80, `7:1003`, which the packet carries in its
 * priority: port 7, kind 1, three slots. The kind leads to the chain that decides about masquerading, the number of
 * slots to the chain that draws one of three, and `endpoints` has the address under 7:0 . tcp . (what was drawn).
 * So whatever a service is, it is elements: one for each frontend, one for each endpoint.
 *
 * Kinds lead other ways. `7:b003` (3 + local): from outside the port's second list, 7:8000, while for pods and the
 * node `services-inside` has another value. `7:5003` (1 + affinity): first `affinity` is asked for the client, then
 * `tokens` instead of `endpoints` is drawn from, and what was drawn remembered. `9:0` (guarded): `source-ranges` must
 * have 9:0 . the client's address, then `guarded-services` has the value.
 */

/** The elements that one service stands for. */
interface Entry {
  readonly lists: readonly PortLists[];
  /** Of each frontend one. */
  readonly claims: readonly Claim[];
  readonly localIps: readonly Ip[];
  readonly clusterIps: readonly Ip[];
  readonly groups: readonly string[];
}

const noIps: readonly Ip[] = [];
const nothing: Entry = { lists: [], claims: [], localIps: noIps, clusterIps: noIps, groups: [] };

/** How much a plan holds, for which the layout must have room. */
export interface PlanSize {
  readonly frontends: number;
  readonly endpoints: number;
  /** The most slots of one list. */
  readonly slots: number;
  /** Clients keep their endpoints somewhere. */
  readonly affinity: boolean;
}

/** The size of a plan of these views, without making it. */
export function planSize(views: Views, family: Family): PlanSize {
  let [frontends, endpoints, slots, affinity] = [0, 0, 0, false];
  for (const ports of views.values()) {
    for (const port of ports) {
      if (port.family !== family) continue;
      frontends += port.frontends.length;
      if (port.affinitySeconds !== undefined) affinity = true;
      for (const list of [port.clusterEndpoints, port.localEndpoints]) {
        if (list.length === 0) continue;
        const spread = spreadOf(withinSlots(list), port.balancing);
        if (port.affinitySeconds === undefined) endpoints += spread.slots.length;
        if (!spread.isTable) slots = Math.max(slots, spread.slots.length);
      }
    }
  }
  return { frontends, endpoints, slots, affinity };
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
  readonly #groups: SourceGroups;
  readonly #frontends = new Frontends(this.#journal);
  readonly #hairpins = new CountedElements<Ip>(this.#journal, hairpinElement);
  readonly #clusterIps = new CountedElements<Ip>(this.#journal, clusterIpElement);
  readonly #services = new Map<string, Entry>();

  private constructor(family: Family, known: KernelState) {
    this.family = family;
    this.#lists = new EndpointLists(this.#journal, known.ports);
    this.#groups = new SourceGroups(this.#journal, known.groups);
  }

  static of(family: Family, views: Views, actual: ReadonlyMap<string, NftElement> = new Map()): FamilyPlan {
    return Slices.runAtOnce(FamilyPlan.#build(family, views, actual));
  }

  /** The same, in slices. */
  static inSlices(
    family: Family,
    views: Views,
    actual: ReadonlyMap<string, NftElement>,
  ): Promise<FamilyPlan> {
    return new Slices().run(FamilyPlan.#build(family, views, actual));
  }

  static *#build(
    family: Family,
    views: Views,
    actual: ReadonlyMap<string, NftElement>,
  ): Generator<void, FamilyPlan> {
    const services = inOrder(views);
    const ports = services.flatMap((service) => portsOf(views.get(service) ?? [], family));
    const plan = new FamilyPlan(family, yield* knownState(ports, actual));
    for (const service of services) {
      plan.put(service, views.get(service) ?? []);
      yield;
    }
    plan.#journal.isClosed = false;
    return plan;
  }

  /**
   * Puts all services into a plan that has none, and yields the wanted elements of services as they become known; those
   * of `endpoints`, which are most, from the packer.
   */
  *fill(views: Views, packer: ElementPacker): Generator<NftElement | PackedElements> {
    this.#journal.isClosed = true;
    for (const service of inOrder(views)) {
      this.put(service, views.get(service) ?? []);
      for (const list of this.#services.get(service)?.lists ?? []) yield* this.#lists.pack(list, packer);
      yield* packer.takeFull();
    }
    this.#journal.isClosed = false;
    yield* packer.takeAll();
    yield* this.#groups.elements();
    yield* this.#frontends.elements();
    yield* this.#hairpins.elements();
    yield* this.#clusterIps.elements();
  }

  /** This service is now these ports; without ports it is gone. */
  put(service: string, views: readonly ServicePortView[]): void {
    const before = this.#services.get(service) ?? nothing;
    this.problems.delete(service);
    const ports = portsOf(views, this.family);
    if (ports.length === 0 && before === nothing) return;
    if (before.lists.length > 0) this.#dropLists(before.lists, ports);
    const after = this.#entryOf(service, ports);
    this.#claim(before, after);
    for (const name of before.groups) this.#groups.leave(name);
    this.#hairpins.replace(before.localIps, after.localIps);
    this.#clusterIps.replace(before.clusterIps, after.clusterIps);
    if (ports.length === 0) this.#services.delete(service);
    else this.#services.set(service, after);
  }

  /** Those of ports that are not served any more. */
  #dropLists(lists: readonly PortLists[], ports: readonly ServicePortView[]): void {
    const names = new Set(ports.filter(isServed).map(portKey));
    for (const list of lists) if (!names.has(list.name)) this.#lists.drop(list);
  }

  #entryOf(service: string, ports: readonly ServicePortView[]): Entry {
    // Exactly as long as they are: what is pushed to has room for more, ten thousand times.
    let lists: readonly PortLists[] = [];
    const claims = new Map<string, Claim>();
    const groups: string[] = [];
    for (const port of ports) {
      const its = isServed(port) ? this.#listsOf(service, port) : undefined;
      if (its !== undefined) lists = [...lists, its];
      const group = this.#groupOf(service, port, groups);
      for (const frontend of port.frontends) {
        const guard = frontend.kind === 'loadBalancerIP' ? group : undefined;
        const id = frontendId(frontend, port.protocol);
        const elements = frontendElements(port, frontend, its, guard);
        // An address of the load balancer that is an external one as well is guarded.
        if (guard !== undefined || !claims.has(id)) claims.set(id, { owner: service, id, elements });
      }
    }
    return {
      lists,
      claims: [...claims.values()],
      localIps: localIpsOf(ports),
      clusterIps: clusterIpsOf(ports),
      groups,
    };
  }

  #listsOf(service: string, port: ServicePortView): PortLists | undefined {
    const problems: string[] = [];
    const lists = this.#lists.put({
      name: portKey(port),
      protocol: port.protocol,
      cluster: wantedList(port.clusterEndpoints, port, problems),
      local: wantedList(port.localEndpoints, port, problems),
      affinitySeconds: port.affinitySeconds,
    });
    if (lists === undefined) problems.push('too many services: no endpoint list is left for it');
    const [problem] = problems;
    if (problem !== undefined) this.problems.set(service, problem);
    return lists;
  }

  /** The number of the port's source ranges, whose name joins `groups`. */
  #groupOf(service: string, port: ServicePortView, groups: string[]): number | undefined {
    const isGuarded = port.frontends.some(({ kind }) => kind === 'loadBalancerIP');
    if (!isGuarded || port.sourceRanges === undefined) return undefined;
    const name = sourceGroupName(port.sourceRanges);
    const group = this.#groups.enter(name);
    if (group === undefined) {
      this.problems.set(service, 'too many lists of source ranges: nobody can connect to its load balancer');
      return 0;
    }
    groups.push(name);
    return group;
  }

  #claim(before: Entry, after: Entry): void {
    if (before.claims.length === 0) {
      for (const claim of after.claims) this.#frontends.claim(claim);
      return;
    }
    const ids = new Set(after.claims.map(({ id }) => id));
    for (const claim of before.claims) if (!ids.has(claim.id)) this.#frontends.release(claim);
    const were = new Map(before.claims.map((claim) => [claim.id, claim]));
    for (const claim of after.claims) {
      const old = were.get(claim.id);
      if (old === undefined || !sameElements(old, claim)) this.#frontends.claim(claim);
    }
  }

  /** The changes to elements since the last call. */
  drain(): Change<string, NftElement>[] {
    return this.#journal.drain();
  }

  /** All wanted elements that come from services; endpoints before the frontends that lead to them. */
  *elements(): Generator<NftElement> {
    yield* this.#lists.elements();
    yield* this.#groups.elements();
    yield* this.#frontends.elements();
    yield* this.#hairpins.elements();
    yield* this.#clusterIps.elements();
  }

  /** Some element of each kind that services have, if there are any. */
  samples(): NftElement[] {
    const some = [this.#lists, this.#frontends, this.#clusterIps, this.#hairpins];
    return some.flatMap((each) => each.elements().take(1).toArray());
  }

  size(): PlanSize {
    return {
      frontends: Math.max(this.#frontends.size, this.#clusterIps.size),
      endpoints: this.#lists.endpoints,
      slots: this.#lists.mostSlots,
      affinity: this.#lists.hasAffinity,
    };
  }
}

/** The services' names. */
function inOrder(views: Views): string[] {
  return [...views.keys()].sort();
}

function portsOf(ports: readonly ServicePortView[], family: Family): readonly ServicePortView[] {
  return ports.every((port) => port.family === family)
    ? ports
    : ports.filter((port) => port.family === family);
}

function wantedList(
  endpoints: readonly Endpoint[],
  { balancing }: ServicePortView,
  problems: string[],
): WantedList {
  if (endpoints.length === 0) return { slots: [], code: 0, isTable: false };
  if (endpoints.length > MAX_SLOTS)
    problems.push(`${endpoints.length} endpoints: only ${MAX_SLOTS} are used`);
  return spreadOf(withinSlots(endpoints), balancing);
}

function withinSlots(endpoints: readonly Endpoint[]): readonly Endpoint[] {
  return endpoints.length > MAX_SLOTS ? endpoints.slice(0, MAX_SLOTS) : endpoints;
}

function localIpsOf(ports: readonly ServicePortView[]): readonly Ip[] {
  let ips: Set<Ip> | undefined;
  for (const { clusterEndpoints, localEndpoints } of ports) {
    for (const list of [clusterEndpoints, localEndpoints]) {
      for (const { ip, local } of list) if (local) ips = (ips ?? new Set()).add(ip);
    }
  }
  return ips === undefined ? noIps : [...ips];
}

function clusterIpsOf(ports: readonly ServicePortView[]): readonly Ip[] {
  const ips = new Set<Ip>();
  for (const { frontends } of ports) {
    for (const frontend of frontends) if (frontend.kind === 'clusterIP') ips.add(frontend.ip);
  }
  return [...ips];
}

function isServed(port: ServicePortView): boolean {
  return port.clusterEndpoints.length > 0 || port.localEndpoints.length > 0;
}

function sameElements({ elements: a }: Claim, { elements: b }: Claim): boolean {
  if (a.length !== b.length) return false;
  return a.every((element, index) => {
    const other = b[index] as NftElement;
    return element.data === other.data && element.key === other.key && element.set === other.set;
  });
}
