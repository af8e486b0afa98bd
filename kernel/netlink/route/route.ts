import {
  type Cidr,
  type Family,
  familyOf,
  type Ip,
  ipFromBytes,
  ipOf,
  ipToBytes,
  prefixLengthOf,
} from '../../../core/address.ts';
import { type Attributes, MalformedMessageError, Reader, Writer } from '../wire.ts';
import { addressFamily, checkPrefixLength, familyFrom, ipAttribute, ipFrom } from './rtnetlink.ts';

const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RTA_PRIORITY = 6;
const RTA_PREFSRC = 7;
const RTA_MULTIPATH = 9;
const RTA_TABLE = 15;
const RTA_VIA = 18;
const RTA_ENCAP_TYPE = 21;
const RTA_ENCAP = 22;
/** linux/lwtunnel.h */
const LWTUNNEL_ENCAP_IP6 = 4;
const LWTUNNEL_IP6_DST = 2;
const LWTUNNEL_IP6_SRC = 3;

export const RT_TABLE_MAIN = 254;
export const RTN_UNSPEC = 0;
export const RTN_UNICAST = 1;
/** Packets end here without a word. */
export const RTN_BLACKHOLE = 6;
export const RT_SCOPE_UNIVERSE = 0;
export const RT_SCOPE_LINK = 253;
/** In a deletion: whatever the scope is. */
export const RT_SCOPE_NOWHERE = 255;
/** The gateway is a neighbour on the link although no address of the link says so. */
export const RTNH_F_ONLINK = 4;
/** A cached result of IPv6, not a route. */
export const RTM_F_CLONED = 0x200;
const NEXT_HOP_HEADER_BYTES = 8;

export interface NextHop {
  /** Of the link. */
  readonly index?: number | undefined;
  readonly gateway?: Ip | undefined;
  /** RTNH_F_… */
  readonly flags?: number | undefined;
}

/** Ends of the outer IPv6 header of packets that take the route; its device is a tunnel without ends of its own. */
export interface RouteEncapsulation {
  readonly destination: Ip;
  readonly source: Ip;
}

/** One RTM_…ROUTE message (struct rtmsg and attributes). */
export interface Route extends NextHop {
  readonly destination: Cidr;
  /** RTA_PREFSRC: source address of packets that begin here. */
  readonly source?: Ip | undefined;
  readonly encapsulation?: RouteEncapsulation | undefined;
  /** Metric: of several routes to one destination the lowest is used. */
  readonly priority?: number | undefined;
  readonly table: number;
  /** Who made it (RTPROT_…). */
  readonly protocol: number;
  /** RT_SCOPE_… */
  readonly scope: number;
  /** RTN_… */
  readonly type: number;
  /** Only read: more than one way. */
  readonly nextHops?: readonly NextHop[] | undefined;
}

export function encodeRoute(route: Route): Uint8Array {
  const { destination, table, protocol, scope, type, gateway, source, priority, index } = route;
  const family = familyOf(destination);
  const prefixLength = prefixLengthOf(destination);
  const writer = new Writer(96);
  writer.u8(addressFamily(family)).u8(prefixLength).u8(0).u8(0);
  writer
    .u8(table < 256 ? table : 0)
    .u8(protocol)
    .u8(scope)
    .u8(type)
    .u32(route.flags ?? 0);
  if (prefixLength > 0) writer.attr(RTA_DST, ipToBytes(ipOf(destination)));
  writer.attrU32(RTA_TABLE, table);
  if (gateway !== undefined) writeGateway(writer, gateway, family);
  if (index !== undefined) writer.attrU32(RTA_OIF, index);
  if (source !== undefined) writer.attr(RTA_PREFSRC, ipToBytes(source));
  if (priority !== undefined) writer.attrU32(RTA_PRIORITY, priority);
  if (route.encapsulation !== undefined) writeEncapsulation(writer, route.encapsulation);
  return writer.finish();
}

function writeEncapsulation(writer: Writer, { destination, source }: RouteEncapsulation): void {
  writer.attrU16(RTA_ENCAP_TYPE, LWTUNNEL_ENCAP_IP6);
  writer.nest(RTA_ENCAP, () => {
    writer.attr(LWTUNNEL_IP6_DST, ipToBytes(destination)).attr(LWTUNNEL_IP6_SRC, ipToBytes(source));
  });
}

