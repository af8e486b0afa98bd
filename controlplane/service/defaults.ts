import { isDeepStrictEqual } from 'node:util';
import { parseIp } from '../../core/address.ts';
import {
  hasClusterIp,
  hasHealthCheckNodePort,
  hasNodePorts,
  isExternallyReached,
  mayHaveNodePorts,
  type ServicePort,
  type ServiceSpec,
} from './model.ts';

const AFFINITY_SECONDS = 10_800;

/** In place: what a service means that says nothing more about it (kubernetes, pkg/apis/core/v1/defaults.go). */
export function setServiceDefaults(spec: ServiceSpec): void {
  spec.type ??= 'ClusterIP';
  spec.sessionAffinity ??= 'None';
  if (spec.sessionAffinity === 'None') delete spec.sessionAffinityConfig;
  if (spec.sessionAffinity === 'ClientIP') {
    const timeoutSeconds = spec.sessionAffinityConfig?.clientIP?.timeoutSeconds ?? AFFINITY_SECONDS;
    spec.sessionAffinityConfig = { clientIP: { timeoutSeconds } };
  }
  for (const port of spec.ports ?? []) {
    port.protocol ??= 'TCP';
    if (port.targetPort === undefined || port.targetPort === 0 || port.targetPort === '')
      port.targetPort = port.port;
    if (port.nodePort === 0) delete port.nodePort;
  }
  if (isExternallyReached(spec)) spec.externalTrafficPolicy ??= 'Cluster';
  if (hasClusterIp(spec)) spec.internalTrafficPolicy ??= 'Cluster';
  if (spec.type === 'LoadBalancer') spec.allocateLoadBalancerNodePorts ??= true;
  joinClusterIps(spec);
}

/** In place: `clusterIP` is the first of `clusterIPs`; addresses in the one text that each has. */
function joinClusterIps(spec: ServiceSpec): void {
  if (spec.clusterIP === '') delete spec.clusterIP;
  if (spec.clusterIPs?.length === 0) delete spec.clusterIPs;
  if (spec.clusterIP !== undefined) spec.clusterIP = parseIp(spec.clusterIP) ?? spec.clusterIP;
  if (spec.clusterIPs !== undefined) spec.clusterIPs = spec.clusterIPs.map((ip) => parseIp(ip) ?? ip);
}

/**
 * In place: an update that leaves out what was given out keeps it, and a change of type drops what the new
 * type does not have (kubernetes, pkg/registry/core/service/storage: patchAllocatedValues, dropTypeDependentFields).
 */
export function prepareServiceUpdate(spec: ServiceSpec, current: ServiceSpec): void {
  followPrimaryIp(spec, current);
  keepClusterIps(spec, current);
  keepNodePorts(spec, current);
  if (hasHealthCheckNodePort(spec) && hasHealthCheckNodePort(current)) {
    spec.healthCheckNodePort ??= current.healthCheckNodePort;
  }
  dropByType(spec, current);
  dropSecondFamily(spec, current);
}

/** A client that knows only `clusterIP` changes or clears that one. */
function followPrimaryIp(spec: ServiceSpec, current: ServiceSpec): void {
  if (spec.clusterIP === current.clusterIP || !isDeepStrictEqual(spec.clusterIPs, current.clusterIPs)) return;
  if (spec.clusterIP === undefined) delete spec.clusterIPs;
  else spec.clusterIPs = [spec.clusterIP, ...(spec.clusterIPs ?? []).slice(1)];
}

function keepClusterIps(spec: ServiceSpec, current: ServiceSpec): void {
  if (!hasClusterIp(spec) || !hasClusterIp(current)) return;
  spec.ipFamilyPolicy ??= current.ipFamilyPolicy;
  spec.clusterIP ??= spec.clusterIPs?.[0] ?? current.clusterIP;
  if (spec.clusterIP === current.clusterIP) spec.clusterIPs ??= current.clusterIPs;
}

function keepNodePorts(spec: ServiceSpec, current: ServiceSpec): void {
  if (!hasNodePorts(spec) || !hasNodePorts(current)) return;
  const asked = new Set((spec.ports ?? []).map(nodePortKey));
  const before = new Map((current.ports ?? []).map((port) => [portKey(port), port]));
  for (const port of spec.ports ?? []) {
    const known = before.get(portKey(port));
    if (port.nodePort !== undefined || known?.nodePort === undefined) continue;
    if (!asked.has(nodePortKey({ ...port, nodePort: known.nodePort }))) port.nodePort = known.nodePort;
  }
}

const portKey = ({ protocol, port }: ServicePort) => `${protocol} ${port}`;
const nodePortKey = ({ protocol, nodePort }: ServicePort) => `${protocol} ${nodePort}`;

/** What the client did not touch and the new type does not have. */
function dropByType(spec: ServiceSpec, current: ServiceSpec): void {
  const isUntouched = (field: keyof ServiceSpec) => isDeepStrictEqual(spec[field], current[field]);
  const drop = (field: keyof ServiceSpec) => {
    if (isUntouched(field)) delete spec[field];
  };
  if (hasClusterIp(current) && !hasClusterIp(spec)) {
    if (isUntouched('clusterIPs')) {
      drop('clusterIP');
      drop('clusterIPs');
    }
    for (const field of ['ipFamilies', 'ipFamilyPolicy', 'internalTrafficPolicy'] as const) drop(field);
  }
  if (mayHaveNodePorts(current) && !mayHaveNodePorts(spec)) {
    const before = new Set((current.ports ?? []).map((port) => port.nodePort));
    for (const port of spec.ports ?? []) if (before.has(port.nodePort)) delete port.nodePort;
  }
  if (!hasHealthCheckNodePort(spec)) drop('healthCheckNodePort');
  if (!isExternallyReached(spec)) drop('externalTrafficPolicy');
  if (spec.type !== 'LoadBalancer') {
    drop('allocateLoadBalancerNodePorts');
    drop('loadBalancerClass');
  }
}

/** From dual stack to single stack: the second address goes, unless the client has said so itself. */
function dropSecondFamily(spec: ServiceSpec, current: ServiceSpec): void {
  if (spec.ipFamilyPolicy !== 'SingleStack' || current.ipFamilyPolicy === 'SingleStack') return;
  for (const field of ['clusterIPs', 'ipFamilies'] as const) {
    const value = spec[field];
    if (isDeepStrictEqual(value, current[field]) && value !== undefined) spec[field] = value.slice(0, 1);
  }
}
