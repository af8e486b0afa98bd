import type { NetlinkMessage } from '../message.ts';
import * as nft from './constants.ts';
import { encodeData } from './encode-expression.ts';
import { attributesOf, payloadWriter, type TableName } from './messages.ts';

/** Requests that read. Those for one object answer ENOENT when it is not there; the others are for dumps. */
export function getTable(name: TableName): NetlinkMessage {
  const payload = payloadWriter(name.family).attrText(nft.table.NAME, name.table).finish();
  return { type: nft.message.GETTABLE, flags: 0, payload, operation: `NFT_MSG_GETTABLE ${name.table}` };
}

/** For a dump of the tables of all families. */
export function getTables(): NetlinkMessage {
  const payload = payloadWriter('unspec').finish();
  return { type: nft.message.GETTABLE, flags: 0, payload, operation: 'NFT_MSG_GETTABLE' };
}

export function getChain(name: TableName, chain: string): NetlinkMessage {
  const payload = payloadWriter(name.family)
    .attrText(nft.chain.TABLE, name.table)
    .attrText(nft.chain.NAME, chain)
    .finish();
  return {
    type: nft.message.GETCHAIN,
    flags: 0,
    payload,
    operation: `NFT_MSG_GETCHAIN ${name.table} ${chain}`,
  };
}

/** For a dump of one table's rules, in the order of chains and, within a chain, of rules. */
export function getRules(name: TableName): NetlinkMessage {
  const payload = payloadWriter(name.family).attrText(nft.rule.TABLE, name.table).finish();
  return { type: nft.message.GETRULE, flags: 0, payload, operation: `NFT_MSG_GETRULE ${name.table}` };
}

/** For a dump of one table's sets, without their elements. */
export function getSets(name: TableName): NetlinkMessage {
  const payload = payloadWriter(name.family).attrText(nft.set.TABLE, name.table).finish();
  return { type: nft.message.GETSET, flags: 0, payload, operation: `NFT_MSG_GETSET ${name.table}` };
}

/** For a dump of one set's elements. */
export function getElements(name: TableName, set: string): NetlinkMessage {
  const payload = payloadWriter(name.family)
    .attrText(nft.elementList.TABLE, name.table)
    .attrText(nft.elementList.SET, set)
    .finish();
  return {
    type: nft.message.GETSETELEM,
    flags: 0,
    payload,
    operation: `NFT_MSG_GETSETELEM ${name.table} ${set}`,
  };
}

/** Asks for one element of a set without ranges. */
export function getElement(name: TableName, set: string, key: string): NetlinkMessage {
  const writer = payloadWriter(name.family)
    .attrText(nft.elementList.TABLE, name.table)
    .attrText(nft.elementList.SET, set);
  const list = writer.beginNest(nft.elementList.ELEMENTS);
  const element = writer.beginNest(nft.LIST_ELEM);
  encodeData(writer, nft.element.KEY, key);
  writer.endNest(element).endNest(list);
  return { ...getElements(name, set), payload: writer.finish() };
}

/** Asks for the number that every transaction of the namespace, whosever, counts up. */
export function getGeneration(): NetlinkMessage {
  const payload = payloadWriter('unspec').finish();
  return { type: nft.message.GETGEN, flags: 0, payload, operation: 'NFT_MSG_GETGEN' };
}

export function decodeGeneration(message: NetlinkMessage): number {
  return attributesOf(message, 'NFT_MSG_NEWGEN').u32be(nft.generation.ID) ?? 0;
}
