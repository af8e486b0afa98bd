import {
  type Cidr,
  familyOf,
  type HostCidr,
  type Ip,
  ipOf,
  type Mac,
  prefixLengthOf,
} from '../core/address.ts';
import type { Reply } from '../native/index.ts';
import type { BegunJob } from './job.ts';
import { type NetlinkMessage, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE } from './netlink/message.ts';
import { encodeAddress, IFA_F_NODAD } from './netlink/route/address.ts';
import {
  encodeLink,
  encodeVethPair,
  IFF_UP,
  IN6_ADDR_GEN_MODE_NONE,
  type Link,
} from './netlink/route/link.ts';
import { encodeNeighbor, NUD_PERMANENT } from './netlink/route/neighbor.ts';
import {
  encodeRoute,
  RT_SCOPE_LINK,
  RT_SCOPE_UNIVERSE,
  RT_TABLE_MAIN,
  RTN_UNICAST,
} from './netlink/route/route.ts';
import {
  FAIRLEAD_PROTOCOL,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWNEIGH,
  RTM_NEWROUTE,
  RTM_SETLINK,
} from './netlink/route/rtnetlink.ts';

/** One way out of the container. */
export interface AttachmentRoute {
  readonly destination: Cidr;
  /** Without it the destination is on the link. */
  readonly gateway?: Ip | undefined;
  /** Source address of packets that begin in the container; an address of this interface. */
  readonly source?: Ip | undefined;
  readonly priority?: number | undefined;
  readonly table?: number | undefined;
  /** RT_SCOPE_… */
  readonly scope?: number | undefined;
}

/** Whose MAC is known without asking: neither ARP nor neighbour discovery is ever sent for it. */
export interface AttachmentNeighbor {
  readonly ip: Ip;
  readonly mac: Mac;
}

/** What the end on the host has when it is no port of a bridge: the host is the pod's first router. */
export interface AttachmentHost {
  /** The pod's gateways, one address each (/32, /128). */
  readonly addresses: readonly HostCidr[];
  /** The pod's addresses. */
  readonly neighbors: readonly AttachmentNeighbor[];
}

/** The end in the container's namespace. */
export interface AttachmentPod {
  /** Path of the namespace, as the runtime wrote it. */
  readonly sandbox: string;
  /** Descriptor of the namespace, open for the time of a write; only making the row needs it. */
  readonly namespaceFd?: number | undefined;
  /** Sent when the row is made; for the time of a write, too. */
  readonly reply?: Reply | undefined;
  /** The making of the row has begun with this. */
  readonly begun?: BegunPair | undefined;
  readonly ifname: string;
  readonly mac: Mac;
  readonly hostMac: Mac;
  readonly addresses: readonly HostCidr[];
  readonly routes: readonly AttachmentRoute[];
  readonly neighbors?: readonly AttachmentNeighbor[] | undefined;
  /** Nothing but the addresses themselves is on the link: the kernel makes no routes to their subnets. */
  readonly isRouted?: boolean | undefined;
  /** The interface stays down; then there are neither addresses nor routes. */
  readonly isDown?: boolean | undefined;
  /** Nobody speaks IPv6 there: the kernel makes no link-local address, which every other port would hear of. */
  readonly isIpv4Only?: boolean | undefined;
  /** IPv6 addresses are looked for on the link before they are used (RFC 4862 §5.4): one to two seconds. */
  readonly detectsDuplicates?: boolean | undefined;
}

/**
 * One interface of one container: a veth pair from a bridge of this node, or from the node itself, into the
 * container's namespace, with everything in it. The key of the row is the name of the end on the host.
 */
export interface AttachmentRow {
  readonly hostName: string;
  /** Ours begin with "fairlead "; what follows is for people. */
  readonly alias: string;
  /** Name of the bridge; undefined when the pod is routed, and when read back from a port without one. */
  readonly bridge?: string | undefined;
  readonly mtuBytes?: number | undefined;
  /** Frames may leave by the port they came in by. Only with a bridge. */
  readonly hairpin?: boolean | undefined;
  /** No frames to other isolated ports. Only with a bridge. */
  readonly isolated?: boolean | undefined;
  /** Only without a bridge. */
  readonly host?: AttachmentHost | undefined;
  /** Only in rows that were read back: the end on the host was taken out of service, and is to be deleted. */
  readonly isQuiesced?: boolean | undefined;
  /** Only in rows that were read back: the end on the host is down, whoever did it. */
  readonly isHostDown?: boolean | undefined;
  /** Undefined in rows that were read back: the node's namespace does not see it. */
  readonly pod?: AttachmentPod | undefined;
}

