import type { Writer } from '../wire.ts';
import type { NftExpression, NftNatFlags } from './bytecode.ts';
import {
  ANONYMOUS_SET,
  bitwise,
  cmp,
  compareOps,
  counter,
  ct,
  ctDirections,
  ctKeys,
  data,
  dynset,
  dynsetOps,
  expression,
  FIB_RESULT_ADDRTYPE,
  families,
  fib,
  fibFlags,
  HASH_JENKINS,
  hash,
  immediate,
  LIST_ELEM,
  LOOKUP_INVERTED,
  lookup,
  masq,
  meta,
  metaKeys,
  NG_RANDOM,
  nat,
  natFlags,
  natTypes,
  numgen,
  payload,
  payloadBases,
  range,
  registerNumber,
  reject,
  rejectTypes,
  verdict as verdictAttributes,
  verdictCodes,
} from './constants.ts';
import { bytesOfHex } from './keys.ts';
import type { NftVerdict } from './spec.ts';

/**
 * Appends one expression as an element of a list of expressions. `setId` is the number that the transaction has for
 * the set without a name that the expression looks in.
 */
export function encodeExpression(writer: Writer, value: NftExpression, setId?: number): void {
  const list = writer.beginNest(LIST_ELEM);
  encodeOne(writer, value, setId);
  writer.endNest(list);
}

/** Appends one expression outside of any list. */
export function encodeOne(writer: Writer, value: NftExpression, setId?: number): void {
  writer.attrText(expression.NAME, kernelName(value));
  const body = writer.beginNest(expression.DATA);
  encodeBody(writer, value, setId);
  writer.endNest(body);
}

/** The kernel's name of the expression's type. */
export function kernelName(value: NftExpression): string {
  switch (value.kind) {
    case 'meta set':
      return 'meta';
    case 'ct set':
      return 'ct';
    case 'verdict':
      return 'immediate';
    case 'one of':
      return 'lookup';
    case 'other':
      return value.name;
    default:
      return value.kind;
  }
}

/** Appends constant bytes as struct nft_data. */
export function encodeData(writer: Writer, type: number, hex: string): void {
  const mark = writer.beginNest(type);
  writer.attr(data.VALUE, bytesOfHex(hex)).endNest(mark);
}

/** Appends a verdict as struct nft_data. */
export function encodeVerdict(writer: Writer, type: number, value: NftVerdict): void {
  const outer = writer.beginNest(type);
  const inner = writer.beginNest(data.VERDICT);
  writer.attrU32be(verdictAttributes.CODE, verdictCodes[value.verdict] >>> 0);
  if ('chain' in value) writer.attrText(verdictAttributes.CHAIN, value.chain);
  writer.endNest(inner).endNest(outer);
}

/** The flags of struct nf_nat_range2; addresses and ports are flagged by the kernel itself. */
function natFlagBits(flags: NftNatFlags): number {
  return (
    (flags.random ? natFlags.random : 0) |
    (flags.fullyRandom ? natFlags.fullyRandom : 0) |
    (flags.persistent ? natFlags.persistent : 0)
  );
}

