import { cidrContains, familyOf, type Ip } from '../core/address.ts';
import type { Views } from './backend.ts';
import { ruleContext } from './iptables/context.ts';
import { isForNodePorts } from './ipvs/plan.ts';
import type { ProxyPolicy } from './policy.ts';
import type { TraceFacts, TracePacket, TraceVerdict } from './trace.ts';
import { isLoopback } from './trace-source.ts';
import type { Frontend, ServicePortView } from './view.ts';

/** The frontend that a packet is for, and whose it is. */
export interface FoundFrontend {
  readonly service: string;
  readonly port: ServicePortView;
  readonly frontend: Frontend;
  /** Whether a source may connect; undefined: all may. */
  readonly ranges: ((source: Ip) => boolean) | undefined;
}

/** What becomes of a packet that is for no frontend, and why. */
export interface Missed {
  readonly verdict: Exclude<TraceVerdict, 'balanced'>;
  readonly reason: string;
}

/** Addresses come before node ports, as in the rules. */
export function findFrontend(
  views: Views,
  policy: ProxyPolicy,
  facts: TraceFacts,
  packet: TracePacket,
): FoundFrontend | undefined {
  const fitting = [...frontendsFor(views, packet)];
  const isTo = ({ frontend }: FoundFrontend) =>
    frontend.kind !== 'nodePort' && frontend.ip === packet.destination;
  const byAddress = fitting.filter(isTo);
  // In nftables an address of the load balancer that is an external one as well is guarded.
  const guarded = facts.backend === 'iptables' ? undefined : byAddress.findLast(({ ranges }) => ranges);
  const [first] = byAddress;
  if (guarded ?? first) return guarded ?? first;
  if (!isOnNodePorts(policy, facts, packet.destination)) return undefined;
  return fitting.find(({ frontend }) => frontend.kind === 'nodePort');
}

/** All frontends of the packet's family, protocol and port. */
function* frontendsFor(
  views: Views,
  { destination, port: number, protocol }: TracePacket,
): Generator<FoundFrontend> {
  const family = familyOf(destination);
  for (const [service, ports] of views) {
    for (const port of ports) {
      if (port.family !== family || port.protocol !== protocol) continue;
      for (const frontend of port.frontends)
        if (frontend.port === number) yield { service, port, frontend, ranges: rangesOf(port, frontend) };
    }
  }
}

function rangesOf({ sourceRanges }: ServicePortView, { kind }: Frontend): FoundFrontend['ranges'] {
  if (kind !== 'loadBalancerIP' || sourceRanges === undefined) return undefined;
  return (source) => sourceRanges.some((range) => cidrContains(range, source));
}

/** Whether node ports are open on this address. */
function isOnNodePorts(policy: ProxyPolicy, facts: TraceFacts, ip: Ip): boolean {
  if (isLoopback(ip)) return isOnLocalhost(policy, facts, ip);
  const ips = facts.nodePortIps[familyOf(ip)];
  if (ips !== 'all') return ips.includes(ip);
  return facts.localIps.has(ip) && (facts.backend !== 'ipvs' || isServerIp(facts, ip));
}

/** IPVS has a server on each address of the node but those that it holds itself, and those of one link only. */
function isServerIp({ heldIps }: TraceFacts, ip: Ip): boolean {
  return !heldIps.has(ip) && isForNodePorts(ip);
}

function isOnLocalhost(policy: ProxyPolicy, { backend }: TraceFacts, ip: Ip): boolean {
  if (backend !== 'iptables' || familyOf(ip) === 6) return false;
  return ruleContext(4, policy, false).localhostNodePorts;
}

/**
 * nftables knows the cluster IPs of services whatever the port, and ipvs all their addresses that lie on its device;
 * iptables knows only ports.
 */
export function missReason(views: Views, facts: TraceFacts, packet: TracePacket): Missed {
  const { destination, port, protocol } = packet;
  const { backend, heldIps, localIps } = facts;
  const owner = ownerOf(views, destination);
  const lacks = `has no port ${port}/${protocol}`;
  if (backend === 'ipvs' && heldIps.has(destination)) {
    const why = owner
      ? `is an address of ${owner.service}, which ${lacks}`
      : 'is held for connections that go on, and no Service has it';
    return { verdict: 'refused', reason: `${destination} ${why}` };
  }
  if (owner?.kind === 'clusterIP') {
    const reason = `${destination} is the cluster IP of ${owner.service}, which ${lacks}`;
    if (backend === 'nftables') return { verdict: 'refused', reason };
    if (backend === 'iptables') return untouched(`${reason}; it goes by the routes`);
  }
  const network = facts.serviceCidrs.find((cidr) => cidrContains(cidr, destination));
  const isGuarded = backend === 'ipvs' || (backend === 'nftables' && !localIps.has(destination));
  if (isGuarded && network !== undefined)
    return { verdict: 'dropped', reason: `${destination} is in ${network}, and no Service has it` };
  if (facts.localIps.has(destination)) return untouched(`no Service has it; it is for this node itself`);
  return untouched('no Service has it; it goes by the routes');
}

function untouched(reason: string): Missed {
  return { verdict: 'untouched', reason };
}

/** The Service that has an address, by preference as its cluster IP. */
function ownerOf(views: Views, ip: Ip): { service: string; kind: Frontend['kind'] } | undefined {
  let owner: { service: string; kind: Frontend['kind'] } | undefined;
  for (const [service, ports] of views) {
    for (const { frontends } of ports) {
      const its = frontends.find((frontend) => frontend.kind !== 'nodePort' && frontend.ip === ip);
      if (its?.kind === 'clusterIP') return { service, kind: its.kind };
      if (its !== undefined) owner ??= { service, kind: its.kind };
    }
  }
  return owner;
}
