import type { NetlinkMessage } from '../message.ts';
import { NLM_F_APPEND, NLM_F_CREATE } from '../message.ts';
import { Attributes, Writer } from '../wire.ts';
import type { NftExpression } from './bytecode.ts';
import * as nft from './constants.ts';
import { decodeExpression } from './decode-expression.ts';
import { encodeExpression, encodeOne } from './encode-expression.ts';
import type { NftChain, NftFamily, NftHook, NftKey, NftLayout, NftRule, NftSet } from './spec.ts';
import { concatTypeId, keyBytes, type NftTypeName, nftTypes, VERDICT_TYPE } from './types.ts';
import { commentOf, commentUserdata, setUserdata } from './userdata.ts';

/** struct nfgenmsg in front of the attributes. */
export const GENMSG_BYTES = 4;

/** Begins a message's payload: family, version 0, and for batches the subsystem. */
export function payloadWriter(family: NftFamily | 'unspec', resource = 0, capacityBytes = 256): Writer {
  return new Writer(capacityBytes).u8(nft.families[family]).u8(0).u16be(resource);
}

/** The attributes behind struct nfgenmsg. */
export function attributesOf(message: NetlinkMessage, what: string): Attributes {
  return Attributes.parse(message.payload.subarray(GENMSG_BYTES), what);
}

/** The table that any message of nf_tables is about: attribute 1 of every one of them but NFT_MSG_NEWGEN. */
export function tableOf(message: NetlinkMessage): string {
  return attributesOf(message, 'nf_tables message').text(nft.table.NAME) ?? '';
}

/** Makes the messages one transaction. */
export function batch(messages: readonly NetlinkMessage[]): NetlinkMessage[] {
  const edge = (type: number, operation: string): NetlinkMessage => ({
    type,
    flags: 0,
    payload: payloadWriter('unspec', nft.SUBSYSTEM).finish(),
    operation,
  });
  return [
    edge(nft.BATCH_BEGIN, 'nftables transaction begin'),
    ...messages,
    edge(nft.BATCH_END, 'nftables transaction end'),
  ];
}

export type TableName = Pick<NftLayout, 'family' | 'table'>;

/** NFT_MSG_NEWTABLE. Without NLM_F_EXCL: a table that is there is left as it is. */
export function newTable(name: TableName, comment?: string): NetlinkMessage {
  const writer = payloadWriter(name.family)
    .attrText(nft.table.NAME, name.table)
    .attrU32be(nft.table.FLAGS, 0);
  if (comment !== undefined) writer.attr(nft.table.USERDATA, commentUserdata(comment));
  return {
    type: nft.message.NEWTABLE,
    flags: NLM_F_CREATE,
    payload: writer.finish(),
    operation: `NFT_MSG_NEWTABLE ${name.family} ${name.table}`,
  };
}

/** NFT_MSG_DELTABLE, with all that is in it. */
export function deleteTable(name: TableName): NetlinkMessage {
  return {
    type: nft.message.DELTABLE,
    flags: 0,
    payload: payloadWriter(name.family).attrText(nft.table.NAME, name.table).finish(),
    operation: `NFT_MSG_DELTABLE ${name.family} ${name.table}`,
  };
}

export function newChain(name: TableName, chain: NftChain): NetlinkMessage {
  const writer = payloadWriter(name.family)
    .attrText(nft.chain.TABLE, name.table)
    .attrText(nft.chain.NAME, chain.name);
  if (chain.hook !== undefined) writeHook(writer, chain.hook);
  return {
    type: nft.message.NEWCHAIN,
    flags: NLM_F_CREATE,
    payload: writer.finish(),
    operation: `NFT_MSG_NEWCHAIN ${name.table} ${chain.name}`,
  };
}

function writeHook(writer: Writer, hook: NftHook): void {
  writer.attrText(nft.chain.TYPE, hook.type);
  writer.nest(nft.chain.HOOK, (nested) => {
    nested.attrU32be(nft.hook.NUMBER, nft.hookNumbers[hook.hook]);
    nested.attrU32be(nft.hook.PRIORITY, hook.priority >>> 0);
  });
  writer.attrU32be(nft.chain.POLICY, nft.policies[hook.policy ?? 'accept']);
}

