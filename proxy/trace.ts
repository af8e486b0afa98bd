import type { Ip } from '../core/address.ts';
import type { Backend, Views } from './backend.ts';
import type { NodeFacts, ProxyPolicy } from './policy.ts';
import type { Protocol } from './protocol.ts';
import { type FoundFrontend, findFrontend, type Missed, missReason } from './trace-frontend.ts';
import { type SharedEndpoint, sharesOf } from './trace-shares.ts';
import { classifySource, type TracedSource } from './trace-source.ts';
import type { Endpoint, Frontend, TrafficPolicy } from './view.ts';

/*
 * What happens to a connection's first packet, said from the plan: which frontend it is for, whether its source may
 * connect, which list of endpoints it is drawn from, and whether the endpoint sees the client's address. Nothing here
 * asks the kernel; `fairlead trace --verify` holds the answer against what the kernel does.
 */

/** The first packet of a connection. Source and destination are of one family. */
export interface TracePacket {
  readonly source: Ip;
  readonly destination: Ip;
  readonly port: number;
  readonly protocol: Protocol;
  /** The interface that it comes in by; undefined: it begins on this node, or nobody knows. */
  readonly interfaceName?: string | undefined;
}

/** What of the node decides. */
export interface TraceFacts extends NodeFacts {
  readonly backend: Backend['name'];
  /** The addresses of all of the node's interfaces, loopback too. */
  readonly localIps: ReadonlySet<Ip>;
  /** Those among them that lie on the device of the mode ipvs. */
  readonly heldIps: ReadonlySet<Ip>;
}

/** `balanced`: to one of the endpoints. `refused`: the client hears of it. `untouched`: no rule of services minds it. */
export type TraceVerdict = 'balanced' | 'refused' | 'dropped' | 'untouched';

export interface TraceEndpoint extends SharedEndpoint {
  /** Sees an address of this node in place of the client's. */
  readonly masqueraded: boolean;
  /** It is the client itself. */
  readonly hairpin: boolean;
}

export interface TracedFrontend {
  /** `namespace/name` */
  readonly service: string;
  /** Of the port; may be empty. */
  readonly portName: string;
  readonly kind: Frontend['kind'];
  /** The one that counts for this kind. */
  readonly policy: TrafficPolicy;
  readonly balancing: 'random' | 'maglev';
  readonly affinitySeconds?: number;
  readonly sourceRanges?: readonly string[];
}

export interface Trace {
  readonly packet: TracePacket;
  readonly source: TracedSource;
  /** Undefined: the packet is for no Service. */
  readonly frontend?: TracedFrontend;
  readonly verdict: TraceVerdict;
  /** Why. */
  readonly reason: string;
  readonly endpoints: readonly TraceEndpoint[];
  /** Only where there are endpoints; hairpins are masqueraded whatever it says. */
  readonly masquerade?: Masquerade;
}

export interface Masquerade {
  readonly wanted: boolean;
  readonly reason: string;
}

/** Decides one packet. Pure: the same plan gives the same answer. */
export function traceFrontend(
  views: Views,
  policy: ProxyPolicy,
  facts: TraceFacts,
  packet: TracePacket,
): Trace {
  const source = classifySource(packet, policy, facts);
  const found = findFrontend(views, policy, facts, packet);
  if (found === undefined) return missed(packet, source, missReason(views, facts, packet));
  const traced = { packet, source, frontend: describe(found) };
  const none = { ...traced, endpoints: [] };
  const isBlocked = isOutsideRanges(found, packet);
  // iptables has no firewall where nobody is: everybody is refused alike.
  if (isBlocked && (facts.backend !== 'iptables' || found.port.hasAnyEndpoints))
    return { ...none, verdict: 'dropped', reason: `${packet.source} is not in loadBalancerSourceRanges` };
  const { list, reason } = chooseList(found, source, facts.backend);
  if (!found.port.hasAnyEndpoints) return { ...none, verdict: 'refused', reason: 'no endpoints' };
  if (list.length === 0) return { ...none, verdict: 'dropped', reason: `${reason} and none here` };
  const masquerade = masqueradeOf(found, traced, policy, facts);
  const endpoints = sharesOf(list, found.port.balancing, facts.backend).map((endpoint) =>
    withMasquerade(endpoint, packet, masquerade, facts),
  );
  return { ...traced, verdict: 'balanced', reason, endpoints, masquerade };
}