function encodeBody(writer: Writer, value: NftExpression, setId = 0): void {
  const register = (type: number, word: number | 'verdict') =>
    writer.attrU32be(type, word === 'verdict' ? 0 : registerNumber(word));
  switch (value.kind) {
    case 'payload':
      register(payload.DREG, value.target);
      writer.attrU32be(payload.BASE, payloadBases[value.base]);
      writer.attrU32be(payload.OFFSET, value.offset).attrU32be(payload.LEN, value.bytes);
      break;
    case 'meta':
      writer.attrU32be(meta.KEY, metaKeys[value.key]);
      register(meta.DREG, value.target);
      break;
    case 'meta set':
      writer.attrU32be(meta.KEY, metaKeys[value.key]);
      register(meta.SREG, value.from);
      break;
    case 'ct':
      writer.attrU32be(ct.KEY, ctKeys[value.key]);
      register(ct.DREG, value.target);
      if (value.direction !== undefined) writer.attrU8(ct.DIRECTION, ctDirections[value.direction]);
      break;
    case 'ct set':
      writer.attrU32be(ct.KEY, ctKeys[value.key]);
      register(ct.SREG, value.from);
      break;
    case 'fib':
      register(fib.DREG, value.target);
      writer.attrU32be(fib.RESULT, FIB_RESULT_ADDRTYPE).attrU32be(fib.FLAGS, fibFlags[value.address]);
      break;
    case 'numgen':
      register(numgen.DREG, value.target);
      writer.attrU32be(numgen.MODULUS, value.modulus).attrU32be(numgen.TYPE, NG_RANDOM);
      writer.attrU32be(numgen.OFFSET, value.offset);
      break;
    case 'hash':
      register(hash.SREG, value.from);
      register(hash.DREG, value.target);
      writer.attrU32be(hash.LEN, value.bytes).attrU32be(hash.MODULUS, value.modulus);
      writer.attrU32be(hash.SEED, value.seed).attrU32be(hash.TYPE, HASH_JENKINS);
      break;
    case 'bitwise':
      register(bitwise.SREG, value.from);
      register(bitwise.DREG, value.target);
      writer.attrU32be(bitwise.LEN, value.mask.length / 2);
      encodeData(writer, bitwise.MASK, value.mask);
      encodeData(writer, bitwise.XOR, value.xor);
      break;
    case 'cmp':
      register(cmp.SREG, value.from);
      writer.attrU32be(cmp.OP, compareOps[value.op]);
      encodeData(writer, cmp.DATA, value.data);
      break;
    case 'range':
      register(range.SREG, value.from);
      writer.attrU32be(range.OP, compareOps[value.op]);
      encodeData(writer, range.FROM, value.low);
      encodeData(writer, range.TO, value.high);
      break;
    case 'lookup':
      writer.attrText(lookup.SET, value.set);
      register(lookup.SREG, value.from);
      if (value.target !== undefined) register(lookup.DREG, value.target);
      if (value.inverted) writer.attrU32be(lookup.FLAGS, LOOKUP_INVERTED);
      break;
    case 'one of':
      writer.attrText(lookup.SET, ANONYMOUS_SET).attrU32be(lookup.SET_ID, setId);
      register(lookup.SREG, value.from);
      break;
    case 'dynset':
      writer.attrText(dynset.SET, value.set).attrU32be(dynset.OP, dynsetOps[value.op]);
      register(dynset.SREG_KEY, value.key);
      if (value.data !== undefined) register(dynset.SREG_DATA, value.data);
      if (value.timeoutMs !== undefined) writer.attrU64be(dynset.TIMEOUT, BigInt(value.timeoutMs));
      break;
    case 'immediate':
      register(immediate.DREG, value.target);
      encodeData(writer, immediate.DATA, value.data);
      break;
    case 'verdict':
      register(immediate.DREG, 'verdict');
      encodeVerdict(writer, immediate.DATA, value.verdict);
      break;
    case 'nat':
      encodeNat(writer, value);
      break;
    case 'masq':
      if (natFlagBits(value.flags) !== 0) writer.attrU32be(masq.FLAGS, natFlagBits(value.flags));
      break;
    case 'reject':
      writer.attrU32be(reject.TYPE, rejectTypes[value.with]).attrU8(reject.CODE, value.code);
      break;
    case 'counter':
      writer.attrU64be(counter.BYTES, 0n).attrU64be(counter.PACKETS, 0n);
      break;
    case 'other':
      throw new RangeError(`expression "${value.name}" is not one that can be written`);
  }
}

function encodeNat(writer: Writer, value: Extract<NftExpression, { kind: 'nat' }>): void {
  const { address, port } = value;
  writer.attrU32be(nat.TYPE, natTypes[value.nat]);
  writer.attrU32be(nat.FAMILY, families[value.family === 4 ? 'ip' : 'ip6']);
  if (address !== undefined) {
    writer.attrU32be(nat.ADDRESS_MIN, registerNumber(address));
    writer.attrU32be(nat.ADDRESS_MAX, registerNumber(address));
  }
  if (port !== undefined) {
    writer.attrU32be(nat.PORT_MIN, registerNumber(port)).attrU32be(nat.PORT_MAX, registerNumber(port));
  }
  const flags =
    natFlagBits(value.flags) |
    (address === undefined ? 0 : natFlags.addresses) |
    (port === undefined ? 0 : natFlags.ports);
  writer.attrU32be(nat.FLAGS, flags);
}
