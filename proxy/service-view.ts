import {
  type Cidr,
  cidrContains,
  type Family,
  families,
  familyOf,
  type Ip,
  prefixLengthOf,
  singleCidr,
} from '../core/address.ts';
import type { Problem } from '../core/errors.ts';
import type { V1EndpointSlice, V1Service } from '../kube/types.ts';
import { balancingOf, reportUnknownWeights, weightsOf } from './annotations.ts';
import { type EndpointState, type EndpointsByPort, endpointPortKey, endpointsOf } from './endpoints.ts';
import { type Report, reportTo } from './object-fields.ts';
import { type PortSpec, parseServiceSpec, type ServiceSpec } from './service-spec.ts';
import { selectEndpoints, selectionOf } from './topology.ts';
import type { Frontend, ServiceHealthCheck, ServicePortView, ServiceView, ViewNode } from './view.ts';

/** A Service with this label belongs to the proxy that it names. */
export const PROXY_NAME_LABEL = 'service.kubernetes.io/service-proxy-name';

const nothing: ServiceView = { ports: [], problems: [] };

/** What one Service and its EndpointSlices mean on this node. Undefined is a Service that is gone. */
export function serviceView(
  service: V1Service | undefined,
  slices: readonly V1EndpointSlice[],
  node: ViewNode,
): ServiceView {
  if (service === undefined || !isOurs(service, node)) return nothing;
  const problems: Problem[] = [];
  const report = reportTo(problems, 'service');
  const spec = parseServiceSpec(service, report);
  if (spec === undefined) return { ports: [], problems };
  const weights = weightsOf(service, report);
  const weightOf = weights.size === 0 ? () => 1 : (ip: Ip) => weights.get(ip) ?? 1;
  const endpoints = endpointsOf(slices, { nodeName: node.nodeName, weightOf, problems });
  reportUnknownWeights(weights, endpoints, report);
  const context = { spec, endpoints, node, report, balancing: balancingOf(service, report) };
  const ports = portViews(4, context).concat(portViews(6, context));
  return { ports, healthCheck: healthCheckOf(spec, endpoints), problems };
}

function isOurs({ metadata }: V1Service, { serviceProxyName }: ViewNode): boolean {
  return metadata?.labels?.[PROXY_NAME_LABEL] === serviceProxyName;
}

interface Context {
  readonly spec: ServiceSpec;
  readonly endpoints: EndpointsByPort;
  readonly node: ViewNode;
  readonly report: Report;
  readonly balancing: ServicePortView['balancing'];
}

/** Without a cluster IP of the family there is nothing of it, no node port either. */
function portViews(family: Family, context: Context): ServicePortView[] {
  const { spec, node, report } = context;
  const clusterIp = spec.clusterIps.get(family);
  if (clusterIp === undefined) return [];
  const sourceRanges = sourceRangesOf(family, spec, node);
  const isClosed = sourceRanges === 'unknown';
  if (isClosed) report('status.loadBalancer', `not served in IPv${family}: nobody knows for whom`);
  const shared: FamilyContext = {
    family,
    ...context,
    clusterIp,
    externalIps: node.allowExternalIps === false ? [] : ofFamily(spec.externalIps, family),
    loadBalancerIps: isClosed ? [] : ofFamily(spec.loadBalancerIps, family),
    sourceRanges: isClosed ? undefined : sourceRanges,
  };
  return spec.ports.map((port) => portView(port, shared));
}

interface FamilyContext extends Context {
  readonly family: Family;
  readonly clusterIp: Ip;
  readonly externalIps: readonly Ip[];
  readonly loadBalancerIps: readonly Ip[];
  readonly sourceRanges: readonly Cidr[] | undefined;
}

