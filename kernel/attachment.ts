import {
  type Cidr,
  familyOf,
  type HostCidr,
  type Ip,
  ipOf,
  type Mac,
  prefixLengthOf,
} from '../core/address.ts';
import { type NetlinkMessage, NLM_F_CREATE, NLM_F_EXCL } from './netlink/message.ts';
import { encodeAddress, IFA_F_NODAD } from './netlink/route/address.ts';
import { encodeLink, encodeVethPair, IFF_UP } from './netlink/route/link.ts';
import {
  encodeRoute,
  RT_SCOPE_LINK,
  RT_SCOPE_UNIVERSE,
  RT_TABLE_MAIN,
  RTN_UNICAST,
} from './netlink/route/route.ts';
import { RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, RTM_SETLINK } from './netlink/route/rtnetlink.ts';

/** One way out of the container. */
export interface AttachmentRoute {
  readonly destination: Cidr;
  /** Without it the destination is on the link. */
  readonly gateway?: Ip | undefined;
  readonly priority?: number | undefined;
  readonly table?: number | undefined;
  /** RT_SCOPE_… */
  readonly scope?: number | undefined;
}

/** The end in the container's namespace. */
export interface AttachmentPod {
  /** Path of the namespace, as the runtime wrote it. */
  readonly sandbox: string;
  /** Descriptor of the namespace, open for the time of a write; only making the row needs it. */
  readonly namespaceFd?: number | undefined;
  readonly ifname: string;
  readonly mac: Mac;
  readonly hostMac: Mac;
  readonly addresses: readonly HostCidr[];
  readonly routes: readonly AttachmentRoute[];
}

/**
 * One interface of one container: a veth pair from a bridge of this node into the container's namespace, with
 * everything in it. The key of the row is the name of the end on the host.
 */
export interface AttachmentRow {
  readonly hostName: string;
  /** Ours begin with "fairlead "; what follows is for people. */
  readonly alias: string;
  /** Name of the bridge; undefined when read back from a port without one. */
  readonly bridge?: string | undefined;
  readonly mtuBytes?: number | undefined;
  readonly hairpin?: boolean | undefined;
  /** Undefined in rows that were read back: the node's namespace does not see it. */
  readonly pod?: AttachmentPod | undefined;
}

/** Mark of ownership of the ends on the host. */
export const attachmentAliasPrefix = 'fairlead ';
/** The kernel's IFALIASZ, less the NUL. */
export const aliasBytesMax = 255;
/** Where eth0 usually stands in a new namespace, right after lo. */
export const podIndexUsual = 2;
const LOOPBACK_INDEX = 1;

/** Numbers that the kernel must not be asked for first: they are part of the messages. */
export interface AttachmentIndexes {
  readonly master: number;
  readonly host: number;
  readonly pod: number;
}

/**
 * What makes a row, from the node's side: the pair (both ends born where they belong), and the mark, which the
 * kernel ignores while it makes a link. One datagram.
 */
export function hostMessages(
  row: AttachmentRow,
  pod: AttachmentPod,
  indexes: AttachmentIndexes,
): NetlinkMessage[] {
  const { hostName: name, mtuBytes, alias } = row;
  const { ifname, mac, hostMac, namespaceFd = -1 } = pod;
  return [
    encodeVethPair({
      host: { name, index: indexes.host, mac: hostMac, mtuBytes, masterIndex: indexes.master },
      peer: { name: ifname, index: indexes.pod, mac, mtuBytes, namespaceFd },
    }),
    markMessage(name, indexes.host, alias, row.hairpin ?? false),
  ];
}

/** A port's flags can only be changed on a link that is there: they go with the alias. */
function markMessage(name: string, index: number, alias: string, hairpin: boolean): NetlinkMessage {
  const port = hairpin ? { portKind: 'bridge', bridgePort: { hairpin } } : {};
  return {
    type: hairpin ? RTM_NEWLINK : RTM_SETLINK,
    flags: 0,
    payload: encodeLink({ index, alias, ...port }),
    operation: `RTM_SETLINK ${name} alias`,
  };
}

/** What makes a row inside the container's namespace, once the pair is there. One datagram, in this order. */
export function podMessages(pod: AttachmentPod, podIndex: number): NetlinkMessage[] {
  return [
    upMessage('lo', LOOPBACK_INDEX),
    upMessage(pod.ifname, podIndex),
    ...pod.addresses.map((address) => addressMessage(address, podIndex)),
    ...pod.routes.map((route) => routeMessage(route, podIndex)),
  ];
}

function upMessage(name: string, index: number): NetlinkMessage {
  return {
    type: RTM_SETLINK,
    flags: 0,
    payload: encodeLink({ index, flags: IFF_UP, changeMask: IFF_UP }),
    operation: `RTM_SETLINK ${name} up`,
  };
}

function addressMessage(address: HostCidr, index: number): NetlinkMessage {
  const ip = ipOf(address);
  // Duplicate detection would keep an IPv6 address from working for a second; the address is ours alone.
  const flags = familyOf(address) === 6 ? IFA_F_NODAD : 0;
  return {
    type: RTM_NEWADDR,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    payload: encodeAddress({ ip, prefixLength: prefixLengthOf(address), index, flags }),
    operation: `RTM_NEWADDR ${address}`,
  };
}

function routeMessage(route: AttachmentRoute, index: number): NetlinkMessage {
  const { destination, gateway, priority } = route;
  const scope = route.scope ?? (gateway === undefined ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE);
  const table = route.table ?? RT_TABLE_MAIN;
  return {
    type: RTM_NEWROUTE,
    // Without NLM_F_EXCL: a second interface of the container may bring a default route too.
    flags: NLM_F_CREATE,
    payload: encodeRoute({
      destination,
      gateway,
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
