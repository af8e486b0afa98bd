import type { Attributes } from '../wire.ts';
import type { NftExpression, NftNatFlags } from './bytecode.ts';
import {
  bitwise,
  cmp,
  compareOps,
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
  registerWord,
  reject,
  rejectTypes,
  verdict as verdictAttributes,
  verdictCodes,
} from './constants.ts';
import { hexOf } from './keys.ts';
import type { NftVerdict } from './spec.ts';

/** Reads one element of a list of expressions. What we do not know, or not in this form, is `other`. */
export function decodeExpression(attributes: Attributes): NftExpression {
  const name = attributes.text(expression.NAME) ?? '';
  const body = attributes.nested(expression.DATA);
  const decode = decoders[name];
  return (body !== undefined && decode?.(body)) || { kind: 'other', name };
}

/** Reads struct nft_data that holds a verdict. */
export function decodeVerdict(attributes: Attributes): NftVerdict | undefined {
  const body = attributes.nested(data.VERDICT);
  const code = body?.u32be(verdictAttributes.CODE);
  const verdict = nameOf(verdictCodes, code === undefined ? undefined : code | 0);
  if (verdict === undefined) return undefined;
  if (verdict !== 'jump' && verdict !== 'goto') return { verdict };
  return { verdict, chain: body?.text(verdictAttributes.CHAIN) ?? '' };
}

/** The name that a table of constants has for a number. */
function nameOf<Name extends string>(
  table: Readonly<Record<Name, number>>,
  number: number | undefined,
): Name | undefined {
  for (const name in table) if (table[name] === number) return name;
  return undefined;
}

function wordOf(body: Attributes, type: number): number | undefined {
  const number = body.u32be(type);
  return number === undefined ? undefined : registerWord(number);
}

function constantOf(body: Attributes, type: number): string | undefined {
  const bytes = body.nested(type)?.get(data.VALUE);
  return bytes === undefined ? undefined : hexOf(bytes);
}

function flagsOf(bits: number): NftNatFlags {
  return {
    ...(bits & natFlags.random ? { random: true } : {}),
    ...(bits & natFlags.fullyRandom ? { fullyRandom: true } : {}),
    ...(bits & natFlags.persistent ? { persistent: true } : {}),
  };
}

