import { type Cidr, type Family, families, familyOf, type Ip } from '../core/address.ts';
import type { Problem } from '../core/errors.ts';
import type { V1EndpointSlice, V1Service, V1ServicePort } from '../kube/types.ts';
import {
  chooseEndpoints,
  type EndpointsByPort,
  endpointPortKey,
  endpointsOf,
  hasUsableEndpoint,
} from './endpoints.ts';
import { type Protocol, parseProtocol } from './protocol.ts';
import { parseIpSloppy } from './sloppy.ts';

/*
 * The view is what Services and EndpointSlices mean for one node, with nothing in it of how a kernel is told:
 * every backend plans from it. It is made service by service, so that a change costs its own service.
 */

/** An address that clients connect to. */
export type Frontend =
  | {
      readonly kind: 'clusterIP' | 'externalIP' | 'loadBalancerIP';
      readonly ip: Ip;
      readonly port: number;
    }
  /** On the node's own addresses, see `NodeFacts`. */
  | { readonly kind: 'nodePort'; readonly port: number };

/** Where a connection can end. */
export interface Endpoint {
  readonly ip: Ip;
  readonly port: number;
  /** Runs on this node. */
  readonly local: boolean;
  /** Its part of the new connections: 1 unless an annotation says otherwise; 0 gets none while others have more. */
  readonly weight: number;
}

export type TrafficPolicy = 'Cluster' | 'Local';

/**
 * One port of one Service in one family: the unit that everything is kept by.
 *
 * Which endpoints a connection may reach: at a `clusterIP` those of `internalPolicy`; elsewhere those of
 * `externalPolicy`, except that under "Local" the pods of this cluster and the node itself get `clusterEndpoints`.
 */
export interface ServicePortView {
  /** `namespace/name:portName`; a port without a name leaves nothing after the colon. */
  readonly name: string;
  readonly family: Family;
  readonly protocol: Protocol;
  readonly frontends: readonly Frontend[];
  /** Those that get new connections under the policy "Cluster", sorted. Empty where no policy needs it. */
  readonly clusterEndpoints: readonly Endpoint[];
  /** Those that do under the policy "Local": on this node, sorted. Empty where no policy needs it. */
  readonly localEndpoints: readonly Endpoint[];
  /** For `clusterIP` frontends. */
  readonly internalPolicy: TrafficPolicy;
  /** For all others; "Cluster" where the Service cannot be reached from outside. */
  readonly externalPolicy: TrafficPolicy;
  /** False: connections are refused. True, and the list that counts is empty: they are dropped. */
  readonly hasAnyEndpoints: boolean;
  /** Session affinity: for how many seconds after its last connection a client keeps its endpoint. */
  readonly affinitySeconds?: number | undefined;
  /** Who may connect to `loadBalancerIP` frontends, of this family; undefined: everybody. */
  readonly sourceRanges?: readonly Cidr[] | undefined;
  /** `maglev`: by a consistent hash of the client's address. */
  readonly balancing: 'random' | 'maglev';
  /** UDP only: every endpoint that serves, whatever the policies say. Flows to others are stale. */
  readonly servingEndpoints?: readonly Pick<Endpoint, 'ip' | 'port'>[] | undefined;
}

/** A load balancer asks here whether this node has endpoints of the Service (spec.healthCheckNodePort). */
export interface ServiceHealthCheck {
  readonly port: number;
  /** Ready ones, by address; never those that are going away. */
  readonly localReadyEndpoints: number;
}

export interface ServiceView {
  readonly ports: readonly ServicePortView[];
  readonly healthCheck?: ServiceHealthCheck | undefined;
  /** What in the objects could not be used. */
  readonly problems: readonly Problem[];
}

/** What of the node itself the views depend on: when it changes, every view does. */
export interface ViewNode {
  /** As in the endpoints' `nodeName`. */
  readonly nodeName: string;
  /** The node's `topology.kubernetes.io/zone`. */
  readonly zone?: string | undefined;
  /** One of each family at most. */
  readonly nodeIps: readonly Ip[];
  /** Only Services that carry this name in `service.kubernetes.io/service-proxy-name` are ours; else those without. */
  readonly serviceProxyName?: string | undefined;
  /** Default true. */
  readonly allowExternalIps?: boolean | undefined;
}

const nothing: ServiceView = { ports: [], problems: [] };

/** What one Service and its EndpointSlices mean on this node. Undefined is a Service that is gone. */
export function serviceView(
  service: V1Service | undefined,
  slices: readonly V1EndpointSlice[],
  node: ViewNode,
): ServiceView {
  if (service === undefined || isWithoutProxy(service)) return nothing;
  const problems: Problem[] = [];
  const endpoints = endpointsOf(slices, node.nodeName, problems);
  const ports = families.flatMap((family) => {
    const ip = clusterIpOf(service, family, problems);
    if (ip === undefined) return [];
    return (service.spec?.ports ?? []).flatMap((port) => {
      return portView(service, port, { family, ip, endpoints }) ?? [];
    });
  });
  return { ports, problems };
}

/** Headless services and external names exist in DNS only. */
function isWithoutProxy({ spec }: V1Service): boolean {
  return spec?.type === 'ExternalName' || !spec?.clusterIP || spec.clusterIP === 'None';
}

function clusterIpOf({ spec }: V1Service, family: Family, problems: Problem[]): Ip | undefined {
  const index = spec?.ipFamilies?.indexOf(`IPv${family}`) ?? -1;
  const text = spec?.ipFamilies?.length ? spec.clusterIPs?.[index] : spec?.clusterIP;
  if (text === undefined) return undefined;
  const ip = parseIpSloppy(text);
  if (ip === undefined || (index >= 0 && familyOf(ip) !== family)) {
    const path = index < 0 ? 'spec.clusterIP' : `spec.clusterIPs[${index}]`;
    problems.push({ path, message: `is no IPv${family} address: "${text}"` });
    return undefined;
  }
  return familyOf(ip) === family ? ip : undefined;
}

interface PortContext {
  readonly family: Family;
  readonly ip: Ip;
  readonly endpoints: EndpointsByPort;
}

function portView(
  service: V1Service,
  port: V1ServicePort,
  context: PortContext,
): ServicePortView | undefined {
  const protocol = parseProtocol(port.protocol);
  if (protocol === undefined) return undefined;
  const { family, ip } = context;
  const all = context.endpoints.get(endpointPortKey(family, protocol, port.name ?? '')) ?? [];
  const frontends: Frontend[] = [{ kind: 'clusterIP', ip, port: port.port }];
  if (port.nodePort) frontends.push({ kind: 'nodePort', port: port.nodePort });
  return {
    name: `${service.metadata?.namespace}/${service.metadata?.name}:${port.name ?? ''}`,
    family,
    protocol,
    frontends,
    clusterEndpoints: chooseEndpoints(all),
    localEndpoints: [],
    internalPolicy: 'Cluster',
    externalPolicy: 'Cluster',
    balancing: 'random',
    hasAnyEndpoints: hasUsableEndpoint(all),
  };
}