function missed(packet: TracePacket, source: TracedSource, { verdict, reason }: Missed): Trace {
  return { packet, source, verdict, reason, endpoints: [] };
}

function describe({ service, port, frontend }: FoundFrontend): TracedFrontend {
  const { affinitySeconds, sourceRanges } = port;
  return {
    service,
    portName: port.name.slice(port.name.lastIndexOf(':') + 1),
    kind: frontend.kind,
    policy: policyOf({ port, frontend }),
    balancing: port.balancing,
    ...(affinitySeconds !== undefined && { affinitySeconds }),
    ...(frontend.kind === 'loadBalancerIP' && sourceRanges && { sourceRanges }),
  };
}

function policyOf({ port, frontend }: Pick<FoundFrontend, 'port' | 'frontend'>): TrafficPolicy {
  return frontend.kind === 'clusterIP' ? port.internalPolicy : port.externalPolicy;
}

function isOutsideRanges({ ranges }: FoundFrontend, { source }: TracePacket): boolean {
  return ranges !== undefined && !ranges(source);
}

interface ChosenList {
  readonly list: readonly Endpoint[];
  readonly reason: string;
}

/**
 * Under externalTrafficPolicy: Local the pods of this cluster and the node itself reach all endpoints; with IPVS only
 * where none is on this node.
 */
function chooseList(
  { port, frontend }: FoundFrontend,
  source: TracedSource,
  backend: TraceFacts['backend'],
): ChosenList {
  const isClusterIp = frontend.kind === 'clusterIP';
  const policy = policyOf({ port, frontend });
  const reason = `${isClusterIp ? 'internal' : 'external'}TrafficPolicy: ${policy}`;
  if (policy === 'Cluster') return { list: port.clusterEndpoints, reason };
  const isOneForAll = backend === 'ipvs' && port.localEndpoints.length > 0;
  if (isClusterIp || source.class === 'outside' || isOneForAll) return { list: port.localEndpoints, reason };
  const who = source.class === 'pod' ? 'pods' : 'the node itself';
  return { list: port.clusterEndpoints, reason: `${reason}, from which ${who} are exempt` };
}

function masqueradeOf(
  found: FoundFrontend,
  { packet, source }: { readonly packet: TracePacket; readonly source: TracedSource },
  { masqueradeAll }: ProxyPolicy,
  { heldIps }: TraceFacts,
): Masquerade {
  if (found.frontend.kind === 'clusterIP') {
    // With IPVS the node has the addresses of Services, and connects to them from these.
    if (!masqueradeAll && heldIps.has(packet.source))
      return { wanted: true, reason: 'the source is an address of a Service' };
    return masqueradeAtClusterIp(source, masqueradeAll);
  }
  if (policyOf(found) === 'Cluster')
    return { wanted: true, reason: 'the answer must come back through this node' };
  if (source.class === 'pod') return { wanted: false, reason: 'pods keep their address' };
  if (source.class === 'node') return { wanted: true, reason: 'this node may have any endpoint' };
  return { wanted: false, reason: 'the endpoint is on this node' };
}

function masqueradeAtClusterIp(source: TracedSource, masqueradeAll: boolean): Masquerade {
  if (masqueradeAll) return { wanted: true, reason: 'masqueradeAll' };
  if (!source.isDetected) return { wanted: false, reason: 'nothing tells pods from others' };
  if (source.class === 'pod') return { wanted: false, reason: 'pods keep their address' };
  return { wanted: true, reason: 'the source is no pod' };
}

/** A pod that reaches itself must not see its own address. In nftables only those on this node are looked for. */
function withMasquerade(
  endpoint: SharedEndpoint,
  { source }: TracePacket,
  { wanted }: Masquerade,
  { backend }: TraceFacts,
): TraceEndpoint {
  const hairpin = endpoint.ip === source && (endpoint.local || backend === 'iptables');
  return { ...endpoint, masqueraded: wanted || hairpin, hairpin };
}
