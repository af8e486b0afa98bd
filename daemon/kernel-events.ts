import { anyCidr, familyOf, type Mac } from '../core/address.ts';
import { fdbKey, neighborKey } from '../kernel/neighbor.ts';
import type { NetlinkMessage } from '../kernel/netlink/message.ts';
import { decodeFdb, decodeNeighbor, NUD_PERMANENT } from '../kernel/netlink/route/neighbor.ts';
import { decodeRoute, RTN_BLACKHOLE } from '../kernel/netlink/route/route.ts';
import {
  AF_BRIDGE,
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
import { routeKey } from '../kernel/route.ts';
import { isBackendDevice } from './backend/backend.ts';
import type { NodePlan } from './node-plan.ts';
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
  /** Names of links by index: of the underlay and of backends' devices. */
  readonly devices: ReadonlyMap<number, string>;
  readonly plan: WantedRows;
}

/** Rows that the kernel tells of one by one; what it says of them that is as wanted, is often our own doing. */
export type WantedRows = Pick<NodePlan, 'links' | 'routes' | 'neighbors' | 'fdb'>;

export function kernelInterest(
  { links }: Pick<UnderlayFacts, 'links'>,
  underlay: string,
  plan: WantedRows,
): KernelInterest {
  const own = links.filter(({ name }) => name === underlay || isBackendDevice(name));
  return {
    names: [underlay, ...plan.links.keys()].map(nameAttribute),
    underlayIndex: links.find(({ name }) => name === underlay)?.index,
    devices: new Map(own.map(({ index, name }) => [index, name])),
    plan,
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
export function concerns(
  message: Pick<NetlinkMessage, 'type' | 'payload'>,
  interest: KernelInterest,
): boolean {
  const { type, payload } = message;
  const { names, underlayIndex, devices } = interest;
  switch (type) {
    case RTM_NEWLINK:
    case RTM_DELLINK: {
      // By name too: a device made anew has an index that nobody knows yet.
      const bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
      return names.some((name) => bytes.includes(name));
    }
    case RTM_NEWADDR:
    case RTM_DELADDR:
      return devices.has(indexIn(payload));
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH: {
      const device = indexIn(payload) === underlayIndex ? undefined : devices.get(indexIn(payload));
      return device !== undefined && concernsNeighbor(message, device, interest.plan);
    }
    case RTM_NEWROUTE:
    case RTM_DELROUTE:
      return concernsRoute(message, interest);
    case RTM_NEWNETCONF:
      return isAboutSettings(payload, interest);
    default:
      return false;
  }
}

/** What is gone and was not wanted is no news, nor is what is there as wanted. */
function concernsNeighbor(
  { type, payload }: Pick<NetlinkMessage, 'type' | 'payload'>,
  device: string,
  { neighbors, fdb }: WantedRows,
): boolean {
  const isEntry = payload[0] === AF_BRIDGE;
  const { state, mac, destination, ip } = isEntry
    ? { ip: undefined, ...decodeFdb(payload) }
    : { destination: undefined, ...decodeNeighbor(payload) };
  const key = isEntry
    ? mac && destination && fdbKey({ device, mac, destination })
    : ip && neighborKey({ device, ip, mac: '' as Mac });
  if (key === undefined) return false; // an entry of a bridge's own
  const wanted = isEntry ? fdb.get(key) : neighbors.get(key);
  if (type === RTM_DELNEIGH) return wanted !== undefined;
  const isPermanent = (state & NUD_PERMANENT) !== 0;
  return wanted === undefined ? isPermanent : !isPermanent || wanted.mac !== mac;
}

function concernsRoute(
  { type, payload }: Pick<NetlinkMessage, 'type' | 'payload'>,
  { devices, plan: { routes } }: KernelInterest,
): boolean {
  const route = decodeRoute(payload);
  const { destination, table, protocol, index, gateway, type: routeType } = route;
  if (destination === anyCidr(familyOf(destination))) return true;
  const wanted = routes.get(routeKey({ destination, table }));
  if (wanted === undefined) return protocol === FAIRLEAD_PROTOCOL && type === RTM_NEWROUTE;
  if (type === RTM_DELROUTE || protocol !== FAIRLEAD_PROTOCOL) return true;
  if (wanted.blackhole) return routeType !== RTN_BLACKHOLE;
  return wanted.gateway !== gateway || wanted.device !== devices.get(index ?? 0);
}

/** struct netconfmsg (uapi/linux/netconf.h) is the family and three bytes of padding; attributes follow. */
const NETCONF_HEADER_BYTES = 4;
const NETCONFA_IFINDEX = 1;
const NETCONFA_FORWARDING = 2;
const NETCONFA_RP_FILTER = 3;
/** The index that stands for net/ipv4/conf/all and net/ipv6/conf/all. */
const NETCONFA_IFINDEX_ALL = -1;

/**
 * Each new device brings notifications of its own parameters, too; only the switches of the node are ours, and the
 * filter of our own devices.
 */
function isAboutSettings(payload: Uint8Array, { devices, underlayIndex }: KernelInterest): boolean {
  const attributes = Attributes.parse(payload.subarray(NETCONF_HEADER_BYTES), 'netconf');
  const index = attributes.i32(NETCONFA_IFINDEX) ?? 0;
  const isFilter = attributes.has(NETCONFA_RP_FILTER);
  if (index === NETCONFA_IFINDEX_ALL) return isFilter || attributes.has(NETCONFA_FORWARDING);
  return isFilter && index !== underlayIndex && devices.has(index);
}

/** Links, addresses and neighbours have the index at the same place of their headers. */
function indexIn(payload: Uint8Array): number {
  return payload.length < 8 ? 0 : new DataView(payload.buffer, payload.byteOffset).getInt32(4, true);
}