/** Appends a rule to its chain. Its sets without a name were made with numbers from `firstSetId` on. */
export function newRule(name: TableName, chain: string, rule: NftRule, firstSetId: number): NetlinkMessage {
  const writer = payloadWriter(name.family, 0, 1024)
    .attrText(nft.rule.TABLE, name.table)
    .attrText(nft.rule.CHAIN, chain);
  writer.nest(nft.rule.EXPRESSIONS, (nested) => {
    let setId = firstSetId;
    for (const expression of rule.expressions) {
      encodeExpression(nested, expression, setId);
      if (expression.kind === 'one of') setId += 1;
    }
  });
  if (rule.comment !== undefined) writer.attr(nft.rule.USERDATA, commentUserdata(rule.comment));
  return {
    type: nft.message.NEWRULE,
    flags: NLM_F_CREATE | NLM_F_APPEND,
    payload: writer.finish(),
    operation: `NFT_MSG_NEWRULE ${name.table} ${chain} "${rule.comment ?? ''}"`,
  };
}

function typeNames(key: NftKey): NftTypeName[] {
  return key.map((part) => (typeof part === 'string' ? part : part.type));
}

/** Bytes of the set's keys. */
export function setKeyBytes(set: NftSet): number {
  return keyBytes(typeNames(set.key));
}

/** Bytes of the map's data; 0 for sets and verdict maps. */
export function setDataBytes(set: NftSet): number {
  return set.data === undefined || set.data === 'verdict' ? 0 : keyBytes(typeNames(set.data));
}

/** nft's number of the map's data type; undefined for sets. */
export function setDataType({ data }: NftSet): number | undefined {
  if (data === undefined) return undefined;
  return data === 'verdict' ? VERDICT_TYPE : concatTypeId(typeNames(data));
}

/** NFT_SET_* flags. */
export function setFlagsOf(set: NftSet): number {
  return (
    (set.data === undefined ? 0 : nft.setFlags.MAP) |
    (set.interval ? nft.setFlags.INTERVAL : 0) |
    (set.interval && set.key.length > 1 ? nft.setFlags.CONCAT : 0) |
    (set.dynamic ? nft.setFlags.EVAL : 0) |
    (set.timeoutMs === undefined ? 0 : nft.setFlags.TIMEOUT)
  );
}

/** NFT_MSG_NEWSET. `id` is any number that is used once in the transaction. */
export function newSet(name: TableName, set: NftSet, id: number, extraFlags = 0): NetlinkMessage {
  const key = typeNames(set.key);
  const writer = payloadWriter(name.family, 0, 512)
    .attrText(nft.set.TABLE, name.table)
    .attrText(nft.set.NAME, set.name)
    .attrU32be(nft.set.FLAGS, setFlagsOf(set) | extraFlags)
    .attrU32be(nft.set.KEY_TYPE, concatTypeId(key))
    .attrU32be(nft.set.KEY_LEN, keyBytes(key));
  const dataType = setDataType(set);
  if (dataType !== undefined) {
    writer.attrU32be(nft.set.DATA_TYPE, dataType).attrU32be(nft.set.DATA_LEN, setDataBytes(set));
  }
  writer.attrU32be(nft.set.ID, id);
  writeDescription(writer, set, key);
  if (set.timeoutMs !== undefined) writer.attrU64be(nft.set.TIMEOUT, BigInt(set.timeoutMs));
  writer.attr(nft.set.USERDATA, setUserdata(set));
  // Elements that say nothing of it get one like this.
  if (set.counter) writer.nest(nft.set.EXPR, (nested) => encodeOne(nested, { kind: 'counter' }));
  return {
    type: nft.message.NEWSET,
    flags: NLM_F_CREATE,
    payload: writer.finish(),
    operation: `NFT_MSG_NEWSET ${name.table} ${set.name}`,
  };
}

/** The size, and for ranges in concatenations the width of each part. */
function writeDescription(writer: Writer, set: NftSet, key: readonly NftTypeName[]): void {
  const fields = set.interval && key.length > 1 ? key : [];
  if (set.size === undefined && fields.length === 0) return;
  writer.nest(nft.set.DESC, (nested) => {
    if (set.size !== undefined) nested.attrU32be(nft.setDescription.SIZE, set.size);
    if (fields.length === 0) return;
    nested.nest(nft.setDescription.CONCAT, (list) => {
      for (const type of fields) {
        list.nest(nft.LIST_ELEM, (field) => {
          field.attrU32be(nft.setDescription.FIELD_LEN, nftTypes[type].bytes);
        });
      }
    });
  });
}

