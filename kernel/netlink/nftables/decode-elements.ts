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
