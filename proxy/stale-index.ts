import { type Cidr, cidrContains, type Family, families, type Ip } from '../core/address.ts';
import { type Flow, type FlowFilter, flowStatus } from '../kernel/conntrack.ts';
import type { Views } from './backend.ts';
import type { NodeFacts, NodePortIps } from './policy.ts';
import { type Protocol, protocolNumbers } from './protocol.ts';
import type { Frontend, ServicePortView } from './view.ts';

/*
 * The kernel sends the packets of a flow where it sent the first: a rule that has changed since does not count. With
 * UDP a flow can be without end. So after a change the flows that went to its frontends and do not end at an endpoint
 * of theirs are forgotten, and each one's next packet is looked at as the first. That includes flows from before there
 * was a rule, which end at the frontend itself, in a black hole.
 *
 * Frontends are what a flow is found by, not Services: one that two Services share ends rightly at either's endpoints,
 * and one that is gone with its Service has no endpoints at all.
 *
 * Connections of TCP know their end, so they are only ended when nobody is there to end them: to an endpoint that no
 * slice of a Service names any more. A Service that goes takes its slices with it and not its pods: it ends nothing.
 */

type PortKind = Pick<ServicePortView, 'family' | 'protocol'>;

/** What of a frontend may have become stale since flows were last looked through. */
interface Suspect extends PortKind {
  readonly frontend: Frontend;
  /** Endpoints that were there and are not: TCP flows to them are stale, and to no others. */
  readonly gone: Set<string>;
}

export type Suspects = ReadonlyMap<string, Suspect>;

/** Where flows may end: address and port. */
type Ends = ReadonlySet<string>;

const noPorts: readonly ServicePortView[] = [];

/** Which endpoints serve behind which frontend, and which frontends changed. Pure. */
export class StaleIndex {
  readonly #protocols: ReadonlySet<Protocol>;
  readonly #portsOf = new Map<string, readonly ServicePortView[]>();
  /** By frontend, then by the port of a Service that has it. */
  readonly #owners = new Map<string, Map<string, Ends>>();
  #suspects = new Map<string, Suspect>();
  #nodePortIps: NodeFacts['nodePortIps'] = { 4: 'all', 6: 'all' };
  #serviceCidrs: readonly Cidr[] = [];

  /** With `resetTcp` flows of TCP are watched as well, as far as the views name the endpoints that are there. */
  constructor({ resetTcp = false }: { readonly resetTcp?: boolean } = {}) {
    this.#protocols = new Set(resetTcp ? ['udp', 'tcp'] : ['udp']);
  }

  /**
   * Where node ports are open: elsewhere a flow with such a port is somebody else's. One that began before its address
   * was among these may be in a black hole.
   */
  setNode({ nodePortIps: ips, serviceCidrs }: NodeFacts): void {
    const isSameAs = (family: Family) => String(ips[family]) === String(this.#nodePortIps[family]);
    const changed = families.filter((family) => !isSameAs(family));
    this.#nodePortIps = ips;
    this.#serviceCidrs = serviceCidrs;
    for (const port of [...this.#portsOf.values()].flat()) {
      if (!changed.includes(port.family)) continue;
      for (const frontend of port.frontends)
        if (frontend.kind === 'nodePort') this.#suspect(port, frontend, []);
    }
  }

  /** These services are not as they were; those that are gone have no ports. */
  update(changed: Views): void {
    for (const [service, views] of changed) {
      const before = this.#portsOf.get(service) ?? noPorts;
      const after = views.filter(({ protocol, flowEndpoints }) => {
        return flowEndpoints !== undefined && this.#protocols.has(protocol);
      });
      // Most Services have no port whose flows can be stale.
      if (before.length === 0 && after.length === 0) continue;
      if (after.length === 0) this.#portsOf.delete(service);
      else this.#portsOf.set(service, after);
      this.#replace(before, after);
    }
  }

  #replace(before: readonly ServicePortView[], after: readonly ServicePortView[]): void {
    const remaining = new Map(after.map((port) => [portKey(port), port]));
    for (const port of before) {
      const next = remaining.get(portKey(port));
      remaining.delete(portKey(port));
      if (next === undefined || !isSame(port, next)) this.#change(port, next);
    }
    for (const port of remaining.values()) this.#change(undefined, port);
  }

  #change(before: ServicePortView | undefined, after: ServicePortView | undefined): void {
    const ends = endsOf(after);
    const gone = after === undefined ? [] : [...endsOf(before)].filter((endpoint) => !ends.has(endpoint));
    if (before !== undefined) this.#disown(before);
    for (const port of [before, after]) {
      for (const frontend of port?.frontends ?? []) {
        if (port !== undefined) this.#suspect(port, frontend, gone);
      }
    }
    if (after === undefined) return;
    for (const frontend of after.frontends) {
      const key = keyOf(after, frontend);
      const owners = this.#owners.get(key) ?? new Map<string, Ends>();
      this.#owners.set(key, owners.set(after.name, ends));
    }
  }

