import { hash } from 'node:crypto';
import {
  anyCidr,
  type Family,
  families,
  familyOf,
  type HostCidr,
  hostCidr,
  type Ip,
  ipOf,
  ipToBytes,
  type Mac,
  macFromBytes,
  prefixLengthOf,
} from '../core/address.ts';
import {
  type AttachmentRoute,
  type AttachmentRow,
  aliasBytesMax,
  attachmentAliasPrefix,
} from '../kernel/attachment.ts';
import { RT_SCOPE_LINK } from '../kernel/netlink/route/route.ts';
import type { CniRoute, Dns, NetworkConfig } from './config.ts';
import { CniError, cniCode } from './error.ts';
import type { IpamResult } from './ipam-result.ts';
import type { NodeNetwork } from './node-network.ts';
import { type AttachmentId, attachmentKey, type BridgeNeed } from './part.ts';
import { type RangeSet, subnetRange } from './ranges.ts';
import type { Result } from './result.ts';

export { type AttachmentId, attachmentKey } from './part.ts';

/** A network configuration together with what the node adds to it: everything but the pod. */
export interface AttachmentNetwork extends BridgeNeed {
  readonly hairpin: boolean;
  readonly mac?: Mac | undefined;
  readonly rangeSets: readonly RangeSet[];
  readonly routes: readonly CniRoute[];
  readonly dns: Dns;
}

export const defaultBridge = 'cni0';

/** Needs the node's own network only where the configuration has no ranges of its own. */
export function planNetwork(
  config: NetworkConfig,
  node: NodeNetwork | undefined,
): AttachmentNetwork | CniError {
  const rangeSets = config.rangeSets.length > 0 ? config.rangeSets : nodeRangeSets(node);
  if (rangeSets instanceof CniError) return rangeSets;
  const { hairpin, mac, routes, dns } = config;
  return {
    bridge: config.bridge ?? node?.name ?? defaultBridge,
    mtuBytes: config.mtuBytes ?? node?.mtuBytes,
    hairpin,
    mac,
    rangeSets,
    gateways: gatewaysOf(rangeSets),
    routes,
    dns,
  };
}

function nodeRangeSets(node: NodeNetwork | undefined): readonly RangeSet[] | CniError {
  if (node === undefined || node.subnets.length === 0) {
    return new CniError(cniCode.tryAgain, 'the node has no pod subnet yet');
  }
  const sets: RangeSet[] = [];
  for (const subnet of node.subnets) {
    const range = subnetRange(subnet);
    if (typeof range === 'string')
      return new CniError(cniCode.invalidConfig, `pod subnet of the node: ${range}`);
    sets.push([range]);
  }
  return sets;
}

const hostNamePrefix = 'fl';
const hostNameDigits = 13;

/** The same for the same attachment, whoever asks and whenever. 52 bits of SHA-256. */
export function hostNameOf(key: string): string {
  return hostNamePrefix + hash('sha256', key, 'hex').slice(0, hostNameDigits);
}

/** Whether {@link hostNameOf} could have made it. */
export function isHostName(name: string): boolean {
  return /^fl[0-9a-f]{13}$/.test(name);
}

/** Locally administered; the last four bytes are those of the address, so neighbours' caches stay right. */
function macOf(first: number, ip: Ip): Mac {
  return macFromBytes(Uint8Array.of(first, 0x58, ...ipToBytes(ip).slice(-4)));
}

const podMacByte = 0x0a;
const hostMacByte = 0x0e;

/**
 * The bridge's address on the link follows from its first gateway. Without a fixed one it would be that of its
 * lowest port, and every pod's neighbour entry of the gateway would go stale when a pod comes or goes.
 */
export function bridgeMac(gateways: readonly HostCidr[]): Mac | undefined {
  const [first] = gateways;
  return first === undefined ? undefined : macOf(podMacByte, first.slice(0, first.indexOf('/')) as Ip);
}

