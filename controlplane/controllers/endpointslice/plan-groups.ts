import type {
  V1Endpoint,
  V1EndpointPort,
  V1Node,
  V1Pod,
  V1Service,
  V1ServicePort,
} from '../../../kube/types.ts';
import { ZONE_LABEL } from './labels.ts';

/** All endpoints of a service that share family and port numbers, which is what one slice can say. */
export interface EndpointGroup {
  readonly addressType: string;
  readonly ports: readonly V1EndpointPort[];
  readonly endpoints: readonly V1Endpoint[];
}

/** Endpoints of one family and one set of ports, by address. */
type Groups = Map<string, { addressType: string; ports: V1EndpointPort[]; endpoints: V1Endpoint[] }>;

/**
 * A connection to a service ends at one of its pods: those that its selector names, that run, and that have an
 * address of the family. What a slice says about each is decided here (kubernetes, endpointslice/utils.go).
 */
export function planGroups(
  service: V1Service,
  pods: readonly V1Pod[],
  nodeOf: (name: string) => V1Node | undefined,
): EndpointGroup[] {
  const groups: Groups = new Map();
  for (const addressType of service.spec?.ipFamilies ?? []) {
    for (const pod of pods) {
      const address = addressOf(pod, addressType);
      if (address === undefined || isOver(pod)) continue;
      const ports = portsFor(service, pod);
      const key = groupKey(addressType, ports);
      const group = groups.get(key) ?? { addressType, ports, endpoints: [] };
      groups.set(key, group);
      group.endpoints.push(endpointOf(service, pod, address, nodeOf));
    }
  }
  return [...groups.values()];
}

export function groupKey(addressType: string, ports: readonly V1EndpointPort[]): string {
  const texts = ports.map(({ name, protocol, port, appProtocol }) =>
    JSON.stringify([name, protocol, port, appProtocol]),
  );
  return [addressType, ...texts.sort()].join(' ');
}

export function addressKey(endpoint: V1Endpoint): string {
  return endpoint.addresses.join(' ');
}

function addressOf({ status }: V1Pod, addressType: string): string | undefined {
  const isWanted = (ip: string) => ip.includes(':') === (addressType === 'IPv6');
  return status?.podIPs?.map(({ ip }) => ip).find((ip) => ip !== undefined && ip !== '' && isWanted(ip));
}

function isOver({ status }: V1Pod): boolean {
  return status?.phase === 'Succeeded' || status?.phase === 'Failed';
}

/** A named target port is looked up in each pod; a pod that lacks it has no such port. */
function portsFor({ spec }: V1Service, pod: V1Pod): V1EndpointPort[] {
  return (spec?.ports ?? []).flatMap((servicePort) => {
    const port = targetPort(servicePort, pod);
    if (port === undefined) return [];
    const { name = '', protocol = 'TCP', appProtocol } = servicePort;
    return [{ name, protocol, port, ...(appProtocol === undefined ? {} : { appProtocol }) }];
  });
}

function targetPort(
  { port, targetPort: target = port, protocol = 'TCP' }: V1ServicePort,
  pod: V1Pod,
): number | undefined {
  if (typeof target === 'number') return target;
  const ports = (pod.spec?.containers ?? []).flatMap((container) => container.ports ?? []);
  return ports.find((one) => one.name === target && (one.protocol ?? 'TCP') === protocol)?.containerPort;
}

function endpointOf(
  service: V1Service,
  pod: V1Pod,
  address: string,
  nodeOf: (name: string) => V1Node | undefined,
): V1Endpoint {
  const { nodeName, hostname, subdomain } = pod.spec ?? {};
  const { name, namespace, uid, deletionTimestamp } = pod.metadata ?? {};
  const zone = nodeName === undefined ? undefined : nodeOf(nodeName)?.metadata?.labels?.[ZONE_LABEL];
  const serving = isReady(pod);
  const terminating = deletionTimestamp !== undefined;
  const ready = service.spec?.publishNotReadyAddresses === true || (serving && !terminating);
  const hasHostname = hostname !== undefined && hostname !== '' && subdomain === service.metadata?.name;
  return {
    addresses: [address],
    conditions: { ready, serving, terminating },
    ...(hasHostname ? { hostname } : {}),
    ...(nodeName === undefined ? {} : { nodeName }),
    targetRef: { kind: 'Pod', namespace, name, uid },
    ...(zone === undefined ? {} : { zone }),
    ...hintsOf(service.spec?.trafficDistribution, ready, zone, nodeName),
  };
}

export function isReady({ status }: V1Pod): boolean {
  return status?.conditions?.some(({ type, status: value }) => type === 'Ready' && value === 'True') ?? false;
}

/** Where traffic should come from to an endpoint (kubernetes, endpointslice/trafficdist/trafficdist.go). */
function hintsOf(
  distribution: string | undefined,
  ready: boolean,
  zone: string | undefined,
  nodeName: string | undefined,
): Pick<V1Endpoint, 'hints'> {
  const isNear = ['PreferClose', 'PreferSameZone', 'PreferSameNode'].includes(distribution ?? '');
  if (!isNear || !ready || zone === undefined) return {};
  const forZones = [{ name: zone }];
  const isSameNode = distribution === 'PreferSameNode' && nodeName !== undefined;
  return { hints: isSameNode ? { forZones, forNodes: [{ name: nodeName }] } : { forZones } };
}