function portView(port: PortSpec, context: FamilyContext): ServicePortView {
  const { spec, family, node, balancing, loadBalancerIps, sourceRanges } = context;
  const frontends = frontendsOf(port, context);
  const isExternal = frontends.some(({ kind }) => kind !== 'clusterIP');
  const { internalPolicy, affinitySeconds, healthCheckPort } = spec;
  const externalPolicy = isExternal ? spec.externalPolicy : 'Cluster';
  const all = context.endpoints.get(endpointPortKey(family, port.protocol, port.name)) ?? [];
  return {
    name: `${spec.name}:${port.name}`,
    family,
    protocol: port.protocol,
    frontends,
    ...selectEndpoints(all, selectionOf(internalPolicy, externalPolicy, isExternal), node),
    internalPolicy,
    externalPolicy,
    affinitySeconds,
    sourceRanges: loadBalancerIps.length > 0 ? sourceRanges : undefined,
    balancing,
    flowEndpoints: flowEndpointsOf(port, all, node),
    ...(healthCheckPort !== undefined && { healthCheckPort }),
  };
}

/** A connection outlives that its endpoint is not ready for a while, and all of the time that it takes to terminate. */
function flowEndpointsOf({ protocol }: PortSpec, all: readonly EndpointState[], { resetTcp }: ViewNode) {
  if (protocol === 'udp') return all.filter(isServing);
  return protocol === 'tcp' && resetTcp === true ? all : undefined;
}

/** Those that get new connections are serving, whatever they say: Services may publish pods that are not ready. */
function isServing({ ready, serving }: EndpointState): boolean {
  return ready || serving;
}

/** An address that a Service has in several ways is one frontend, by the way that says most about who may come. */
function frontendsOf({ port, nodePort }: PortSpec, context: FamilyContext): Frontend[] {
  const { clusterIp, externalIps, loadBalancerIps } = context;
  const kinds = new Map<Ip, 'externalIP' | 'loadBalancerIP'>();
  for (const ip of externalIps) kinds.set(ip, 'externalIP');
  for (const ip of loadBalancerIps) kinds.set(ip, 'loadBalancerIP');
  kinds.delete(clusterIp);
  const frontends: Frontend[] = [{ kind: 'clusterIP', ip: clusterIp, port }];
  for (const [ip, kind] of kinds) frontends.push({ kind, ip, port });
  if (nodePort !== undefined) frontends.push({ kind: 'nodePort', port: nodePort });
  return frontends;
}

/**
 * Who may use the load balancer's addresses: undefined is everybody. A node in these ranges reaches its own load
 * balancer addresses from these very addresses, so they are allowed as well. `unknown`: there are ranges, but none
 * of this family, and at least one that cannot be read and might have been.
 */
function sourceRangesOf(
  family: Family,
  { sourceRanges: { cidrs, isDamaged }, loadBalancerIps }: ServiceSpec,
  { nodeIps }: ViewNode,
): readonly Cidr[] | undefined | 'unknown' {
  const ranges = ofFamily(cidrs, family);
  if (ranges.some((range) => prefixLengthOf(range) === 0)) return undefined;
  if (ranges.length === 0) return isDamaged ? 'unknown' : undefined;
  const holdNode = nodeIps.some((ip) => ranges.some((range) => cidrContains(range, ip)));
  const own = holdNode ? ofFamily(loadBalancerIps, family).map(singleCidr) : [];
  return outermost([...ranges, ...own]).sort();
}

/** Without networks that lie in others. */
function outermost(cidrs: readonly Cidr[]): Cidr[] {
  const unique = [...new Set(cidrs)];
  return unique.filter((cidr) => !unique.some((other) => other !== cidr && cidrContains(other, cidr)));
}

function ofFamily<Address extends Ip | Cidr>(addresses: readonly Address[], family: Family): Address[] {
  return addresses.filter((address) => familyOf(address) === family);
}

/** A pod with an address of each family is one endpoint. */
function healthCheckOf(
  { healthCheckPort }: ServiceSpec,
  endpoints: EndpointsByPort,
): ServiceHealthCheck | undefined {
  if (healthCheckPort === undefined) return undefined;
  const local = [...endpoints.values()].flat().filter((endpoint) => endpoint.local && endpoint.ready);
  const ips = [...new Set(local.map(({ ip }) => ip))];
  const counts = families.map((family) => ofFamily(ips, family).length);
  return { port: healthCheckPort, localReadyEndpoints: Math.max(...counts) };
}
