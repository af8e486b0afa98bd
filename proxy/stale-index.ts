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
 */

type PortKind = Pick<ServicePortView, 'family' | 'protocol'>;

/** What of a frontend may have become stale since flows were last looked through. */
interface Suspect extends PortKind {
  readonly frontend: Frontend;
  /** Endpoints that do not serve any more: TCP flows to them are, and to no others. */
  readonly gone: Set<string>;
}

export type Suspects = ReadonlyMap<string, Suspect>;

type Serving = ReadonlySet<string>;

const noPorts: readonly ServicePortView[] = [];

/** Which endpoints serve behind which frontend, and which frontends changed. Pure. */
export class StaleIndex {
  readonly #protocols: ReadonlySet<Protocol>;
  readonly #portsOf = new Map<string, readonly ServicePortView[]>();
  /** By frontend, then by the port of a Service that has it. */
  readonly #owners = new Map<string, Map<string, Serving>>();
  #suspects = new Map<string, Suspect>();
  #nodePortIps: NodeFacts['nodePortIps'] = { 4: 'all', 6: 'all' };
  #serviceCidrs: readonly Cidr[] = [];

  /** With `resetTcp` flows of TCP are watched as well, as far as the views name the endpoints that serve. */
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
      const after = views.filter(({ protocol, servingEndpoints }) => {
        return servingEndpoints !== undefined && this.#protocols.has(protocol);
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
    const serving = servingOf(after);
    const gone = [...servingOf(before)].filter((endpoint) => !serving.has(endpoint));
    if (before !== undefined) this.#disown(before);
    for (const port of [before, after]) {
      for (const frontend of port?.frontends ?? []) {
        if (port !== undefined) this.#suspect(port, frontend, gone);
      }
    }
    if (after === undefined) return;
    for (const frontend of after.frontends) {
      const key = keyOf(after, frontend);
      const owners = this.#owners.get(key) ?? new Map<string, Serving>();
      this.#owners.set(key, owners.set(after.name, serving));
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
    const protocol = protocolOf(flow);
    if (protocol === undefined) return false;
    const { dst, dport = 0 } = flow.original;
    const port = { family: flow.family, protocol };
    const own = keyOf(port, { kind: 'clusterIP', ip: dst, port: dport });
    const onNode = keyOf(port, { kind: 'nodePort', port: dport });
    // An address of its own comes before the port of all the node's addresses.
    const isOwn = suspects.has(own) || this.#owners.has(own);
    const key = isOwn ? own : onNode;
    const suspect = suspects.get(key);
    if (suspect === undefined) return false;
    if (!isOwn && !isAmong(this.#nodePortIps[flow.family], dst)) return false;
    return this.#endsWrong(flow, suspect, this.#owners.get(key));
  }

  /**
   * Whether a UDP flow was sent on from a cluster IP that no Service has: that of one which went while nobody watched.
   * Only of use when all Services are known.
   */
  isOrphan(flow: Flow): boolean {
    const { family, original, status } = flow;
    const { dst, dport = 0 } = original;
    if (protocolOf(flow) !== 'udp' || (status & flowStatus.dnat) === 0) return false;
    if (!this.#serviceCidrs.some((cidr) => cidrContains(cidr, dst))) return false;
    const frontend = { kind: 'clusterIP', ip: dst, port: dport } as const;
    return !this.#owners.has(keyOf({ family, protocol: 'udp' }, frontend));
  }

  #endsWrong({ reply, status }: Flow, { protocol, gone }: Suspect, owners: Map<string, Serving> | undefined) {
    const end = `${reply.src} ${reply.sport}`;
    if (owners?.values().some((serving) => serving.has(end))) return false;
    const isTranslated = (status & flowStatus.dnat) !== 0;
    if (protocol === 'tcp') return isTranslated && gone.has(end);
    // Without a Service only what we translated was ours.
    return owners !== undefined || isTranslated;
  }
}

/** More filters than this are more work for the kernel than all flows of the protocol are for us. */
const FILTERS_MAX = 8;

/** To see every flow that can be an orphan. */
export function allUdpFlows(family: Family): FlowFilter {
  return { family, protocol: protocolNumbers.udp };
}

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

function servingOf(port: ServicePortView | undefined): Set<string> {
  return new Set(port?.servingEndpoints?.map(({ ip, port: number }) => `${ip} ${number}`));
}

function isSame(a: ServicePortView, b: ServicePortView): boolean {
  const frontends = (port: ServicePortView) => port.frontends.map((frontend) => keyOf(port, frontend)).sort();
  const serving = (port: ServicePortView) => [...servingOf(port)].sort();
  return `${frontends(a)};${serving(a)}` === `${frontends(b)};${serving(b)}`;
}
