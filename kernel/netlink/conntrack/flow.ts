import { type Family, type Ip, ipFromBytes, ipToBytes } from '../../../core/address.ts';
import type { NetlinkMessage } from '../message.ts';
import { Attributes, MalformedMessageError, Reader, Writer } from '../wire.ts';
import * as ct from './constants.ts';

/** Addresses and ports of one direction. Ports stand for protocols that have some: TCP, UDP, SCTP, DCCP. */
export interface FlowTuple {
  readonly src: Ip;
  readonly dst: Ip;
  readonly sport?: number | undefined;
  readonly dport?: number | undefined;
  /** What ICMP and ICMPv6 have instead of ports. */
  readonly icmp?: IcmpKey | undefined;
}

export interface IcmpKey {
  readonly id: number;
  readonly type: number;
  readonly code: number;
}

/** One connection as the kernel remembers it. */
export interface Flow {
  readonly family: Family;
  /** IPPROTO_*: 6, 17, 132… */
  readonly protocol: number;
  /** As its first packet came. */
  readonly original: FlowTuple;
  /** As answers come: translated addresses stand here. */
  readonly reply: FlowTuple;
  /** See `flowStatus`. */
  readonly status: number;
  readonly mark: number;
  readonly zone: number;
  /** Tells the flow from a later one between the same ports. */
  readonly id?: number | undefined;
}

/** Which flows; what is absent does not matter. */
export interface FlowFilter {
  readonly family?: Family | undefined;
  readonly protocol?: number | undefined;
  readonly original?: TupleFilter | undefined;
  readonly reply?: TupleFilter | undefined;
}

export type TupleFilter = Partial<Omit<FlowTuple, 'icmp'>>;

const IPPROTO_ICMP = 1;
const IPPROTO_ICMPV6 = 58;
/** struct nfgenmsg */
const GENMSG_BYTES = 4;

function payloadWriter(family: Family | undefined): Writer {
  return new Writer()
    .u8(family === undefined ? 0 : ct.protocolFamilies[family])
    .u8(0)
    .u16be(0);
}

/** IPCTNL_MSG_CT_GET for a dump. A kernel before 5.8 passes over the filter and sends all flows of the family. */
export function getFlows(filter: FlowFilter = {}): NetlinkMessage {
  const writer = payloadWriter(filter.family);
  if (filter.family !== undefined) writeFilter(writer, filter.family, filter);
  return { type: ct.message.GET, flags: 0, payload: writer.finish(), operation: 'IPCTNL_MSG_CT_GET' };
}

function writeFilter(writer: Writer, family: Family, { protocol, original, reply }: FlowFilter): void {
  const [first, second] = [sortable(family, original), sortable(family, reply)];
  const originalBits = filterBitsOf(first, protocol);
  const replyBits = filterBitsOf(second, protocol);
  if ((originalBits | replyBits) === 0) return;
  writeFilterTuple(writer, ct.flow.TUPLE_ORIG, family, first, protocol);
  writeFilterTuple(writer, ct.flow.TUPLE_REPLY, family, second, protocol);
  writer.nest(ct.flow.FILTER, (nested) => {
    nested.attrU32(ct.filter.ORIG_FLAGS, originalBits).attrU32(ct.filter.REPLY_FLAGS, replyBits);
  });
}

/** Without IPv6 addresses: Linux 6.18 sends the flows that have another one, and those that have it not. */
function sortable(family: Family, { src, dst, sport, dport }: TupleFilter = {}): TupleFilter {
  return family === 4 ? { src, dst, sport, dport } : { sport, dport };
}

/** The kernel takes ports only together with their protocol. */
function filterBitsOf({ src, dst, sport, dport }: TupleFilter, protocol: number | undefined): number {
  const bits = (src === undefined ? 0 : ct.filterBits.src) | (dst === undefined ? 0 : ct.filterBits.dst);
  if (protocol === undefined) return bits;
  return (
    bits |
    ct.filterBits.protocol |
    (sport === undefined ? 0 : ct.filterBits.sport) |
    (dport === undefined ? 0 : ct.filterBits.dport)
  );
}

function writeFilterTuple(
  writer: Writer,
  type: number,
  family: Family,
  { src, dst, sport, dport }: TupleFilter,
  protocol: number | undefined,
): void {
  writer.nest(type, (nested) => {
    if (src !== undefined || dst !== undefined) writeAddresses(nested, family, src, dst);
    if (protocol === undefined) return;
    nested.nest(ct.tuple.PROTO, (part) => {
      part.attrU8(ct.proto.NUM, protocol);
      if (sport !== undefined) part.attrU16be(ct.proto.SRC_PORT, sport);
      if (dport !== undefined) part.attrU16be(ct.proto.DST_PORT, dport);
    });
  });
}

function writeAddresses(writer: Writer, family: Family, src: Ip | undefined, dst: Ip | undefined): void {
  writer.nest(ct.tuple.IP, (part) => {
    if (src !== undefined) part.attr(family === 4 ? ct.ip.V4_SRC : ct.ip.V6_SRC, ipToBytes(src));
    if (dst !== undefined) part.attr(family === 4 ? ct.ip.V4_DST : ct.ip.V6_DST, ipToBytes(dst));
  });
}

/** IPCTNL_MSG_CT_DELETE of one flow, found by its first direction. Without a tuple the kernel would delete all. */
export function deleteFlow(flow: Flow): NetlinkMessage {
  return {
    type: ct.message.DELETE,
    flags: 0,
    payload: encodeFlow(flow, { withReply: false }),
    operation: `IPCTNL_MSG_CT_DELETE ${describeFlow(flow)}`,
  };
}

