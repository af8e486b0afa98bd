import { type NetlinkMessage, NLM_F_CREATE } from '../message.ts';
import { Attributes, align4, MalformedMessageError, NLA_F_NESTED, Writer } from '../wire.ts';
import type { NftExpression } from './bytecode.ts';
import * as nft from './constants.ts';
import { decodeVerdict } from './decode-expression.ts';
import { encodeData, encodeVerdict } from './encode-expression.ts';
import { writeHex } from './keys.ts';
import {
  GENMSG_BYTES,
  newSet,
  payloadWriter,
  setDataBytes,
  setKeyBytes,
  type TableName,
} from './messages.ts';
import { entriesOfRange, type NftEntry, rangesOfEntries } from './ranges.ts';
import type { NftElement, NftSet } from './spec.ts';

/** A list of elements must stay below 64 KiB: nla_len is 16 bit, and the kernel would silently lose the rest. */
export const ELEMENTS_PER_MESSAGE = 1200;
const LIST_BYTES_MAX = 60_000;
const NLA_HEADER_BYTES = 4;
const NLA_TYPE_MASK = 0x3fff;

/** NFT_MSG_NEWSETELEM, in as many messages as it takes. */
export function newElements(name: TableName, set: NftSet, elements: readonly NftElement[]): NetlinkMessage[] {
  return elementMessages(nft.message.NEWSETELEM, name, set, elements);
}

/** NFT_MSG_DELSETELEM. One element that is not there makes the kernel refuse the whole transaction. */
export function deleteElements(
  name: TableName,
  set: NftSet,
  elements: readonly NftElement[],
): NetlinkMessage[] {
  return elementMessages(nft.message.DELSETELEM, name, set, elements);
}

type OneOf = Extract<NftExpression, { kind: 'one of' }>;

/** A set without a name and its elements; `id` is how the rule behind it finds it. */
export function newAnonymousSet(name: TableName, { field, values }: OneOf, id: number): NetlinkMessage[] {
  const set: NftSet = { name: nft.ANONYMOUS_SET, key: [field], size: values.length };
  const list = new Writer();
  for (const key of values) encodeEntry(list, { key }, true);
  const payload = payloadWriter(name.family)
    .attrText(nft.elementList.TABLE, name.table)
    .attrText(nft.elementList.SET, set.name)
    .attrU32be(nft.elementList.SET_ID, id)
    .attr(nft.elementList.ELEMENTS | NLA_F_NESTED, list.finish())
    .finish();
  return [
    newSet(name, set, id, nft.setFlags.ANONYMOUS | nft.setFlags.CONSTANT),
    {
      type: nft.message.NEWSETELEM,
      flags: NLM_F_CREATE,
      payload,
      operation: 'NFT_MSG_NEWSETELEM without name',
    },
  ];
}

function elementMessages(
  type: number,
  name: TableName,
  set: NftSet,
  elements: readonly NftElement[],
): NetlinkMessage[] {
  const adds = type === nft.message.NEWSETELEM;
  const entries: readonly NftEntry[] = isRangeSet(set) ? elements.flatMap(entriesOfRange) : elements;
  const plain = !set.interval && (!adds || set.data !== 'verdict');
  const messages: NetlinkMessage[] = [];
  for (let at = 0; at < entries.length; ) {
    const { list, next } = (plain ? encodePlain : encodeMixed)(set, entries, at, adds);
    at = next;
    messages.push({
      type,
      flags: adds ? NLM_F_CREATE : 0,
      payload: payloadWriter(name.family, 0, list.length + 128)
        .attrText(nft.elementList.TABLE, name.table)
        .attrText(nft.elementList.SET, set.name)
        .attr(nft.elementList.ELEMENTS | NLA_F_NESTED, list)
        .finish(),
      operation: `${adds ? 'NFT_MSG_NEWSETELEM' : 'NFT_MSG_DELSETELEM'} ${name.table} ${set.name}`,
    });
  }
  return messages;
}

/** Ranges of a concatenation are single entries with two keys; see ranges.ts for those of one value. */
function isRangeSet(set: NftSet): boolean {
  return set.interval === true && set.key.length === 1;
}