/** Mark of ownership of the ends on the host. */
export const attachmentAliasPrefix = 'fairlead ';
/** The kernel takes no attribute longer than its IFALIASZ of 256 less 1, which the NUL is part of. */
export const aliasBytesMax = 254;
/** Where eth0 usually stands in a new namespace, right after lo. */
export const podIndexUsual = 2;

/** What the kernel must not be asked for first: it is part of the messages. Numbers are those of interfaces. */
export interface AttachmentGround {
  /** Of the bridge; 0 = none. */
  readonly master: number;
  readonly host: number;
  readonly pod: number;
  /** Whether the kernel has IPv6 on the pair; where it has not, messages about it are refused. */
  readonly hasIpv6: boolean;
}

/** A pair that the kernel is asked for before all is known that is to be on it. */
export interface BegunPair {
  readonly ground: AttachmentGround;
  readonly job: BegunJob;
}

/** The kernel has no IPv6 on links with less (IPV6_MIN_MTU; RFC 8200 §5). */
export const ipv6MtuMinBytes = 1280;

/**
 * What makes a row, from the node's side: the pair (both ends born where they belong), and the mark, which the
 * kernel ignores while it makes a link. One datagram. A routed pod's end has the gateways' addresses as well.
 */
export function hostMessages(
  row: AttachmentRow,
  pod: AttachmentPod,
  ground: AttachmentGround,
): NetlinkMessage[] {
  const { hostName: name, mtuBytes } = row;
  const { ifname, mac, hostMac, namespaceFd = -1 } = pod;
  return [
    encodeVethPair({
      host: { name, index: ground.host, mac: hostMac, mtuBytes, masterIndex: ground.master || undefined },
      peer: { name: ifname, index: ground.pod, mac, mtuBytes, namespaceFd },
    }),
    markMessage(row, ground),
    ...hostEndMessages(row, ground.host),
  ];
}

/**
 * A port's flags can only be changed on a link that is there: they go with the alias. A port needs no address, and gets
 * none when it is told so before its other end goes up.
 */
function markMessage(row: AttachmentRow, { host: index, master, hasIpv6 }: AttachmentGround): NetlinkMessage {
  const { hostName, alias, hairpin = false, isolated = false } = row;
  const isPlain = !hairpin && !isolated;
  const bridgePort = { hairpin, isolated: isolated || undefined };
  const link = { index, alias, ...(master !== 0 && hasIpv6 && noLinkLocal) };
  return {
    type: isPlain ? RTM_SETLINK : RTM_NEWLINK,
    flags: 0,
    payload: encodeLink({ ...link, ...(isPlain ? {} : { portKind: 'bridge', bridgePort }) }),
    operation: `RTM_SETLINK ${hostName} alias`,
  };
}

const noLinkLocal = { ipv6AddressGeneration: IN6_ADDR_GEN_MODE_NONE };

function hostEndMessages({ host }: AttachmentRow, index: number): NetlinkMessage[] {
  if (host === undefined) return [];
  return [
    ...host.addresses.map((address) =>
      addressMessage(address, index, {
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        addressFlags: IFA_F_NODAD | IFA_F_NOPREFIXROUTE,
        protocol: FAIRLEAD_PROTOCOL,
      }),
    ),
    ...host.neighbors.map((neighbor) => neighborMessage(neighbor, index)),
  ];
}

/** The end on the host as the row says, of a pair that is there: nothing changes inside the container. */
export function updateMessages(row: AttachmentRow, index: number, master: number): NetlinkMessage[] {
  const { hostName, mtuBytes, alias, hairpin = false, isolated = false } = row;
  const operation = `RTM_SETLINK ${hostName}`;
  const link = { index, alias, mtuBytes, group: 0, masterIndex: master, flags: IFF_UP, changeMask: IFF_UP };
  const port = { index, portKind: 'bridge', bridgePort: { hairpin, isolated } };
  return [
    { type: RTM_SETLINK, flags: 0, payload: encodeLink(link), operation },
    ...(master === 0
      ? []
      : [{ type: RTM_NEWLINK, flags: 0, payload: encodeLink(port), operation: `${operation} port` }]),
    ...hostEndMessages(row, index),
  ];
}

/**
 * What makes a row inside the container's namespace, once the pair is there. One datagram, in this order. The
 * namespace's `lo` is the runtime's matter, by the plugin `loopback` or by itself.
 */