/** "17 10.0.0.1:4444 10.0.0.2:53" */
function describeFlow({ protocol, original: { src, dst, sport, dport } }: Flow): string {
  const end = (ip: Ip, port: number | undefined) => (port === undefined ? ip : `${ip}:${port}`);
  return `${protocol} ${end(src, sport)} ${end(dst, dport)}`;
}

/** The payload of a message about one flow; with the reply it is all that {@link decodeFlow} reads. */
export function encodeFlow(flow: Flow, { withReply }: { readonly withReply: boolean }): Uint8Array {
  const writer = payloadWriter(flow.family);
  writeTuple(writer, ct.flow.TUPLE_ORIG, flow, flow.original);
  if (withReply) {
    writeTuple(writer, ct.flow.TUPLE_REPLY, flow, flow.reply);
    writer.attrU32be(ct.flow.STATUS, flow.status).attrU32be(ct.flow.MARK, flow.mark);
  }
  if (flow.id !== undefined) writer.attrU32be(ct.flow.ID, flow.id);
  if (flow.zone !== 0) writer.attrU16be(ct.flow.ZONE, flow.zone);
  return writer.finish();
}

function writeTuple(writer: Writer, type: number, { family, protocol }: Flow, of: FlowTuple): void {
  writer.nest(type, (nested) => {
    writeAddresses(nested, family, of.src, of.dst);
    nested.nest(ct.tuple.PROTO, (part) => {
      part.attrU8(ct.proto.NUM, protocol);
      if (of.sport !== undefined) part.attrU16be(ct.proto.SRC_PORT, of.sport);
      if (of.dport !== undefined) part.attrU16be(ct.proto.DST_PORT, of.dport);
      if (of.icmp !== undefined) writeIcmp(part, protocol, of.icmp);
    });
  });
}

function writeIcmp(writer: Writer, protocol: number, { id, type, code }: IcmpKey): void {
  const at = icmpAttributes(protocol);
  writer.attrU16be(at.id, id).attrU8(at.type, type).attrU8(at.code, code);
}

function icmpAttributes(protocol: number) {
  return protocol === IPPROTO_ICMPV6
    ? { id: ct.proto.ICMPV6_ID, type: ct.proto.ICMPV6_TYPE, code: ct.proto.ICMPV6_CODE }
    : { id: ct.proto.ICMP_ID, type: ct.proto.ICMP_TYPE, code: ct.proto.ICMP_CODE };
}

/** Reads the payload of IPCTNL_MSG_CT_NEW. Undefined: a flow of neither IPv4 nor IPv6. */
export function decodeFlow(payload: Uint8Array): Flow | undefined {
  const reader = new Reader(payload, 'conntrack flow');
  const number = reader.u8();
  reader.skip(GENMSG_BYTES - 1);
  const family = number === ct.protocolFamilies[4] ? 4 : number === ct.protocolFamilies[6] ? 6 : undefined;
  if (family === undefined) return undefined;
  const attributes = reader.attributes();
  const original = decodeTuple(attributes, ct.flow.TUPLE_ORIG, family);
  const reply = decodeTuple(attributes, ct.flow.TUPLE_REPLY, family);
  return {
    family,
    protocol: original.protocol,
    original: original.tuple,
    reply: reply.tuple,
    status: attributes.u32be(ct.flow.STATUS) ?? 0,
    mark: attributes.u32be(ct.flow.MARK) ?? 0,
    zone: attributes.u16be(ct.flow.ZONE) ?? 0,
    id: attributes.u32be(ct.flow.ID),
  };
}

function decodeTuple(attributes: Attributes, type: number, family: Family) {
  const nested = attributes.nested(type);
  const addresses = nested?.nested(ct.tuple.IP);
  const part = nested?.nested(ct.tuple.PROTO) ?? Attributes.parse(new Uint8Array());
  const protocol = part.u8(ct.proto.NUM) ?? 0;
  const at = icmpAttributes(protocol);
  const hasIcmp = (protocol === IPPROTO_ICMP || protocol === IPPROTO_ICMPV6) && part.has(at.id);
  const tuple: FlowTuple = {
    src: addressOf(addresses, family === 4 ? ct.ip.V4_SRC : ct.ip.V6_SRC, family),
    dst: addressOf(addresses, family === 4 ? ct.ip.V4_DST : ct.ip.V6_DST, family),
    sport: part.u16be(ct.proto.SRC_PORT),
    dport: part.u16be(ct.proto.DST_PORT),
    icmp: hasIcmp
      ? { id: part.u16be(at.id) ?? 0, type: part.u8(at.type) ?? 0, code: part.u8(at.code) ?? 0 }
      : undefined,
  };
  return { protocol, tuple };
}

function addressOf(attributes: Attributes | undefined, type: number, family: Family): Ip {
  const bytes = attributes?.get(type);
  if (bytes?.length !== (family === 4 ? 4 : 16)) {
    throw new MalformedMessageError(`conntrack flow: attribute ${type} is no IPv${family} address`);
  }
  return ipFromBytes(bytes);
}

/** Whether the flow is one that the filter means. */
export function isFlowOf(flow: Flow, { family, protocol, original = {}, reply = {} }: FlowFilter): boolean {
  return (
    (family === undefined || flow.family === family) &&
    (protocol === undefined || flow.protocol === protocol) &&
    isTupleOf(flow.original, original) &&
    isTupleOf(flow.reply, reply)
  );
}

function isTupleOf(tuple: FlowTuple, { src, dst, sport, dport }: TupleFilter): boolean {
  return (
    (src === undefined || tuple.src === src) &&
    (dst === undefined || tuple.dst === dst) &&
    (sport === undefined || tuple.sport === sport) &&
    (dport === undefined || tuple.dport === dport)
  );
}
