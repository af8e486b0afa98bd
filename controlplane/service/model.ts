import type { V1Service } from '../../kube/types.ts';

export type ServiceSpec = NonNullable<V1Service['spec']>;
export type ServicePort = NonNullable<ServiceSpec['ports']>[number];

/** The clusterIP of a service that wants none. */
export const NO_CLUSTER_IP = 'None';

/* Which of the fields that the server gives out a service of a type has. */

export function hasClusterIp({ type }: ServiceSpec): boolean {
  return type === 'ClusterIP' || type === 'NodePort' || type === 'LoadBalancer';
}

export function hasNodePorts({ type, allocateLoadBalancerNodePorts }: ServiceSpec): boolean {
  return type === 'NodePort' || (type === 'LoadBalancer' && allocateLoadBalancerNodePorts !== false);
}

/** May have node ports, also where none are given out unasked. */
export function mayHaveNodePorts({ type }: ServiceSpec): boolean {
  return type === 'NodePort' || type === 'LoadBalancer';
}

export function isExternallyReached({ type, externalIPs }: ServiceSpec): boolean {
  return (
    type === 'NodePort' || type === 'LoadBalancer' || (type === 'ClusterIP' && (externalIPs ?? []).length > 0)
  );
}

export function hasHealthCheckNodePort({ type, externalTrafficPolicy }: ServiceSpec): boolean {
  return type === 'LoadBalancer' && externalTrafficPolicy === 'Local';
}

export function isHeadless({ clusterIP, clusterIPs }: ServiceSpec): boolean {
  return (clusterIPs?.[0] ?? clusterIP) === NO_CLUSTER_IP;
}

export function hasSelector({ selector }: ServiceSpec): boolean {
  return Object.keys(selector ?? {}).length > 0;
}
