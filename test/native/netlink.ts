/**
 * The few netlink messages that the tests of the byte pipe need, written out by hand: the codec of kernel/ is a
 * layer above and must not vouch for the layer below.
 */
import { endianness } from 'node:os';

export const AF_NETLINK = 16;
export const SOCK_RAW = 3;
export const NETLINK_ROUTE = 0;
export const SOL_NETLINK = 270;
export const NETLINK_ADD_MEMBERSHIP = 1;
export const RTNLGRP_LINK = 1;

const RTM_NEWLINK = 16;
const RTM_DELLINK = 17;
const RTM_GETLINK = 18;
const RTM_NEWROUTE = 24;
const RTM_GETROUTE = 26;
const NLM_F_REQUEST = 0x1;
const NLM_F_ACK = 0x4;
const NLM_F_DUMP = 0x300;
const NLM_F_CREATE = 0x400;
const NLM_F_EXCL = 0x200;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;

if (endianness() !== 'LE') throw new Error('the tests of native/ write little-endian messages');

function message(type: number, flags: number, payload: Uint8Array): Buffer {
  const buffer = Buffer.alloc(16 + Math.ceil(payload.length / 4) * 4);
  buffer.writeUInt32LE(16 + payload.length, 0);
  buffer.writeUInt16LE(type, 4);
  buffer.writeUInt16LE(NLM_F_REQUEST | flags, 6);
  buffer.writeUInt32LE(1, 8);
  buffer.set(payload, 16);
  return buffer;
}

function attribute(type: number, value: Uint8Array): Buffer {
  const buffer = Buffer.alloc(4 + Math.ceil(value.length / 4) * 4);
  buffer.writeUInt16LE(4 + value.length, 0);
  buffer.writeUInt16LE(type, 2);
  buffer.set(value, 4);
  return buffer;
}

function ifinfo(index: number, flags = 0, change = 0): Buffer {
  const buffer = Buffer.alloc(16);
  buffer.writeInt32LE(index, 4);
  buffer.writeUInt32LE(flags, 8);
  buffer.writeUInt32LE(change, 12);
  return buffer;
}

const text = (value: string): Buffer => Buffer.from(`${value}\0`);

/** All links of the socket's namespace. */
export const dumpLinks = (): Buffer => message(RTM_GETLINK, NLM_F_DUMP, ifinfo(0));

/** One link by its index; refused with ENODEV where it is missing. */
export const getLink = (index: number): Buffer => message(RTM_GETLINK, NLM_F_ACK, ifinfo(index));

/** A dump request that the strict checks refuse with a text. */
export const dumpLinksWithBadHeader = (): Buffer =>
  message(RTM_GETLINK, NLM_F_DUMP | NLM_F_ACK, ifinfo(0, 0, 7));

/** Changes nothing about the link. */
export const touchLink = (index: number): Buffer => message(RTM_NEWLINK, NLM_F_ACK, ifinfo(index));

/** Sets a link up or down: each change sends a notification. */
export const setLinkUp = (index: number, up: boolean): Buffer =>
  message(RTM_NEWLINK, NLM_F_ACK, ifinfo(index, up ? 1 : 0, 1));

/** A bridge: of all kinds of links the one that every kernel here has. */
export const addBridge = (name: string): Buffer =>
  message(
    RTM_NEWLINK,
    NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
    Buffer.concat([
      ifinfo(0),
      attribute(3, text(name)),
      attribute(18 | 0x8000, attribute(1, Buffer.from('bridge'))),
    ]),
  );

export const deleteLink = (name: string): Buffer =>
  message(RTM_DELLINK, NLM_F_ACK, Buffer.concat([ifinfo(0), attribute(3, text(name))]));

/** An unreachable IPv4 /32 route, which needs no device. */
export function addUnreachable(address: readonly [number, number, number, number]): Buffer {
  const rtmsg = Buffer.from([2, 32, 0, 0, 254, 4, 0, 7, 0, 0, 0, 0]);
  return message(
    RTM_NEWROUTE,
    NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
    Buffer.concat([rtmsg, attribute(1, Buffer.from(address))]),
  );
}

export const dumpRoutes = (): Buffer =>
  message(RTM_GETROUTE, NLM_F_DUMP, Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));

export interface Message {
  readonly type: number;
  readonly payload: Buffer;
}

export function parseMessages(answer: Buffer): Message[] {
  const messages: Message[] = [];
  for (let at = 0; at + 16 <= answer.length; ) {
    const length = answer.readUInt32LE(at);
    messages.push({ type: answer.readUInt16LE(at + 4), payload: answer.subarray(at + 16, at + length) });
    at += Math.ceil(length / 4) * 4;
  }
  return messages;
}

/** The errors of all acknowledgements, as positive errno; 0 is an ack. */
export const parseErrors = (answer: Buffer): number[] =>
  parseMessages(answer)
    .filter(({ type }) => type === NLMSG_ERROR)
    .map(({ payload }) => Math.abs(payload.readInt32LE(0)));

/** The error that ends a dump, as positive errno; 0 is a complete dump. */
export function parseDumpEnd(answer: Buffer): { error: number; payload: Buffer } | undefined {
  const end = parseMessages(answer).find(({ type }) => type === NLMSG_DONE);
  return end && { error: Math.abs(end.payload.readInt32LE(0)), payload: end.payload };
}

export const countRoutes = (answer: Buffer): number =>
  parseMessages(answer).filter(({ type }) => type === RTM_NEWROUTE).length;

/** The names of all links in an answer, sorted. */
export function parseLinkNames(answer: Buffer): string[] {
  const names: string[] = [];
  for (const { type, payload } of parseMessages(answer)) {
    if (type !== RTM_NEWLINK) continue;
    for (let at = 16; at + 4 <= payload.length; ) {
      const length = payload.readUInt16LE(at);
      if (payload.readUInt16LE(at + 2) === 3) names.push(payload.toString('utf8', at + 4, at + length - 1));
      at += Math.ceil(length / 4) * 4;
    }
  }
  return names.sort();
}
