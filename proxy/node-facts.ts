import { type Cidr, cidrContains, families, familyOf, type Ip, prefixLengthOf } from '../core/address.ts';
import type { V1Node, V1ServiceCIDR } from '../kube/types.ts';
import type { NodeFacts, NodePortIps, ProxyPolicy } from './policy.ts';
import { parseCidrSloppy, parseIpSloppy } from './sloppy.ts';

const ZONE_LABEL = 'topology.kubernetes.io/zone';
/** An address that other nodes use comes before one that the world uses, as in kube-proxy. */
const ADDRESS_TYPES = ['InternalIP', 'ExternalIP'];

/** What our own Node object says of us. */
export interface NodeIdentity {
  readonly zone: string | undefined;
  /** One of each family at most. */
  readonly nodeIps: readonly Ip[];
}

/** Reads a Node; one that is not there says nothing. `given` addresses stand in for those of their family. */
export function parseNode(node: V1Node | undefined, given: readonly Ip[] = []): NodeIdentity {
  const zone: unknown = node?.metadata?.labels?.[ZONE_LABEL];
  const listed: unknown = node?.status?.addresses;
  const addresses = (Array.isArray(listed) ? listed : []) as ({ type?: unknown; address?: unknown } | null)[];
  const ips = ADDRESS_TYPES.flatMap((type) =>
    addresses.filter((address) => address?.type === type).flatMap((address) => ipOfText(address?.address)),
  );
  return {
    zone: typeof zone === 'string' && zone !== '' ? zone : undefined,
    nodeIps: families.flatMap((family) => [...given, ...ips].find((ip) => familyOf(ip) === family) ?? []),
  };
}

function ipOfText(text: unknown): Ip | [] {
  return (typeof text === 'string' ? parseIpSloppy(text) : undefined) ?? [];
}

/** The networks that cluster IPs are given out of, sorted. */
export function parseServiceCidrs(objects: Iterable<V1ServiceCIDR>): Cidr[] {
  const texts = Array.from(objects, ({ spec }): unknown => spec?.cidrs).flatMap((cidrs) => {
    return Array.isArray(cidrs) ? (cidrs as unknown[]) : [];
  });
  const cidrs = texts.flatMap((text) => (typeof text === 'string' ? (parseCidrSloppy(text) ?? []) : []));
  return [...new Set(cidrs)].sort();
}

/** Everything that {@link planNodeFacts} goes by. */
export interface NodeInputs {
  readonly nodeIps: readonly Ip[];
  /** The addresses of all of the node's interfaces; looked at only where {@link needsLocalIps} says so. */
  readonly localIps: Iterable<Ip>;
  readonly serviceCidrs: readonly Cidr[];
}

export function planNodeFacts(
  { nodePortAddresses }: Pick<ProxyPolicy, 'nodePortAddresses'>,
  { nodeIps, localIps, serviceCidrs }: NodeInputs,
): NodeFacts {
  const local = [...new Set(localIps)].filter((ip) => !isLoopback(ip)).sort();
  const ipsOf = (family: 4 | 6): NodePortIps => {
    if (nodePortAddresses === 'primary') return nodeIps.filter((ip) => familyOf(ip) === family);
    const cidrs = nodePortAddresses.filter((cidr) => familyOf(cidr) === family);
    return isOnAll(cidrs) ? 'all' : local.filter((ip) => cidrs.some((cidr) => cidrContains(cidr, ip)));
  };
  return { nodePortIps: { 4: ipsOf(4), 6: ipsOf(6) }, serviceCidrs };
}

/** Whether node ports follow addresses that only the kernel knows. */
export function needsLocalIps({ nodePortAddresses }: Pick<ProxyPolicy, 'nodePortAddresses'>): boolean {
  if (nodePortAddresses === 'primary') return false;
  return families.some((family) => !isOnAll(nodePortAddresses.filter((cidr) => familyOf(cidr) === family)));
}

/** Where nothing is said of a family, every address of it counts. */
function isOnAll(cidrs: readonly Cidr[]): boolean {
  return cidrs.length === 0 || cidrs.some((cidr) => prefixLengthOf(cidr) === 0);
}

/** Node ports on loopback are a matter of their own: packets from there cannot leave. */
function isLoopback(ip: Ip): boolean {
  return ip.startsWith('127.') || (ip as string) === '::1';
}