interface EncodedList {
  readonly list: Uint8Array;
  /** The first entry that had no place. */
  readonly next: number;
}

/** Verdicts and ranges: entries of different lengths. */
function encodeMixed(_: NftSet, entries: readonly NftEntry[], from: number, adds: boolean): EncodedList {
  const writer = new Writer(1024);
  const end = Math.min(entries.length, from + ELEMENTS_PER_MESSAGE);
  let next = from;
  for (; next < end && writer.length < LIST_BYTES_MAX; next += 1) {
    encodeEntry(writer, entries[next] as NftEntry, adds);
  }
  return { list: writer.finish(), next };
}

function encodeEntry(writer: Writer, entry: NftEntry, adds: boolean): void {
  const mark = writer.beginNest(nft.LIST_ELEM);
  encodeData(writer, nft.element.KEY, entry.key);
  if (entry.end) writer.attrU32be(nft.element.FLAGS, nft.ELEMENT_INTERVAL_END);
  const data = adds ? entry.data : undefined;
  if (typeof data === 'string') encodeData(writer, nft.element.DATA, data);
  else if (data !== undefined) encodeVerdict(writer, nft.element.DATA, data);
  if (entry.keyEnd !== undefined) encodeData(writer, nft.element.KEY_END, entry.keyEnd);
  writer.endNest(mark);
}

/** Entries that differ in bytes only: one of them is encoded, and the bytes of each are put into copies of it. */
function encodePlain(set: NftSet, entries: readonly NftEntry[], from: number, adds: boolean): EncodedList {
  const sample = new Writer(128);
  const dataBytes = adds ? setDataBytes(set) : 0;
  const blank: NftEntry = { key: '00'.repeat(setKeyBytes(set)) };
  encodeEntry(sample, dataBytes === 0 ? blank : { ...blank, data: '00'.repeat(dataBytes) }, adds);
  const template = sample.finish();
  const keyAt = 3 * NLA_HEADER_BYTES;
  const dataAt = keyAt + align4(setKeyBytes(set)) + 2 * NLA_HEADER_BYTES;
  const fit = Math.min(ELEMENTS_PER_MESSAGE, Math.floor(LIST_BYTES_MAX / template.length));
  const next = Math.min(entries.length, from + fit);
  const list = new Uint8Array((next - from) * template.length);
  for (let index = from, at = 0; index < next; index += 1, at += template.length) {
    const { key, data } = entries[index] as NftEntry;
    list.set(template, at);
    writeHex(list, at + keyAt, key);
    if (dataBytes > 0) writeHex(list, at + dataAt, data as string);
  }
  return { list, next };
}

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
  const length = buffer.readUInt16LE(at);
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
  for (let at = from; at + NLA_HEADER_BYTES <= limit; ) {
    const end = attributeEnd(buffer, at, limit);
    const type = buffer.readUInt16LE(at + 2) & NLA_TYPE_MASK;
    const inside = at + NLA_HEADER_BYTES;
    if (type === nft.element.KEY) key = decodeValue(buffer, inside, end);
    else if (type === nft.element.KEY_END) keyEnd = decodeValue(buffer, inside, end);
    else if (type === nft.element.DATA) data = decodeData(buffer, inside, end);
    else if (type === nft.element.FLAGS) flags = buffer.readUInt32BE(inside);
    at = align4(end);
  }
  if (keyEnd !== undefined) push({ set, key, keyEnd, ...(data === undefined ? {} : { data }) }, false);
  else push(data === undefined ? { set, key } : { set, key, data }, (flags & nft.ELEMENT_INTERVAL_END) !== 0);
}

/** The bytes of struct nft_data that holds a value. */
function decodeValue(buffer: Buffer, at: number, limit: number): string {
  return buffer.toString('hex', at + NLA_HEADER_BYTES, attributeEnd(buffer, at, limit));
}

function decodeData(buffer: Buffer, at: number, limit: number): NftElement['data'] {
  const isValue = (buffer.readUInt16LE(at + 2) & NLA_TYPE_MASK) === nft.data.VALUE;
  return isValue
    ? decodeValue(buffer, at, limit)
    : decodeVerdict(Attributes.parse(buffer.subarray(at, limit), 'nftables verdict'));
}
