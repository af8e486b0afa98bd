import { type Family, families, familyOf, type Ip } from '../core/address.ts';
import type { Problem } from '../core/errors.ts';
import type { V1EndpointSlice, V1Service, V1ServicePort } from '../kube/types.ts';
import {
  chooseEndpoints,
  type Endpoint,
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

/** An address that clients connect to. Other kinds (external IPs, load balancer IPs) join the union. */
export type Frontend =
  | { readonly kind: 'clusterIP'; readonly ip: Ip; readonly port: number }
  /** On the node's own addresses. */
  | { readonly kind: 'nodePort'; readonly port: number };

/** One port of one Service in one family: the unit that everything is kept by. */
export interface ServicePortView {
  /** `namespace/name:portName`; a port without a name leaves nothing after the colon. */
  readonly name: string;
  readonly family: Family;
  readonly protocol: Protocol;
  readonly frontends: readonly Frontend[];
  /** Those that get new connections, sorted. */
  readonly endpoints: readonly Endpoint[];
  /** False: connections are refused. True with an empty list (by a policy): they are dropped. */
  readonly hasAnyEndpoints: boolean;
}

export interface ServiceView {
  readonly ports: readonly ServicePortView[];
  /** What in the objects could not be used. */
  readonly problems: readonly Problem[];
}

const nothing: ServiceView = { ports: [], problems: [] };

/** What one Service and its EndpointSlices mean on this node. Undefined is a Service that is gone. */
export function serviceView(
  service: V1Service | undefined,
  slices: readonly V1EndpointSlice[],
  node: { readonly nodeName: string },
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
    endpoints: chooseEndpoints(all),
    hasAnyEndpoints: hasUsableEndpoint(all),
  };
}
