import { type Cidr, families, familyOf, type Ip, parseCidr, parseIp } from '../core/address.ts';
import type { V1Node } from '../kube/types.ts';
import type { Lease, LeaseAttributes, PerFamily } from './lease.ts';

/*
 * flannel's format on a Node: its subnets are `spec.podCIDRs`, everything else stands in annotations
 * `flannel.alpha.coreos.com/…`: `kube-subnet-manager: "true"`, `backend-type`, `public-ip`, `public-ipv6`,
 * `backend-data` and `backend-v6-data` (JSON text). An operator may set `public-ip-overwrite` and
 * `public-ipv6-overwrite`, which win over what the node found out itself.
 */

export const defaultAnnotationPrefix = 'flannel.alpha.coreos.com';

/** `prefix/name`; a prefix that has a slash already is completed with a hyphen, as flannel does. */
export function annotationKey(prefix: string, name: string): string {
  if (prefix.endsWith('/') || prefix.endsWith('-')) return prefix + name;
  return `${prefix}${prefix.includes('/') ? '-' : '/'}${name}`;
}

const names = {
  4: { publicIp: 'public-ip', overwrite: 'public-ip-overwrite', data: 'backend-data' },
  6: { publicIp: 'public-ipv6', overwrite: 'public-ipv6-overwrite', data: 'backend-v6-data' },
} as const;

/** The annotations that say so; what the node does not have is not there. */
export function leaseAnnotations(attributes: LeaseAttributes, prefix: string): Map<string, string> {
  const annotations = new Map([
    [annotationKey(prefix, 'kube-subnet-manager'), 'true'],
    [annotationKey(prefix, 'backend-type'), attributes.backendType],
  ]);
  for (const family of families) {
    const publicIp = attributes.publicIps[family];
    if (publicIp === undefined) continue;
    annotations.set(annotationKey(prefix, names[family].publicIp), publicIp);
    const data = JSON.stringify(attributes.backendData[family] ?? null);
    annotations.set(annotationKey(prefix, names[family].data), data);
  }
  return annotations;
}

/** The addresses that an operator wants announced. Text that is no address is left out. */
export function overwrittenIps(node: V1Node, prefix: string): PerFamily<Ip> {
  const found = families.flatMap((family) => {
    const text = node.metadata?.annotations?.[annotationKey(prefix, names[family].overwrite)];
    const ip = text === undefined ? undefined : parseIp(text);
    return ip !== undefined && familyOf(ip) === family ? [[family, ip] as const] : [];
  });
  return Object.fromEntries(found);
}

/** The pod subnets that the node was given; a problem is a sentence without the node's name. */
export function nodeSubnets(node: V1Node): PerFamily<Cidr> | { readonly problem: string } {
  const { podCIDR, podCIDRs = podCIDR === undefined ? [] : [podCIDR] } = node.spec ?? {};
  const subnets: { 4?: Cidr; 6?: Cidr } = {};
  for (const text of podCIDRs) {
    const cidr = parseCidr(text);
    if (cidr === undefined) return { problem: `its pod CIDR is not a network: ${JSON.stringify(text)}` };
    if (subnets[familyOf(cidr)] !== undefined) {
      return { problem: `it has two pod CIDRs of IPv${familyOf(cidr)}: ${podCIDRs.join(', ')}` };
    }
    subnets[familyOf(cidr)] = cidr;
  }
  return subnets;
}

/** Reads a node strictly: any node can write its own. Undefined for one that no subnet manager keeps. */
export function parseNodeLease(
  node: V1Node,
  prefix: string,
): Lease | { readonly problem: string } | undefined {
  const { name: key = '', annotations = {} } = node.metadata ?? {};
  const read = (name: string) => annotations[annotationKey(prefix, name)];
  if (read('kube-subnet-manager') !== 'true') return undefined;
  const subnets = nodeSubnets(node);
  if ('problem' in subnets) return subnets;
  const publicIps: { 4?: Ip; 6?: Ip } = {};
  const backendData: { 4?: unknown; 6?: unknown } = {};
  for (const family of families) {
    const publicIp = read(names[family].publicIp);
    const data = read(names[family].data);
    if (publicIp !== undefined) {
      const ip = parseIp(publicIp);
      if (ip === undefined || familyOf(ip) !== family) {
        return { problem: `${names[family].publicIp} is no address: ${JSON.stringify(publicIp)}` };
      }
      publicIps[family] = ip;
    }
    if (data === undefined) continue;
    const parsed = parseJson(data);
    if (parsed === undefined) return { problem: `${names[family].data} is not JSON: ${data.slice(0, 80)}` };
    backendData[family] = parsed;
  }
  return { key, subnets, publicIps, backendType: read('backend-type') ?? '', backendData };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