/** What the kernel says about a table of ours. */
export interface TableState {
  readonly name: string;
  /** NFT_TABLE_F_*; 1 is dormant: nothing of it is in force. */
  readonly flags: number;
  readonly comment: string | undefined;
}

export function decodeTable(message: NetlinkMessage): TableState {
  const attributes = attributesOf(message, 'NFT_MSG_NEWTABLE');
  return {
    name: attributes.text(nft.table.NAME) ?? '',
    flags: attributes.u32be(nft.table.FLAGS) ?? 0,
    comment: commentOf(attributes.get(nft.table.USERDATA)),
  };
}

export interface ChainState {
  readonly table: string;
  readonly name: string;
  readonly type: string | undefined;
  /** NF_INET_* and priority, of base chains. */
  readonly hook: { readonly number: number; readonly priority: number } | undefined;
  readonly policy: number | undefined;
}

export function decodeChain(message: NetlinkMessage): ChainState {
  const attributes = attributesOf(message, 'NFT_MSG_NEWCHAIN');
  const hook = attributes.nested(nft.chain.HOOK);
  return {
    table: attributes.text(nft.chain.TABLE) ?? '',
    name: attributes.text(nft.chain.NAME) ?? '',
    type: attributes.text(nft.chain.TYPE),
    hook: hook && {
      number: hook.u32be(nft.hook.NUMBER) ?? 0,
      priority: (hook.u32be(nft.hook.PRIORITY) ?? 0) | 0,
    },
    policy: attributes.u32be(nft.chain.POLICY),
  };
}

/** The kernel's own number for a table: one that is made again gets another. */
export function decodeTableHandle(message: NetlinkMessage): bigint {
  return attributesOf(message, 'NFT_MSG_NEWTABLE').u64be(nft.table.HANDLE) ?? 0n;
}

/** How many rules a chain has, and how many lead to it. */
export function decodeChainUses(message: NetlinkMessage): number {
  return attributesOf(message, 'NFT_MSG_NEWCHAIN').u32be(nft.chain.USE) ?? 0;
}

export interface RuleState {
  readonly table: string;
  readonly chain: string;
  readonly comment: string | undefined;
  readonly expressions: readonly NftExpression[];
}

export function decodeRule(message: NetlinkMessage): RuleState {
  const attributes = attributesOf(message, 'NFT_MSG_NEWRULE');
  const list = attributes.get(nft.rule.EXPRESSIONS) ?? new Uint8Array();
  return {
    table: attributes.text(nft.rule.TABLE) ?? '',
    chain: attributes.text(nft.rule.CHAIN) ?? '',
    comment: commentOf(attributes.get(nft.rule.USERDATA)),
    expressions: [...Attributes.parse(list, 'NFTA_RULE_EXPRESSIONS')].map(({ value }) =>
      decodeExpression(Attributes.parse(value, 'nft expression')),
    ),
  };
}

export interface SetState {
  readonly table: string;
  readonly name: string;
  readonly flags: number;
  readonly keyType: number;
  readonly keyBytes: number;
  readonly dataType: number | undefined;
  readonly dataBytes: number;
  readonly size: number | undefined;
  readonly timeoutMs: number | undefined;
  readonly userdata: Uint8Array | undefined;
}

export function decodeSet(message: NetlinkMessage): SetState {
  const attributes = attributesOf(message, 'NFT_MSG_NEWSET');
  const timeout = attributes.u64be(nft.set.TIMEOUT);
  return {
    table: attributes.text(nft.set.TABLE) ?? '',
    name: attributes.text(nft.set.NAME) ?? '',
    flags: attributes.u32be(nft.set.FLAGS) ?? 0,
    keyType: attributes.u32be(nft.set.KEY_TYPE) ?? 0,
    keyBytes: attributes.u32be(nft.set.KEY_LEN) ?? 0,
    dataType: attributes.u32be(nft.set.DATA_TYPE),
    dataBytes: attributes.u32be(nft.set.DATA_LEN) ?? 0,
    size: attributes.nested(nft.set.DESC)?.u32be(nft.setDescription.SIZE),
    timeoutMs: timeout === undefined ? undefined : Number(timeout),
    userdata: attributes.get(nft.set.USERDATA),
  };
}
