import type { NetlinkMessage } from '../message.ts';
import { Attributes, align4, MalformedMessageError } from '../wire.ts';
import * as nft from './constants.ts';
import { decodeVerdict } from './decode-expression.ts';
import { GENMSG_BYTES } from './messages.ts';
import { isRangeSet, type NftEntry, rangesOfEntries } from './ranges.ts';
import type { NftElement, NftSet } from './spec.ts';

const NLA_HEADER_BYTES = 4;
const NLA_TYPE_MASK = 0x3fff;

/** The rows of one set, from the messages of its dump (NFT_MSG_GETSETELEM). */
export function decodeElements(set: NftSet, messages: readonly NetlinkMessage[]): NftElement[] {
  const entries: NftEntry[] = [];
  const elements: NftElement[] = [];
  for (const { payload } of messages) {
    const attributes = Attributes.parse(payload.subarray(GENMSG_BYTES), 'NFT_MSG_NEWSETELEM');
    const list = attributes.get(nft.elementList.ELEMENTS);
    if (list === undefined) continue;
    if (isRangeSet(set)) decodeList(set.name, list, (element, end) => entries.push({ ...element, end }));
    else decodeList(set.name, list, (element) => elements.push(element));
  }
  return isRangeSet(set) ? rangesOfEntries(set.name, entries) : elements;
}

/** Reads a list of elements by hand: dumps hold tens of thousands, and an object for each attribute is too much. */
function decodeList(set: string, bytes: Uint8Array, push: (element: NftElement, end: boolean) => void): void {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at + NLA_HEADER_BYTES <= buffer.length; ) {
    const end = attributeEnd(buffer, at, buffer.length);
    decodeEntry(set, buffer, at + NLA_HEADER_BYTES, end, push);
    at = align4(end);
  }
}

function attributeEnd(buffer: Buffer, at: number, limit: number): number {
  const length = at + NLA_HEADER_BYTES <= limit ? buffer.readUInt16LE(at) : 0;
  if (length < NLA_HEADER_BYTES || at + length > limit) {
    throw new MalformedMessageError(`nftables element: attribute at byte ${at} says ${length} bytes`);
  }
  return at + length;
}

function decodeEntry(
  set: string,
  buffer: Buffer,
  from: number,
  limit: number,
  push: (element: NftElement, end: boolean) => void,
): void {
  let key = '';
  let keyEnd: string | undefined;
  let data: NftElement['data'];
  let flags = 0;
  let timeoutMs: number | undefined;
  let expiresMs: number | undefined;
  for (let at = from; at + NLA_HEADER_BYTES <= limit; ) {
    const end = attributeEnd(buffer, at, limit);
    const type = buffer.readUInt16LE(at + 2) & NLA_TYPE_MASK;
    const inside = at + NLA_HEADER_BYTES;
    if (type === nft.element.KEY) key = decodeValue(buffer, inside, end);
    else if (type === nft.element.KEY_END) keyEnd = decodeValue(buffer, inside, end);
    else if (type === nft.element.DATA) data = decodeData(buffer, inside, end);
    else if (type === nft.element.FLAGS && end - inside === 4) flags = buffer.readUInt32BE(inside);
    else if (type === nft.element.TIMEOUT && end - inside === 8)
      timeoutMs = Number(buffer.readBigUInt64BE(inside));
    else if (type === nft.element.EXPIRATION && end - inside === 8)
      expiresMs = Number(buffer.readBigUInt64BE(inside));
    at = align4(end);
  }
  if (expiresMs !== undefined) {
    const lifetime = { timeoutMs: timeoutMs ?? expiresMs, expiresMs };
    push({ set, key, ...(data === undefined ? {} : { data }), lifetime }, false);
  } else if (keyEnd !== undefined) push({ set, key, keyEnd, ...(data === undefined ? {} : { data }) }, false);
  else push(data === undefined ? { set, key } : { set, key, data }, (flags & nft.ELEMENT_INTERVAL_END) !== 0);
}

/** The bytes of struct nft_data that holds a value. */
function decodeValue(buffer: Buffer, at: number, limit: number): string {
  return buffer.toString('hex', at + NLA_HEADER_BYTES, attributeEnd(buffer, at, limit));
}

function decodeData(buffer: Buffer, at: number, limit: number): NftElement['data'] {
  attributeEnd(buffer, at, limit);
  return (buffer.readUInt16LE(at + 2) & NLA_TYPE_MASK) === nft.data.VALUE
    ? decodeValue(buffer, at, limit)
    : decodeVerdict(Attributes.parse(buffer.subarray(at, limit), 'nftables verdict'));
}

/**
 * What the elements in one message have counted: those of a dump, or those that were taken away (NFT_MSG_DELSETELEM
 * with NLM_F_ECHO). Told by the set's name and the element's key; elements that counted nothing are left out.
 */
export function decodePackets(
  { payload }: NetlinkMessage,
  push: (set: string, key: string, packets: number) => void,
): void {
  const attributes = Attributes.parse(payload.subarray(GENMSG_BYTES), 'NFT_MSG_NEWSETELEM');
  const set = attributes.text(nft.elementList.SET);
  const list = attributes.get(nft.elementList.ELEMENTS);
  if (set === undefined || list === undefined) return;
  const buffer = Buffer.from(list.buffer, list.byteOffset, list.byteLength);
  for (let at = 0; at + NLA_HEADER_BYTES <= buffer.length; ) {
    const end = attributeEnd(buffer, at, buffer.length);
    const counter = within(buffer, [at, end], nft.element.EXPR);
    const packets = counter === undefined ? 0 : packetsOf(buffer, counter);
    const key = packets === 0 ? undefined : within(buffer, [at, end], nft.element.KEY);
    if (key !== undefined) push(set, decodeValue(buffer, key[0] + NLA_HEADER_BYTES, key[1]), packets);
    at = align4(end);
  }
}

/** Where an attribute begins, its header included, and where it ends. */
type Place = readonly [number, number];

/** The attribute of that type in one that holds others. */
function within(buffer: Buffer, [from, limit]: Place, type: number): Place | undefined {
  for (let at = from + NLA_HEADER_BYTES; at + NLA_HEADER_BYTES <= limit; ) {
    const end = attributeEnd(buffer, at, limit);
    if ((buffer.readUInt16LE(at + 2) & NLA_TYPE_MASK) === type) return [at, end];
    at = align4(end);
  }
  return undefined;
}

/** Of an expression; 0 of one that does not count. */
function packetsOf(buffer: Buffer, place: Place): number {
  const body = within(buffer, place, nft.expression.DATA);
  const packets = body && within(buffer, body, nft.counter.PACKETS);
  const at = (packets?.[0] ?? 0) + NLA_HEADER_BYTES;
  return packets?.[1] === at + 8 ? Number(buffer.readBigUInt64BE(at)) : 0;
}