export function podMessages(
  pod: AttachmentPod,
  { pod: podIndex, hasIpv6 }: Pick<AttachmentGround, 'pod' | 'hasIpv6'>,
): NetlinkMessage[] {
  if (pod.isDown) return [];
  // Duplicate detection would keep an IPv6 address from working for a second; the address is ours alone.
  const addressFlags = (pod.detectsDuplicates ? 0 : IFA_F_NODAD) | (pod.isRouted ? IFA_F_NOPREFIXROUTE : 0);
  const flags = NLM_F_CREATE | NLM_F_EXCL;
  return [
    ...upMessages(pod, podIndex, hasIpv6),
    ...pod.addresses.map((address) => addressMessage(address, podIndex, { flags, addressFlags })),
    ...(pod.neighbors ?? []).map((neighbor) => neighborMessage(neighbor, podIndex)),
    ...pod.routes.map((route) => routeMessage(route, podIndex)),
  ];
}

/**
 * With arp_notify: who changes the interface's MAC later (type tuning) has its neighbours told. That no link-local
 * address is made must be said before the interface is up; then both go in the one message, as the kernel tells
 * everybody of each such change.
 */
function upMessages(
  { ifname, isIpv4Only = false }: AttachmentPod,
  index: number,
  hasIpv6: boolean,
): NetlinkMessage[] {
  const settings = { index, arpNotify: true };
  const up = { index, flags: IFF_UP, changeMask: IFF_UP };
  const message = (link: Link, what: string): NetlinkMessage => ({
    type: RTM_SETLINK,
    flags: 0,
    payload: encodeLink(link),
    operation: `RTM_SETLINK ${ifname} ${what}`,
  });
  if (!isIpv4Only || !hasIpv6) return [message({ ...settings, ...up }, 'up')];
  return [message({ ...settings, ...noLinkLocal }, 'addrgenmode'), message(up, 'up')];
}

/** Only the addresses themselves: no route to their subnet. */
const IFA_F_NOPREFIXROUTE = 0x200;

interface AddressHow {
  /** NLM_F_… */
  readonly flags: number;
  /** IFA_F_… */
  readonly addressFlags: number;
  readonly protocol?: number;
}

function addressMessage(
  address: HostCidr,
  index: number,
  { flags, addressFlags, protocol }: AddressHow,
): NetlinkMessage {
  const ip = ipOf(address);
  const isV4 = familyOf(address) === 4;
  const row = { ip, prefixLength: prefixLengthOf(address), index, protocol };
  return {
    type: RTM_NEWADDR,
    flags,
    payload: encodeAddress({ ...row, flags: isV4 ? addressFlags & ~IFA_F_NODAD : addressFlags }),
    operation: `RTM_NEWADDR ${address}`,
  };
}

function neighborMessage({ ip, mac }: AttachmentNeighbor, index: number): NetlinkMessage {
  return {
    type: RTM_NEWNEIGH,
    flags: NLM_F_CREATE | NLM_F_REPLACE,
    payload: encodeNeighbor({ index, ip, mac, state: NUD_PERMANENT, protocol: FAIRLEAD_PROTOCOL }),
    operation: `RTM_NEWNEIGH ${ip}`,
  };
}

function routeMessage(route: AttachmentRoute, index: number): NetlinkMessage {
  const { destination, gateway, source, priority } = route;
  const scope = route.scope ?? (gateway === undefined ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE);
  const table = route.table ?? RT_TABLE_MAIN;
  return {
    type: RTM_NEWROUTE,
    // Without NLM_F_EXCL: a second interface of the container may bring a default route too.
    flags: NLM_F_CREATE,
    payload: encodeRoute({
      destination,
      gateway,
      source,
      index,
      priority,
      table,
      scope,
      protocol: RTPROT_BOOT,
      type: RTN_UNICAST,
    }),
    operation: `RTM_NEWROUTE ${destination}`,
  };
}

/** Inside a container the routes are the container's: they carry the mark that `ip route` gives. */
const RTPROT_BOOT = 3;

/**
 * Takes the row out of service at once: the end on the host goes down and gets a group number, by which it is
 * deleted together with others (one deletion alone makes the caller wait 16 ms for an RCU grace period).
 */
export function quiesceMessage(hostName: string, group: number): NetlinkMessage {
  return {
    type: RTM_SETLINK,
    flags: 0,
    payload: encodeLink({ name: hostName, group, flags: 0, changeMask: IFF_UP }),
    operation: `RTM_SETLINK ${hostName} down`,
  };
}
