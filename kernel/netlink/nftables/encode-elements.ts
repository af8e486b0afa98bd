import { type NetlinkMessage, NLM_F_CREATE, NLM_F_ECHO } from '../message.ts';
import { align4, NLA_F_NESTED, Writer } from '../wire.ts';
import type { NftExpression } from './bytecode.ts';
import * as nft from './constants.ts';
import { encodeData, encodeVerdict } from './encode-expression.ts';
import { writeHex } from './keys.ts';
import { newSet, payloadWriter, setDataBytes, setKeyBytes, type TableName } from './messages.ts';
import { entriesOfRange, isRangeSet, type NftEntry } from './ranges.ts';
import type { NftElement, NftSet } from './spec.ts';

/** A list of elements must stay below 64 KiB: nla_len is 16 bit, and the kernel would silently lose the rest. */
export const ELEMENTS_PER_MESSAGE = 1200;
const LIST_BYTES_MAX = 60_000;
const NLA_HEADER_BYTES = 4;

/** Makes the messages about elements of one set, as many as it takes. */
export interface ElementEncoder {
  /** NFT_MSG_NEWSETELEM */
  add(elements: readonly NftElement[]): NetlinkMessage[];
  /** NFT_MSG_DELSETELEM. One element that is not there makes the kernel refuse the whole transaction. */
  remove(elements: readonly NftElement[]): NetlinkMessage[];
}

export function elementEncoder(name: TableName, set: NftSet): ElementEncoder {
  const prefix = payloadWriter(name.family)
    .attrText(nft.elementList.TABLE, name.table)
    .attrText(nft.elementList.SET, set.name)
    .finish();
  const encoder = (adds: boolean) => {
    const data = adds ? set.data : undefined;
    const isMixed = set.interval || set.dynamic || data === 'verdict';
    const encode = isMixed ? mixedLists(prefix, adds) : plainLists(prefix, set, adds);
    const type = adds ? nft.message.NEWSETELEM : nft.message.DELSETELEM;
    // What an element that goes has counted is known only then.
    const flags = adds ? NLM_F_CREATE : set.counter ? NLM_F_ECHO : 0;
    const operation = `NFT_MSG_${adds ? 'NEW' : 'DEL'}SETELEM ${name.table} ${set.name}`;
    return (elements: readonly NftElement[]) => {
      const entries: readonly NftEntry[] = isRangeSet(set) ? elements.flatMap(entriesOfRange) : elements;
      return encode(entries).map((payload): NetlinkMessage => ({ type, flags, payload, operation }));
    };
  };
  return { add: encoder(true), remove: encoder(false) };
}

type EncodeLists = (entries: readonly NftEntry[]) => Uint8Array[];

/** Verdicts, ranges and lifetimes: entries of different lengths. */
function mixedLists(prefix: Uint8Array, adds: boolean): EncodeLists {
  return (entries) => {
    const payloads: Uint8Array[] = [];
    for (let at = 0; at < entries.length; ) {
      const writer = new Writer(1024).bytes(prefix);
      const mark = writer.beginNest(nft.elementList.ELEMENTS);
      const end = Math.min(entries.length, at + ELEMENTS_PER_MESSAGE);
      for (; at < end && writer.length < LIST_BYTES_MAX; at += 1) {
        encodeEntry(writer, entries[at] as NftEntry, adds);
      }
      payloads.push(writer.endNest(mark).finish());
    }
    return payloads;
  };
}

function encodeEntry(writer: Writer, entry: NftEntry, adds: boolean): void {
  const mark = writer.beginNest(nft.LIST_ELEM);
  encodeData(writer, nft.element.KEY, entry.key);
  if (entry.end) writer.attrU32be(nft.element.FLAGS, nft.ELEMENT_INTERVAL_END);
  const data = adds ? entry.data : undefined;
  if (typeof data === 'string') encodeData(writer, nft.element.DATA, data);
  else if (data !== undefined) encodeVerdict(writer, nft.element.DATA, data);
  if (entry.keyEnd !== undefined) encodeData(writer, nft.element.KEY_END, entry.keyEnd);
  if (entry.lifetime !== undefined) {
    writer.attrU64be(nft.element.TIMEOUT, BigInt(entry.lifetime.timeoutMs));
    writer.attrU64be(nft.element.EXPIRATION, BigInt(entry.lifetime.expiresMs));
  }
  writer.endNest(mark);
}

/** Entries that differ in bytes only: one of them is encoded once, and the bytes of each are put into copies of it. */
function plainLists(prefix: Uint8Array, set: NftSet, adds: boolean): EncodeLists {
  const dataBytes = adds ? setDataBytes(set) : 0;
  const blank: NftEntry = { key: '00'.repeat(setKeyBytes(set)) };
  const sample = new Writer(128);
  encodeEntry(sample, dataBytes === 0 ? blank : { ...blank, data: '00'.repeat(dataBytes) }, adds);
  const template = sample.finish();
  const keyAt = 3 * NLA_HEADER_BYTES;
  const dataAt = keyAt + align4(setKeyBytes(set)) + 2 * NLA_HEADER_BYTES;
  const fit = Math.min(ELEMENTS_PER_MESSAGE, Math.floor(LIST_BYTES_MAX / template.length));
  return (entries) => {
    const payloads: Uint8Array[] = [];
    for (let index = 0; index < entries.length; ) {
      const end = Math.min(entries.length, index + fit);
      const payload = listPayload(prefix, (end - index) * template.length);
      for (let at = prefix.length + NLA_HEADER_BYTES; index < end; index += 1, at += template.length) {
        const { key, data } = entries[index] as NftEntry;
        payload.set(template, at);
        writeHex(payload, at + keyAt, key);
        if (dataBytes > 0) writeHex(payload, at + dataAt, data as string);
      }
      payloads.push(payload);
    }
    return payloads;
  };
}

/** A payload up to the list of elements, with room for it. */
function listPayload(prefix: Uint8Array, listBytes: number): Uint8Array {
  const payload = new Uint8Array(prefix.length + NLA_HEADER_BYTES + listBytes);
  payload.set(prefix);
  const view = new DataView(payload.buffer);
  view.setUint16(prefix.length, NLA_HEADER_BYTES + listBytes, true);
  view.setUint16(prefix.length + 2, nft.elementList.ELEMENTS | NLA_F_NESTED, true);
  return payload;
}

type OneOf = Extract<NftExpression, { kind: 'one of' }>;

/** A set without a name and its elements; `id` is how the rule behind it finds it. */
export function newAnonymousSet(name: TableName, { field, values }: OneOf, id: number): NetlinkMessage[] {
  const set: NftSet = { name: nft.ANONYMOUS_SET, key: [field], size: values.length };
  const writer = payloadWriter(name.family)
    .attrText(nft.elementList.TABLE, name.table)
    .attrText(nft.elementList.SET, set.name)
    .attrU32be(nft.elementList.SET_ID, id);
  const mark = writer.beginNest(nft.elementList.ELEMENTS);
  for (const key of values) encodeEntry(writer, { key }, true);
  const payload = writer.endNest(mark).finish();
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