  #disown(port: ServicePortView): void {
    for (const frontend of port.frontends) {
      const key = keyOf(port, frontend);
      const owners = this.#owners.get(key);
      owners?.delete(port.name);
      if (owners?.size === 0) this.#owners.delete(key);
    }
  }

  #suspect({ family, protocol }: PortKind, frontend: Frontend, gone: readonly string[]): void {
    const key = keyOf({ family, protocol }, frontend);
    const suspect = this.#suspects.get(key) ?? { family, protocol, frontend, gone: new Set() };
    this.#suspects.set(key, suspect);
    for (const endpoint of gone) suspect.gone.add(endpoint);
  }

  get hasSuspects(): boolean {
    return this.#suspects.size > 0;
  }

  /** The frontends that changed since the last call. */
  take(): Suspects {
    const suspects = this.#suspects;
    this.#suspects = new Map();
    return suspects;
  }

  /** What was taken and could not be seen to. */
  giveBack(suspects: Suspects): void {
    for (const { gone, frontend, ...port } of suspects.values()) this.#suspect(port, frontend, [...gone]);
  }

  /** Whether a flow of one of these frontends ends where no connection of theirs should. */
  isStale(flow: Flow, suspects: Suspects): boolean {
    const suspect = suspects.get(this.#frontendOf(flow, suspects) ?? '');
    if (suspect === undefined) return false;
    const owners = this.#owners.get(keyOf(suspect, suspect.frontend));
    if (endsAtOne(flow, owners)) return false;
    if (suspect.protocol === 'tcp') return isTranslated(flow) && suspect.gone.has(endOf(flow));
    // Without a Service only what we translated was ours.
    return owners !== undefined || isTranslated(flow);
  }

  /** The frontend that a flow went to: an address of its own comes before the port of all the node's addresses. */
  #frontendOf(flow: Flow, suspects: Suspects): string | undefined {
    const protocol = protocolOf(flow);
    if (protocol === undefined) return undefined;
    const { dst, dport = 0 } = flow.original;
    const port = { family: flow.family, protocol };
    const own = keyOf(port, { kind: 'clusterIP', ip: dst, port: dport });
    if (suspects.has(own) || this.#owners.has(own)) return own;
    const isOnNode = isAmong(this.#nodePortIps[flow.family], dst);
    return isOnNode ? keyOf(port, { kind: 'nodePort', port: dport }) : undefined;
  }

  /**
   * Whether a flow is left over from a time when nobody watched: one of UDP that was sent on from a cluster IP that no
   * Service has, or one of TCP to an endpoint that a Service does not have any more. Only of use when all Services and
   * slices are known.
   */
  isLeftOver(flow: Flow): boolean {
    const protocol = protocolOf(flow);
    if (protocol === undefined || !this.#protocols.has(protocol) || !isTranslated(flow)) return false;
    if (protocol === 'udp') return this.#isOrphan(flow);
    const owners = this.#owners.get(this.#frontendOf(flow, new Map()) ?? '');
    return owners !== undefined && !endsAtOne(flow, owners);
  }

  #isOrphan({ family, original: { dst, dport = 0 } }: Flow): boolean {
    if (!this.#serviceCidrs.some((cidr) => cidrContains(cidr, dst))) return false;
    const frontend = { kind: 'clusterIP', ip: dst, port: dport } as const;
    return !this.#owners.has(keyOf({ family, protocol: 'udp' }, frontend));
  }

  /** To see every flow that can be left over. */
  leftOverFilters(family: Family): FlowFilter[] {
    return [...this.#protocols].map((name) => ({ family, protocol: protocolNumbers[name] }));
  }
}

function endOf({ reply }: Flow): string {
  return `${reply.src} ${reply.sport}`;
}

function endsAtOne(flow: Flow, owners: ReadonlyMap<string, Ends> | undefined): boolean {
  return owners?.values().some((ends) => ends.has(endOf(flow))) ?? false;
}

function isTranslated({ status }: Flow): boolean {
  return (status & flowStatus.dnat) !== 0;
}

/** More filters than this are more work for the kernel than all flows of the protocol are for us. */
const FILTERS_MAX = 8;

/** What to ask the kernel for to see all flows that may be stale; of one family. */
export function planFlowFilters(family: Family, suspects: Suspects): FlowFilter[] {
  const its = [...suspects.values()].filter((suspect) => suspect.family === family);
  return (['udp', 'tcp'] as const).flatMap((name) => {
    const protocol = protocolNumbers[name];
    const narrow = its
      .filter((suspect) => suspect.protocol === name && (name === 'udp' || suspect.gone.size > 0))
      .map(({ frontend }) => ({ family, protocol, original: destinationOf(frontend) }));
    return narrow.length > FILTERS_MAX ? [{ family, protocol }] : narrow;
  });
}

function destinationOf(frontend: Frontend) {
  return frontend.kind === 'nodePort' ? { dport: frontend.port } : { dst: frontend.ip, dport: frontend.port };
}

function protocolOf(flow: Flow): Protocol | undefined {
  if (flow.protocol === protocolNumbers.udp) return 'udp';
  return flow.protocol === protocolNumbers.tcp ? 'tcp' : undefined;
}

function isAmong(ips: NodePortIps, ip: Ip): boolean {
  return ips === 'all' || ips.includes(ip);
}

function portKey({ name, family, protocol }: ServicePortView): string {
  return `${family} ${protocol} ${name}`;
}

/** The kinds with an address are all the same to a packet. */
function keyOf({ family, protocol }: PortKind, frontend: Frontend): string {
  return `${family} ${protocol} ${frontend.kind === 'nodePort' ? '' : frontend.ip} ${frontend.port}`;
}

function endsOf(port: ServicePortView | undefined): Set<string> {
  return new Set(port?.flowEndpoints?.map(({ ip, port: number }) => `${ip} ${number}`));
}

function isSame(a: ServicePortView, b: ServicePortView): boolean {
  const frontends = (port: ServicePortView) => port.frontends.map((frontend) => keyOf(port, frontend)).sort();
  const ends = (port: ServicePortView) => [...endsOf(port)].sort();
  return `${frontends(a)};${ends(a)}` === `${frontends(b)};${ends(b)}`;
}