const decoders: Readonly<Record<string, (body: Attributes) => NftExpression | undefined>> = {
  payload(body) {
    const target = wordOf(body, payload.DREG);
    const base = nameOf(payloadBases, body.u32be(payload.BASE));
    const offset = body.u32be(payload.OFFSET);
    const bytes = body.u32be(payload.LEN);
    if (target === undefined || base === undefined || offset === undefined || bytes === undefined) return;
    return { kind: 'payload', target, base, offset, bytes };
  },
  meta(body) {
    const key = nameOf(metaKeys, body.u32be(meta.KEY));
    const target = wordOf(body, meta.DREG);
    const from = wordOf(body, meta.SREG);
    if (key === undefined) return;
    if (target !== undefined) return { kind: 'meta', target, key };
    return from === undefined ? undefined : { kind: 'meta set', key, from };
  },
  ct(body) {
    const key = nameOf(ctKeys, body.u32be(ct.KEY));
    const target = wordOf(body, ct.DREG);
    const from = wordOf(body, ct.SREG);
    const direction = nameOf(ctDirections, body.u8(ct.DIRECTION));
    if (key === 'mark' && from !== undefined) return { kind: 'ct set', key, from };
    if (key === undefined || target === undefined) return;
    return { kind: 'ct', target, key, ...(direction === undefined ? {} : { direction }) };
  },
  fib(body) {
    const target = wordOf(body, fib.DREG);
    const address = nameOf(fibFlags, body.u32be(fib.FLAGS));
    const isType = body.u32be(fib.RESULT) === FIB_RESULT_ADDRTYPE;
    return target === undefined || address === undefined || !isType
      ? undefined
      : { kind: 'fib', target, address };
  },
  numgen(body) {
    const target = wordOf(body, numgen.DREG);
    const modulus = body.u32be(numgen.MODULUS);
    if (target === undefined || modulus === undefined || body.u32be(numgen.TYPE) !== NG_RANDOM) return;
    return { kind: 'numgen', target, modulus, offset: body.u32be(numgen.OFFSET) ?? 0 };
  },
  hash(body) {
    const from = wordOf(body, hash.SREG);
    const target = wordOf(body, hash.DREG);
    const bytes = body.u32be(hash.LEN);
    const modulus = body.u32be(hash.MODULUS);
    const seed = body.u32be(hash.SEED) ?? 0;
    const isJenkins = (body.u32be(hash.TYPE) ?? HASH_JENKINS) === HASH_JENKINS;
    if (from === undefined || target === undefined || bytes === undefined) return;
    return modulus === undefined || !isJenkins
      ? undefined
      : { kind: 'hash', from, bytes, target, modulus, seed };
  },
  bitwise(body) {
    const from = wordOf(body, bitwise.SREG);
    const target = wordOf(body, bitwise.DREG);
    const mask = constantOf(body, bitwise.MASK);
    const xor = constantOf(body, bitwise.XOR);
    if (from === undefined || target === undefined || mask === undefined || xor === undefined) return;
    return { kind: 'bitwise', from, target, mask, xor };
  },
  cmp(body) {
    const from = wordOf(body, cmp.SREG);
    const op = nameOf(compareOps, body.u32be(cmp.OP));
    const value = constantOf(body, cmp.DATA);
    if (from === undefined || op === undefined || value === undefined) return;
    return { kind: 'cmp', from, op, data: value };
  },
  range(body) {
    const from = wordOf(body, range.SREG);
    const op = nameOf(compareOps, body.u32be(range.OP));
    const low = constantOf(body, range.FROM);
    const high = constantOf(body, range.TO);
    if (from === undefined || low === undefined || high === undefined) return;
    return op === '==' || op === '!=' ? { kind: 'range', from, op, low, high } : undefined;
  },
  lookup(body) {
    const set = body.text(lookup.SET);
    const from = wordOf(body, lookup.SREG);
    if (set === undefined || from === undefined) return;
    const found = body.u32be(lookup.DREG);
    const target = found === undefined ? undefined : (registerWord(found) ?? 'verdict');
    const inverted = ((body.u32be(lookup.FLAGS) ?? 0) & LOOKUP_INVERTED) !== 0;
    return {
      kind: 'lookup',
      set,
      from,
      ...(target === undefined ? {} : { target }),
      ...(inverted ? { inverted } : {}),
    };
  },
  dynset(body) {
    const set = body.text(dynset.SET);
    const op = nameOf(dynsetOps, body.u32be(dynset.OP));
    const key = wordOf(body, dynset.SREG_KEY);
    const value = wordOf(body, dynset.SREG_DATA);
    const timeoutMs = Number(body.u64be(dynset.TIMEOUT) ?? 0n);
    if (set === undefined || op === undefined || key === undefined) return;
    return {
      kind: 'dynset',
      set,
      op,
      key,
      ...(value === undefined ? {} : { data: value }),
      ...(timeoutMs === 0 ? {} : { timeoutMs }),
    };
  },
  immediate(body) {
    const target = wordOf(body, immediate.DREG);
    const content = body.nested(immediate.DATA);
    if (target === undefined) {
      const verdict = content === undefined ? undefined : decodeVerdict(content);
      return verdict === undefined ? undefined : { kind: 'verdict', verdict };
    }
    const value = constantOf(body, immediate.DATA);
    return value === undefined ? undefined : { kind: 'immediate', target, data: value };
  },
  nat(body) {
    const kind = nameOf(natTypes, body.u32be(nat.TYPE));
    const address = wordOf(body, nat.ADDRESS_MIN);
    const port = wordOf(body, nat.PORT_MIN);
    if (kind === undefined) return;
    return {
      kind: 'nat',
      nat: kind,
      family: body.u32be(nat.FAMILY) === families.ip ? 4 : 6,
      ...(address === undefined ? {} : { address }),
      ...(port === undefined ? {} : { port }),
      flags: flagsOf(body.u32be(nat.FLAGS) ?? 0),
    };
  },
  masq(body) {
    return { kind: 'masq', flags: flagsOf(body.u32be(masq.FLAGS) ?? 0) };
  },
  reject(body) {
    const kind = nameOf(rejectTypes, body.u32be(reject.TYPE));
    return kind === undefined ? undefined : { kind: 'reject', with: kind, code: body.u8(reject.CODE) ?? 0 };
  },
  counter() {
    return { kind: 'counter' };
  },
};
