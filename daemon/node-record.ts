import { type Cidr, families, familyOf, type Ip, parseCidr, parseIp } from '../core/address.ts';
import type { V1Node } from '../kube/types.ts';
import type { Lease, LeaseAttributes, NodeWishes, PerFamily } from './lease.ts';

/*
 * flannel's format on a Node: its subnets are `spec.podCIDRs`, everything else stands in annotations
 * `flannel.alpha.coreos.com/…`: `kube-subnet-manager: "true"`, `backend-type`, `public-ip`, `public-ipv6`,
 * `backend-data` and `backend-v6-data` (JSON text). An operator may set `public-ip-overwrite` and
 * `public-ipv6-overwrite`, which win over what the node found out itself, and `node-public-ip` and
 * `node-public-ipv6`, which tell it what to look for.
 */

export const defaultAnnotationPrefix = 'flannel.alpha.coreos.com';

/** Those of a Node's addresses that packets come from. */
export const addressTypes: readonly string[] = ['InternalIP', 'ExternalIP'];

/** What stands before the names: "example.com" is "example.com/", "example.com/net" is "example.com/net-". */
export function parseAnnotationPrefix(text: string): string | { readonly problem: string } {
  const slashes = text.split('/').length - 1;
  if (slashes > 1) return { problem: `${JSON.stringify(text)} has more than one slash` };
  const prefix = annotationKey(text, '');
  if (/^(?:[a-z0-9_-]+\.)+[a-z0-9_-]+\/(?:[a-z0-9_-]+-)?$/.test(prefix)) return prefix;
  return { problem: `${JSON.stringify(text)} is not a domain, or a domain, a slash and a name` };
}

/** `prefix/name`; a prefix that has a slash already is completed with a hyphen, as flannel does. */
export function annotationKey(prefix: string, name: string): string {
  if (!prefix.includes('/')) return `${prefix}/${name}`;
  return prefix.endsWith('/') || prefix.endsWith('-') ? prefix + name : `${prefix}-${name}`;
}

const names = {
  4: {
    publicIp: 'public-ip',
    overwrite: 'public-ip-overwrite',
    wish: 'node-public-ip',
    data: 'backend-data',
  },
  6: {
    publicIp: 'public-ipv6',
    overwrite: 'public-ipv6-overwrite',
    wish: 'node-public-ipv6',
    data: 'backend-v6-data',
  },
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

/** Annotations of ours of a family that the node does not use any more: the others would believe them. */
export function staleAnnotations(
  node: V1Node,
  wanted: ReadonlyMap<string, string>,
  prefix: string,
): string[] {
  const ours = families.flatMap((family) => [names[family].publicIp, names[family].data]);
  const there = node.metadata?.annotations ?? {};
  return ours.map((name) => annotationKey(prefix, name)).filter((key) => key in there && !wanted.has(key));
}

/** What an operator wrote at a node. Text that is no address is left out. */
export function nodeWishes(node: V1Node, prefix: string): NodeWishes {
  const read = (kind: 'overwrite' | 'wish') =>
    families.flatMap((family) => {
      const text = node.metadata?.annotations?.[annotationKey(prefix, names[family][kind])];
      const ip = text === undefined ? undefined : parseIp(text);
      return ip !== undefined && familyOf(ip) === family ? [[family, ip] as const] : [];
    });
  return { publicIps: Object.fromEntries(read('wish')), announced: Object.fromEntries(read('overwrite')) };
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
  const addresses = nodeAddresses(node).filter((ip) => ip !== publicIps[4] && ip !== publicIps[6]);
  const more = addresses.length > 0 ? { addresses } : {};
  return { key, subnets, publicIps, backendType: read('backend-type') ?? '', backendData, ...more };
}

/** As its kubelet and its cloud say. Text that is no address is left out. */
function nodeAddresses({ status }: V1Node): Ip[] {
  return (status?.addresses ?? [])
    .filter(({ type }) => addressTypes.includes(type))
    .flatMap(({ address }) => parseIp(address) ?? []);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