function gatewaysOf(sets: readonly RangeSet[]): HostCidr[] {
  return sets.flatMap((set) => set.map(({ gateway, subnet }) => hostCidr(gateway, prefixLengthOf(subnet))));
}

export interface Pod {
  readonly id: AttachmentId;
  /** CNI_NETNS as given. */
  readonly sandbox: string;
}

/**
 * A packet from the pod leaves by `ifname`, comes out of the end on the host, and the bridge hands it to another
 * pod's end or, when it is for the gateway's MAC, to the host, which routes it on. So the row is the pair, the
 * pod's addresses with the subnet's prefix, and a default route for each family by the bridge's own address.
 */
export function planAttachment(
  pod: Pod,
  network: AttachmentNetwork,
  { ips, routes }: Pick<IpamResult, 'ips' | 'routes'>,
): AttachmentRow {
  const key = attachmentKey(pod.id);
  const [address] = ips;
  const first = address === undefined ? ('0.0.0.0' as Ip) : ipOf(address.address);
  return {
    hostName: hostNameOf(key),
    alias: aliasOf(key),
    bridge: network.bridge,
    mtuBytes: network.mtuBytes,
    hairpin: network.hairpin,
    pod: {
      sandbox: pod.sandbox,
      ifname: pod.id.ifname,
      mac: network.mac ?? macOf(podMacByte, first),
      hostMac: macOf(hostMacByte, first),
      addresses: ips.map(({ address }) => address),
      routes: planRoutes(routes, ips),
    },
  };
}

/** Identifiers are ASCII: one byte a character. */
function aliasOf(key: string): string {
  return `${attachmentAliasPrefix}${key}`.slice(0, aliasBytesMax);
}

/** The configured routes, and a default route for each family that has an address and no default route yet. */
function planRoutes(routes: readonly CniRoute[], ips: IpamResult['ips']): AttachmentRoute[] {
  const gateways = new Map<Family, Ip>();
  for (const { address, gateway } of ips) {
    if (gateway !== undefined && !gateways.has(familyOf(address))) gateways.set(familyOf(address), gateway);
  }
  const planned = routes
    .filter(({ destination }) => gateways.has(familyOf(destination)))
    .map((route) => ({ ...route, gateway: route.gateway ?? implied(route, gateways) }));
  for (const family of families) {
    const gateway = gateways.get(family);
    const destination = anyCidr(family);
    if (gateway !== undefined && !routes.some((route) => route.destination === destination)) {
      planned.push({ destination, gateway });
    }
  }
  return planned;
}

/** A route to be on the link has no gateway; every other goes by the one of its family. */
function implied({ destination, scope }: CniRoute, gateways: ReadonlyMap<Family, Ip>): Ip | undefined {
  return scope === RT_SCOPE_LINK ? undefined : gateways.get(familyOf(destination));
}

/** What ADD answers: the bridge, the end on the host, and the end in the container, which has the addresses. */
export function planResult(
  row: AttachmentRow,
  { ips, dns }: Pick<IpamResult, 'ips' | 'dns'>,
  network: AttachmentNetwork,
): Result {
  const { hostName, mtuBytes, pod } = row;
  return {
    interfaces: [
      { name: network.bridge, mac: bridgeMac(network.gateways), mtuBytes },
      { name: hostName, mac: pod?.hostMac, mtuBytes },
      { name: pod?.ifname ?? '', mac: pod?.mac, mtuBytes, sandbox: pod?.sandbox },
    ],
    ips: ips.map((ip) => ({ ...ip, interface: 2 })),
    routes: pod?.routes ?? [],
    dns: isEmptyDns(network.dns) ? dns : network.dns,
  };
}

/** What the configuration says goes before what the addresses came with, as a whole. */
function isEmptyDns({ nameservers, domain = '', search, options }: Dns): boolean {
  return domain === '' && nameservers.length + search.length + options.length === 0;
}
