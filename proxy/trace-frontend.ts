import { cidrContains, familyOf, type Ip } from '../core/address.ts';
import type { Views } from './backend.ts';
import { ruleContext } from './iptables/context.ts';
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
  return ips === 'all' ? facts.localIps.has(ip) : ips.includes(ip);
}

function isOnLocalhost(policy: ProxyPolicy, { backend }: TraceFacts, ip: Ip): boolean {
  if (backend !== 'iptables' || familyOf(ip) === 6) return false;
  return ruleContext(4, policy, false).localhostNodePorts;
}

/** nftables knows the addresses of services whatever the port; iptables only their ports. */
export function missReason(views: Views, facts: TraceFacts, packet: TracePacket): Missed {
  const { destination, port, protocol } = packet;
  const owner = ownerOf(views, destination);
  const isGuarded = facts.backend === 'nftables';
  if (owner !== undefined) {
    const reason = `${destination} is the cluster IP of ${owner}, which has no port ${port}/${protocol}`;
    return isGuarded ? { verdict: 'refused', reason } : untouched(`${reason}; it goes by the routes`);
  }
  const network = facts.serviceCidrs.find((cidr) => cidrContains(cidr, destination));
  if (isGuarded && network !== undefined && !facts.localIps.has(destination)) {
    return { verdict: 'dropped', reason: `${destination} is in ${network}, and no Service has it` };
  }
  if (facts.localIps.has(destination)) return untouched(`no Service has it; it is for this node itself`);
  return untouched('no Service has it; it goes by the routes');
}

function untouched(reason: string): Missed {
  return { verdict: 'untouched', reason };
}

function ownerOf(views: Views, ip: Ip): string | undefined {
  for (const [service, ports] of views) {
    for (const { frontends } of ports) {
      if (frontends.some((frontend) => frontend.kind === 'clusterIP' && frontend.ip === ip)) return service;
    }
  }
  return undefined;
}
