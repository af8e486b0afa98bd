import { anyCidr, familyOf } from '../core/address.ts';
import type { NetlinkMessage } from '../kernel/netlink/message.ts';
import { decodeRoute } from '../kernel/netlink/route/route.ts';
import {
  FAIRLEAD_PROTOCOL,
  RTM_DELADDR,
  RTM_DELLINK,
  RTM_DELNEIGH,
  RTM_DELROUTE,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWNEIGH,
  RTM_NEWNETCONF,
  RTM_NEWROUTE,
  RTNLGRP_IPV4_IFADDR,
  RTNLGRP_IPV4_NETCONF,
  RTNLGRP_IPV4_ROUTE,
  RTNLGRP_IPV6_IFADDR,
  RTNLGRP_IPV6_NETCONF,
  RTNLGRP_IPV6_ROUTE,
  RTNLGRP_LINK,
  RTNLGRP_NEIGH,
} from '../kernel/netlink/route/rtnetlink.ts';
import { Attributes } from '../kernel/netlink/wire.ts';
import { type RouteRow, routeKey } from '../kernel/route.ts';
import { isBackendDevice } from './backend/backend.ts';
import type { UnderlayFacts } from './underlay.ts';

/** Where rtnetlink tells of what the daemon has rows of, and of its underlay. */
export const kernelGroups: readonly number[] = [
  RTNLGRP_LINK,
  RTNLGRP_NEIGH,
  RTNLGRP_IPV4_IFADDR,
  RTNLGRP_IPV6_IFADDR,
  RTNLGRP_IPV4_ROUTE,
  RTNLGRP_IPV6_ROUTE,
  RTNLGRP_IPV4_NETCONF,
  RTNLGRP_IPV6_NETCONF,
];

/** What the daemon cares for among all that happens on a node. */
export interface KernelInterest {
  /** Names of the underlay and of backends' devices as attributes of messages: aliases hold names, too. */
  readonly names: readonly Buffer[];
  readonly underlayIndex: number | undefined;
  readonly backendIndexes: ReadonlySet<number>;
  readonly routes: ReadonlyMap<string, RouteRow>;
}

export function kernelInterest(
  { links }: Pick<UnderlayFacts, 'links'>,
  underlay: string,
  devices: Iterable<string>,
  routes: ReadonlyMap<string, RouteRow>,
): KernelInterest {
  return {
    names: [underlay, ...devices].map(nameAttribute),
    underlayIndex: links.find(({ name }) => name === underlay)?.index,
    backendIndexes: new Set(links.filter(({ name }) => isBackendDevice(name)).map(({ index }) => index)),
    routes,
  };
}

const IFLA_IFNAME = 3;
const ATTRIBUTE_HEADER_BYTES = 4;

function nameAttribute(name: string): Buffer {
  const text = Buffer.from(`${name}\0`);
  const header = Buffer.alloc(ATTRIBUTE_HEADER_BYTES);
  header.writeUInt16LE(ATTRIBUTE_HEADER_BYTES + text.length, 0);
  header.writeUInt16LE(IFLA_IFNAME, 2);
  return Buffer.concat([header, text]);
}

/**
 * Whether a notification is about something that the daemon plans. On a busy node nearly none is: each pod that
 * comes or goes makes dozens, and a pass over all tables for each would be felt by the pods.
 */
export function concerns({ type, payload }: NetlinkMessage, interest: KernelInterest): boolean {
  const { names, underlayIndex, backendIndexes, routes } = interest;
  switch (type) {
    case RTM_NEWLINK:
    case RTM_DELLINK: {
      // By name too: a device made anew has an index that nobody knows yet.
      const bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
      return names.some((name) => bytes.includes(name));
    }
    case RTM_NEWADDR:
    case RTM_DELADDR:
      return indexIn(payload) === underlayIndex || backendIndexes.has(indexIn(payload));
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH:
      return backendIndexes.has(indexIn(payload));
    case RTM_NEWROUTE:
    case RTM_DELROUTE: {
      const route = decodeRoute(payload);
      const isDefault = route.destination === anyCidr(familyOf(route.destination));
      const { destination, table } = route;
      return (
        isDefault ||
        route.protocol === FAIRLEAD_PROTOCOL ||
        routes.has(routeKey({ destination, table, device: '' }))
      );
    }
    case RTM_NEWNETCONF:
      return isAboutForwardingOfAll(payload);
    default:
      return false;
  }
}

/** struct netconfmsg (uapi/linux/netconf.h) is the family and three bytes of padding; attributes follow. */
const NETCONF_HEADER_BYTES = 4;
const NETCONFA_IFINDEX = 1;
const NETCONFA_FORWARDING = 2;
/** The index that stands for net/ipv4/conf/all and net/ipv6/conf/all. */
const NETCONFA_IFINDEX_ALL = -1;

/** Each new device brings notifications of its own parameters, too; only the switch of the node is ours. */
function isAboutForwardingOfAll(payload: Uint8Array): boolean {
  const attributes = Attributes.parse(payload.subarray(NETCONF_HEADER_BYTES), 'netconf');
  return attributes.has(NETCONFA_FORWARDING) && attributes.i32(NETCONFA_IFINDEX) === NETCONFA_IFINDEX_ALL;
}

/** Links, addresses and neighbours have the index at the same place of their headers. */
function indexIn(payload: Uint8Array): number {
  return payload.length < 8 ? 0 : new DataView(payload.buffer, payload.byteOffset).getInt32(4, true);
}