function readEncapsulation(attributes: Attributes): RouteEncapsulation | undefined {
  const ends = attributes.nested(RTA_ENCAP);
  if (ends === undefined || attributes.u16(RTA_ENCAP_TYPE) !== LWTUNNEL_ENCAP_IP6) return undefined;
  const destination = ipAttribute(ends, LWTUNNEL_IP6_DST, 6, 'route encapsulation');
  const source = ipAttribute(ends, LWTUNNEL_IP6_SRC, 6, 'route encapsulation');
  return destination && source && { destination, source };
}

/** RTA_VIA carries a gateway of the other family (RFC 8950). */
function writeGateway(writer: Writer, gateway: Ip, family: Family): void {
  const bytes = ipToBytes(gateway);
  if (familyOf(gateway) === family) {
    writer.attr(RTA_GATEWAY, bytes);
    return;
  }
  const via = new Writer(18).u16(addressFamily(familyOf(gateway))).bytes(bytes);
  writer.attr(RTA_VIA, via.finish());
}

/** Reads RTM_NEWROUTE and RTM_DELROUTE; throws MalformedMessageError. */
export function decodeRoute(payload: Uint8Array): Route {
  const reader = new Reader(payload, 'route');
  const family = familyFrom(reader.u8(), 'route');
  const prefixLength = checkPrefixLength(reader.u8(), family, 'route');
  const table = reader.skip(2).u8();
  const protocol = reader.u8();
  const scope = reader.u8();
  const type = reader.u8();
  const flags = reader.u32();
  const attributes = reader.attributes();
  const multipath = attributes.get(RTA_MULTIPATH);
  const destination =
    ipAttribute(attributes, RTA_DST, family, 'route') ?? ipFromBytes(new Uint8Array(family === 4 ? 4 : 16));
  return {
    destination: `${destination}/${prefixLength}` as Cidr,
    index: attributes.u32(RTA_OIF),
    gateway: readGateway(attributes, family),
    flags,
    source: ipAttribute(attributes, RTA_PREFSRC, family, 'route'),
    encapsulation: readEncapsulation(attributes),
    priority: attributes.u32(RTA_PRIORITY),
    table: attributes.u32(RTA_TABLE) ?? table,
    protocol,
    scope,
    type,
    nextHops: multipath === undefined ? undefined : readNextHops(multipath, family),
  };
}

function readGateway(attributes: Attributes, family: Family): Ip | undefined {
  const via = attributes.get(RTA_VIA);
  if (via === undefined) return ipAttribute(attributes, RTA_GATEWAY, family, 'route');
  const reader = new Reader(via, 'route via');
  const viaFamily = familyFrom(reader.u16(), 'route via');
  return ipFrom(reader.rest(), viaFamily, 'route via');
}

/** struct rtnexthop: length, flags, hops, index, attributes; one after the other. */
function readNextHops(bytes: Uint8Array, family: Family): NextHop[] {
  const hops: NextHop[] = [];
  for (let at = 0; at + NEXT_HOP_HEADER_BYTES <= bytes.length; ) {
    const reader = new Reader(bytes.subarray(at), 'route next hop');
    const length = reader.u16();
    if (length < NEXT_HOP_HEADER_BYTES || at + length > bytes.length) {
      throw new MalformedMessageError(`route next hop: says ${length} bytes, ${bytes.length - at} are left`);
    }
    const flags = reader.u8();
    const index = reader.skip(1).u32();
    const attributes = new Reader(bytes.subarray(at + NEXT_HOP_HEADER_BYTES, at + length), 'route next hop');
    hops.push({ index, flags, gateway: readGateway(attributes.attributes(), family) });
    at += (length + 3) & ~3;
  }
  return hops;
}

/** A filter for a dump, kept by the kernel under strict checks; 0 = any. */
export function encodeRouteDump(family: Family, filter: { table?: number; protocol?: number }): Uint8Array {
  const writer = new Writer(32);
  writer.u8(addressFamily(family)).zeros(4);
  writer.u8(filter.protocol ?? 0).zeros(6);
  if (filter.table !== undefined) writer.attrU32(RTA_TABLE, filter.table);
  return writer.finish();
}

/** For RTM_GETROUTE: the route that a packet to this address would take. */
export function encodeRouteLookup(destination: Ip): Uint8Array {
  const family = familyOf(destination);
  const writer = new Writer(32);
  writer
    .u8(addressFamily(family))
    .u8(family === 4 ? 32 : 128)
    .zeros(10);
  return writer.attr(RTA_DST, ipToBytes(destination)).finish();
}
