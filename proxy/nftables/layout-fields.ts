import type { Family } from '../../core/address.ts';
import type { NftExpression } from '../../kernel/netlink/nftables/bytecode.ts';
import {
  dnatFromMap,
  match,
  matchBits,
  setMeta,
  setMetaFromMap,
} from '../../kernel/netlink/nftables/expressions.ts';
import {
  ctStatus,
  ctStatusBits,
  fibSaddrType,
  fibTypes,
  ip6Daddr,
  ip6Saddr,
  ipDaddr,
  ipSaddr,
  jhash,
  masked,
  metaL4proto,
  metaMark,
  metaPriority,
  type NftHash,
  type NftPayloadField,
  numgenRandom,
  thDport,
  withBits,
} from '../../kernel/netlink/nftables/fields.ts';
import { COUNT_MASK, ID_MASK, KIND_MASK, LIST_MASK, type MaglevSize, maglevCodes } from './elements.ts';

/** What the rules of one family read from packets. */
export interface Fields {
  readonly family: Family;
  readonly source: NftPayloadField;
  readonly destination: NftPayloadField;
  /** Address, protocol and port that a packet is sent to. */
  readonly frontend: readonly [NftPayloadField, typeof metaL4proto, typeof thDport];
}

export function fieldsOf(family: Family): Fields {
  const destination = family === 4 ? ipDaddr : ip6Daddr;
  const source = family === 4 ? ipSaddr : ip6Saddr;
  return { family, source, destination, frontend: [destination, metaL4proto, thDport] };
}

/** Protocol and port, where any of the node's addresses will do. */
export const nodePort = [metaL4proto, thDport] as const;

/** Parts of the value that a packet carries. */
export const listOfValue = masked(metaPriority, LIST_MASK);
export const idOfValue = masked(metaPriority, ID_MASK);
export const kindOfValue = masked(metaPriority, KIND_MASK);
export const countOfValue = masked(metaPriority, COUNT_MASK);

/** The packet already has the address of an endpoint. */
export const isDnat = matchBits(ctStatus, ctStatusBits.dnat);
/** The packet comes from this node itself. */
export const isFromNode = match(fibSaddrType, '==', fibTypes.local);

/** Asks for masquerading. */
export function mark(bit: number): NftExpression[] {
  return setMeta('mark', withBits(metaMark, bit));
}

/** Any number, so long as it is the same on every node. */
const MAGLEV_SEED = 0x5eed1e57;

/** One way to draw a slot: a random number below `number`, or the client's place in a table. */
export interface Draw {
  /** What is in a value in place of the number of slots. */
  readonly code: number;
  /** For chains: "3", "maglev-1021". */
  readonly name: string;
  readonly field: ReturnType<typeof numgenRandom> | NftHash;
}

/** Every way, for lists of so many slots. */
export function drawsOf({ source }: Fields, slots: number): Draw[] {
  const random = Array.from({ length: slots }, (_, index): Draw => {
    return { code: index + 1, name: `${index + 1}`, field: numgenRandom(index + 1) };
  });
  const maglev = Object.entries(maglevCodes).map(([size, code]): Draw => {
    return { code, name: `maglev-${size}`, field: jhash(source, Number(size) as MaglevSize, MAGLEV_SEED) };
  });
  return [...random, ...maglev];
}

/**
 * To the endpoint that is drawn. The protocol is part of the key though the list's number says it all: nft reads back
 * a listed `dnat … map` only when it sees a transport protocol in the rule.
 */
export function toEndpoint({ family }: Fields, field: Draw['field']): NftExpression[] {
  return dnatFromMap(family, [listOfValue, metaL4proto, field], 'endpoints');
}

/** The drawn endpoint's token takes the place of the value. */
export function takeToken(field: Draw['field']): NftExpression[] {
  return setMetaFromMap('priority', [listOfValue, metaL4proto, field], 'tokens');
}
