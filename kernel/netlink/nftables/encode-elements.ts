import { type NetlinkMessage, NLM_F_CREATE, NLM_F_ECHO } from '../message.ts';
import { align4, Writer } from '../wire.ts';
import type { NftExpression } from './bytecode.ts';
import * as nft from './constants.ts';
import {
  ELEMENTS_PER_MESSAGE,
  type ElementMessages,
  ElementPacker,
  LIST_BYTES_MAX,
  type PlainMessages,
} from './element-packer.ts';
import { encodeData, encodeVerdict } from './encode-expression.ts';
import { writeHex } from './keys.ts';
import { newSet, payloadWriter, setDataBytes, setKeyBytes, type TableName } from './messages.ts';
import { entriesOfRange, isRangeSet, type NftEntry } from './ranges.ts';
import type { NftElement, NftSet } from './spec.ts';

const NLA_HEADER_BYTES = 4;

/** Makes the messages about elements of one set, as many as it takes. */
export interface ElementEncoder {
  /** NFT_MSG_NEWSETELEM */
  add(elements: readonly NftElement[]): NetlinkMessage[];
  /** NFT_MSG_DELSETELEM. One element that is not there makes the kernel refuse the whole transaction. */
  remove(elements: readonly NftElement[]): NetlinkMessage[];
  /** For elements to be added. Undefined for a set whose elements are not all of one shape. */
  packer(): ElementPacker | undefined;
}

export function elementEncoder(name: TableName, set: NftSet): ElementEncoder {
  const adding = elementMessages(name, set, true);
  const plain = plainMessages(adding, set, true);
  return {
    add: encoder(set, adding, plain),
    remove: encoder(set, ...removing(name, set)),
    packer: () => plain && new ElementPacker(plain),
  };
}

function removing(name: TableName, set: NftSet): [ElementMessages, PlainMessages | undefined] {
  const messages = elementMessages(name, set, false);
  return [messages, plainMessages(messages, set, false)];
}

function elementMessages(name: TableName, set: NftSet, adds: boolean): ElementMessages {
  const prefix = payloadWriter(name.family)
    .attrText(nft.elementList.TABLE, name.table)
    .attrText(nft.elementList.SET, set.name)
    .finish();
  return {
    type: adds ? nft.message.NEWSETELEM : nft.message.DELSETELEM,
    // What an element that goes has counted is known only then.
    flags: adds ? NLM_F_CREATE : set.counter ? NLM_F_ECHO : 0,
    operation: `NFT_MSG_${adds ? 'NEW' : 'DEL'}SETELEM ${name.table} ${set.name}`,
    prefix,
  };
}

/** Undefined where elements are of different lengths: verdicts, ranges and lifetimes. */
function plainMessages(messages: ElementMessages, set: NftSet, adds: boolean): PlainMessages | undefined {
  if (set.interval || set.dynamic || (adds && set.data === 'verdict')) return undefined;
  const dataBytes = adds ? setDataBytes(set) : 0;
  const key = '00'.repeat(setKeyBytes(set));
  const writer = new Writer(128);
  encodeEntry(writer, dataBytes === 0 ? { key } : { key, data: '00'.repeat(dataBytes) }, adds);
  const keyAt = 3 * NLA_HEADER_BYTES;
  const dataAt = dataBytes === 0 ? undefined : keyAt + align4(setKeyBytes(set)) + 2 * NLA_HEADER_BYTES;
  return { ...messages, blank: writer.finish(), keyAt, dataAt };
}

function encoder(set: NftSet, messages: ElementMessages, plain: PlainMessages | undefined) {
  return (elements: readonly NftElement[]): NetlinkMessage[] => {
    if (plain !== undefined) return encodePlain(plain, elements);
    return encodeMixed(messages, isRangeSet(set) ? elements.flatMap(entriesOfRange) : elements);
  };
}

function encodePlain(messages: PlainMessages, elements: readonly NftElement[]): NetlinkMessage[] {
  const packer = new ElementPacker(messages, elements.length);
  for (const { key, data } of elements) {
    const at = packer.add();
    writeHex(packer.bytes, at, key);
    if (messages.dataAt !== undefined) writeHex(packer.bytes, at + packer.keyToData, data as string);
  }
  return packer.takeAll().map(({ message }) => message);
}

function encodeMixed(
  { prefix, type, flags, operation }: ElementMessages,
  entries: readonly NftEntry[],
): NetlinkMessage[] {
  const adds = type === nft.message.NEWSETELEM;
  const messages: NetlinkMessage[] = [];
  for (let at = 0; at < entries.length; ) {
    const writer = new Writer(1024).bytes(prefix);
    const mark = writer.beginNest(nft.elementList.ELEMENTS);
    const end = Math.min(entries.length, at + ELEMENTS_PER_MESSAGE);
    for (; at < end && writer.length < LIST_BYTES_MAX; at += 1) {
      encodeEntry(writer, entries[at] as NftEntry, adds);
    }
    messages.push({ type, flags, payload: writer.endNest(mark).finish(), operation });
  }
  return messages;
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
