import {
  ctDirections,
  ctKeys,
  FIB_RESULT_ADDRTYPE,
  fibFlags,
  metaKeys,
  NG_RANDOM,
  payloadBases,
} from './constants.ts';
import { type NftField, RAW } from './fields.ts';
import type { NftKey, NftSet } from './spec.ts';
import { nftTypes } from './types.ts';

/**
 * What nft keeps beside tables, rules and sets so that it can print them as they were written. The kernel does
 * not look at it: a row of type (one byte), length (one byte), value. Numbers as in libnftnl's udata.h and, for
 * the kinds of expressions, nft's expression.h.
 */

/** Longest text of a comment; nft has a NUL after it. */
export const COMMENT_BYTES_MAX = 127;
const VALUE_BYTES_MAX = 255;

/** NFTNL_UDATA_TABLE_COMMENT, NFTNL_UDATA_RULE_COMMENT */
const COMMENT = 0;
/** NFTNL_UDATA_SET_* */
const set = {
  KEY_ORDER: 0,
  DATA_ORDER: 1,
  KEY_TYPEOF: 3,
  DATA_TYPEOF: 4,
  DATA_INTERVAL: 6,
  COMMENT: 7,
} as const;
/** Inside of KEY_TYPEOF: kind of expression, and its own values. */
const typeOf = { KIND: 0, VALUES: 1 } as const;
/** enum expr_types */
const kinds = { verdict: 1, payload: 7, meta: 9, ct: 12, concat: 13, numgen: 23, fib: 26 } as const;
/** enum byteorder; 0 for concatenations and verdicts, which have no order of their own. */
const orders = { host: 1, network: 2 } as const;
/** "no direction" of a ct expression without one. */
const NO_DIRECTION = 0xffffffff;

function tlv(type: number, value: Uint8Array): Uint8Array {
  if (value.length > VALUE_BYTES_MAX) {
    throw new RangeError(
      `nftables user data ${type}: ${value.length} bytes, the limit is ${VALUE_BYTES_MAX}`,
    );
  }
  return Uint8Array.of(type, value.length, ...value);
}

function tlvU32(type: number, value: number): Uint8Array {
  return Uint8Array.of(type, 4, value, value >>> 8, value >>> 16, value >>> 24);
}

function join(...parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** The user data of a table or rule that has a comment. */
export function commentUserdata(comment: string): Uint8Array {
  return tlv(COMMENT, commentText(comment));
}

function commentText(comment: string): Uint8Array {
  const text = new TextEncoder().encode(comment);
  if (text.length > COMMENT_BYTES_MAX || comment.includes('"')) {
    throw new RangeError(
      `nftables comment "${comment}": at most ${COMMENT_BYTES_MAX} bytes, no quotation marks`,
    );
  }
  return join(text, Uint8Array.of(0));
}

/** The comment in the user data of a table or rule. */
export function commentOf(userdata: Uint8Array | undefined): string | undefined {
  if (userdata?.[0] !== COMMENT) return undefined;
  const end = 2 + (userdata[1] ?? 0);
  return new TextDecoder().decode(userdata.subarray(2, end - 1));
}

/** The user data of a set, in nft's own order. */
export function setUserdata(spec: NftSet): Uint8Array {
  const parts = [tlvU32(set.KEY_ORDER, orderOf(spec.key))];
  if (spec.data !== undefined) parts.push(tlvU32(set.DATA_ORDER, orderOf(spec.data)));
  const key = typeofKey(spec.key);
  const data = spec.data === undefined ? undefined : spec.data === 'verdict' ? verdict : typeofKey(spec.data);
  if (key !== undefined && (spec.data === undefined || data !== undefined)) {
    parts.push(tlv(set.KEY_TYPEOF, key));
    if (data !== undefined) parts.push(tlv(set.DATA_TYPEOF, data));
  }
  if (spec.data !== undefined) parts.push(tlvU32(set.DATA_INTERVAL, 0));
  if (spec.comment !== undefined) parts.push(tlv(set.COMMENT, commentText(spec.comment)));
  return join(...parts);
}

function orderOf(key: NftKey | 'verdict'): number {
  const only = key === 'verdict' || key.length !== 1 ? undefined : key[0];
  if (only === undefined) return 0;
  if (typeof only === 'string') return orders[nftTypes[only].order];
  return only.source === 'meta' ? orders.host : orders[nftTypes[only.type].order];
}

const verdict = join(tlvU32(typeOf.KIND, kinds.verdict), tlv(typeOf.VALUES, Uint8Array.of()));

/** How `typeof` is written down; undefined for keys that are given as types. */
function typeofKey(key: NftKey): Uint8Array | undefined {
  const parts = key.map((part) => (typeof part === 'string' ? undefined : typeofField(part)));
  if (parts.some((part) => part === undefined)) return undefined;
  const [only] = parts;
  if (parts.length === 1) return only;
  const nested = parts.map((part, index) => tlv(index, part ?? Uint8Array.of()));
  return join(tlvU32(typeOf.KIND, kinds.concat), tlv(typeOf.VALUES, join(...nested)));
}

function typeofField(field: NftField): Uint8Array {
  const values = fieldValues(field).map((value, index) => tlvU32(index, value));
  return join(tlvU32(typeOf.KIND, kinds[field.source]), tlv(typeOf.VALUES, join(...values)));
}

/** The numbers that nft needs to make the expression again, in the order of its own attributes. */
function fieldValues(field: NftField): number[] {
  switch (field.source) {
    case 'payload': {
      const [protocol, template] = field.template;
      if (protocol !== RAW) return [protocol, template];
      // enum proto_bases counts from 1; places and widths are in bits.
      const base = payloadBases[field.base] + 1;
      return [protocol, template, base, field.offset * 8, nftTypes[field.type].bytes * 8];
    }
    case 'meta':
      return [metaKeys[field.key]];
    case 'ct':
      return [
        ctKeys[field.key],
        field.direction === undefined ? NO_DIRECTION : ctDirections[field.direction],
      ];
    case 'fib':
      return [FIB_RESULT_ADDRTYPE, fibFlags[field.address]];
    case 'numgen':
      return [NG_RANDOM, field.modulus, 0];
  }
}
