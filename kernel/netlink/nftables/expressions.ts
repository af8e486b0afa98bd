/**
 * Statements of rules, as nft's parser has them, in the kernel's instructions. Registers are given out as nft
 * does it, so that `nft list ruleset` prints each statement and reads its own text again.
 *
 * A rule is the list of its statements: `rule('no local endpoint', match(metaL4proto, '==', 6), drop())`.
 */
import { type Cidr, type Family, type Ip, ipOf, ipToBytes, prefixLengthOf } from '../../../core/address.ts';
import type { NftCompare, NftExpression, NftNatFlags, NftReject } from './bytecode.ts';
import {
  fieldBytes,
  fieldOf,
  type NftBitwise,
  type NftField,
  type NftMetaKey,
  type NftPayloadField,
  type NftSource,
} from './fields.ts';
import { addressType, hexOf, hexU16be, hexU32, interfaceName, type NftValue, nftValue } from './keys.ts';
import type { NftRule, NftVerdict } from './spec.ts';
import { type NftTypeName, nftTypes, registerBytes } from './types.ts';

export function rule(comment: string, ...statements: readonly (readonly NftExpression[])[]): NftRule {
  return { comment, expressions: statements.flat() };
}

/** Loads one source into the registers from word `target` on. */
function load(source: NftSource, target: number): NftExpression[] {
  switch (source.source) {
    case 'payload': {
      const { base, offset } = source;
      return [{ kind: 'payload', target, base, offset, bytes: fieldBytes(source) }];
    }
    case 'meta':
      return [{ kind: 'meta', target, key: source.key }];
    case 'ct':
      return [
        {
          kind: 'ct',
          target,
          key: source.key,
          ...(source.direction === undefined ? {} : { direction: source.direction }),
        },
      ];
    case 'fib':
      return [{ kind: 'fib', target, address: source.address }];
    case 'numgen':
      return [{ kind: 'numgen', target, modulus: source.modulus, offset: 0 }];
    case 'jhash': {
      const { field, modulus, seed } = source;
      const bytes = fieldBytes(field);
      // What is hashed stands in the next whole register meanwhile; later parts may overwrite it.
      const from = Math.ceil((target + 1) / 4) * 4;
      return [...load(field, from), { kind: 'hash', from, bytes, target, modulus, seed }];
    }
    case 'bitwise':
      return [...load(source.field, target), bits(target, hexU32(source.mask), hexU32(source.xor))];
  }
}

function bits(register: number, mask: string, xor: string): NftExpression {
  return { kind: 'bitwise', from: register, target: register, mask, xor };
}

/** Loads a concatenation; each part begins a new word. */
function loadAll(sources: readonly NftSource[], first = 0): NftExpression[] {
  let target = first;
  return sources.flatMap((source) => {
    const part = load(source, target);
    target += registerBytes(fieldBytes(source)) / 4;
    return part;
  });
}

/** `tcp`, `!= 0x4000`, `"eth0"`; a name of an interface that ends in `*` stands for all that begin so. */
export function match(source: NftField | NftBitwise, op: NftCompare, value: NftValue): NftExpression[] {
  if (op !== '==' && op !== '!=') requireOrdered(fieldOf(source).type);
  return [...load(source, 0), { kind: 'cmp', from: 0, op, data: constant(fieldOf(source), value) }];
}

/** The kernel compares bytes from the first to the last: numbers in host order (little-endian) have no order so. */
function requireOrdered(type: NftTypeName): void {
  const { order, bytes } = nftTypes[type];
  if (order === 'host' && bytes > 1) throw new RangeError(`values of type ${type} can only be equal or not`);
}

function constant(field: NftField, value: NftValue): string {
  const wildcard = field.type === 'ifname' && typeof value === 'string' && value.endsWith('*');
  return wildcard ? interfaceName(value.slice(0, -1)) : nftValue(field.type, value);
}

/** `ct state established,related`: any of the bits is set. */
export function matchBits(field: NftField, mask: number): NftExpression[] {
  return [
    ...load(field, 0),
    bits(0, hexU32(mask), hexU32(0)),
    { kind: 'cmp', from: 0, op: '!=', data: hexU32(0) },
  ];
}

/** `ip saddr 10.0.0.0/8`. Of a prefix of whole bytes only these are loaded. */
export function matchCidr(field: NftPayloadField, op: '==' | '!=', cidr: Cidr): NftExpression[] {
  const network = ipToBytes(ipOf(cidr));
  const prefix = prefixLengthOf(cidr);
  if (network.length !== fieldBytes(field)) throw new RangeError(`${cidr}: not a ${field.type}`);
  if (prefix > 0 && prefix % 8 === 0) {
    const { base, offset } = field;
    const data = hexOf(network.subarray(0, prefix / 8));
    return [
      { kind: 'payload', target: 0, base, offset, bytes: prefix / 8 },
      { kind: 'cmp', from: 0, op, data },
    ];
  }
  const mask = network.map((_, index) => 255 & ~(255 >>> Math.min(8, Math.max(0, prefix - index * 8))));
  return [
    ...load(field, 0),
    bits(0, hexOf(mask), '00'.repeat(network.length)),
    { kind: 'cmp', from: 0, op, data: hexOf(network) },
  ];
}

/** `th dport 30000-32767`, ends included. */
export function matchRange(
  field: NftField,
  low: NftValue,
  high: NftValue,
  op: '==' | '!=' = '==',
): NftExpression[] {
  requireOrdered(field.type);
  const [from, to] = [nftValue(field.type, low), nftValue(field.type, high)];
  if (op === '!=') return [...load(field, 0), { kind: 'range', from: 0, op, low: from, high: to }];
  return [
    ...load(field, 0),
    { kind: 'cmp', from: 0, op: '>=', data: from },
    { kind: 'cmp', from: 0, op: '<=', data: to },
  ];
}

/** `meta l4proto { tcp, udp, sctp }` */
export function matchAny(field: NftField, values: readonly NftValue[]): NftExpression[] {
  const constants = values.map((value) => nftValue(field.type, value));
  return [...load(field, 0), { kind: 'one of', from: 0, field, values: constants }];
}

/** `ip saddr . ip daddr @pairs` */
export function inSet(sources: readonly NftSource[], set: string): NftExpression[] {
  return [...loadAll(sources), { kind: 'lookup', set, from: 0 }];
}

/** `ip saddr != @pods` */
export function notInSet(sources: readonly NftSource[], set: string): NftExpression[] {
  return [...loadAll(sources), { kind: 'lookup', set, from: 0, inverted: true }];
}

/** `meta priority vmap @slots`: goes on with the next rule when the key is not there. */
export function vmap(sources: readonly NftSource[], map: string): NftExpression[] {
  return [...loadAll(sources), { kind: 'lookup', set: map, from: 0, target: 'verdict' }];
}

/** `meta mark set 0x4000`, `meta mark set meta mark | 0x4000` */
export function setMeta(key: NftMetaKey, value: number | NftSource): NftExpression[] {
  const loaded: NftExpression[] =
    typeof value === 'number' ? [{ kind: 'immediate', target: 0, data: hexU32(value) }] : load(value, 0);
  return [...loaded, { kind: 'meta set', key, from: 0 }];
}

/** `meta priority set ip daddr . th dport map @services`: ends the rule when the key is not there. */
export function setMetaFromMap(key: NftMetaKey, sources: readonly NftSource[], map: string): NftExpression[] {
  return [
    ...loadAll(sources),
    { kind: 'lookup', set: map, from: 0, target: 0 },
    { kind: 'meta set', key, from: 0 },
  ];
}

/** `ct mark set meta mark` */
export function setCtMark(value: number | NftSource): NftExpression[] {
  const loaded: NftExpression[] =
    typeof value === 'number' ? [{ kind: 'immediate', target: 0, data: hexU32(value) }] : load(value, 0);
  return [...loaded, { kind: 'ct set', key: 'mark', from: 0 }];
}

/**
 * `dnat ip to meta priority . numgen random mod 3 map @endpoints`, for maps whose data is address and port.
 * nft's parser wants transport protocols before it in the same rule: `matchAny(metaL4proto, [6, 17, 132])`.
 */
export function dnatFromMap(family: Family, sources: readonly NftSource[], map: string): NftExpression[] {
  return [
    ...loadAll(sources),
    { kind: 'lookup', set: map, from: 0, target: 0 },
    { kind: 'nat', nat: 'dnat', family, address: 0, port: family === 4 ? 1 : 4, flags: {} },
  ];
}

/** `dnat to 10.244.1.5:80`; with a port the rule must match a transport protocol before. */
export function dnat(address: Ip, port?: number): NftExpression[] {
  return natTo('dnat', address, port, {});
}

/** `dnat to ip daddr`: the first translation is the last, so nobody else's comes behind this one. */
export function dnatToItself(family: Family, destination: NftSource): NftExpression[] {
  return [...loadAll([destination]), { kind: 'nat', nat: 'dnat', family, address: 0, flags: {} }];
}

/** `snat to 192.0.2.1 fully-random` */
export function snat(address: Ip, flags: NftNatFlags = {}): NftExpression[] {
  return natTo('snat', address, undefined, flags);
}

function natTo(
  nat: 'dnat' | 'snat',
  address: Ip,
  port: number | undefined,
  flags: NftNatFlags,
): NftExpression[] {
  const data = hexOf(ipToBytes(address));
  const family = addressType(address) === 'ipv4_addr' ? 4 : 6;
  const loaded: NftExpression[] = [{ kind: 'immediate', target: 0, data }];
  if (port === undefined) return [...loaded, { kind: 'nat', nat, family, address: 0, flags }];
  loaded.push({ kind: 'immediate', target: 4, data: hexU16be(port) });
  return [...loaded, { kind: 'nat', nat, family, address: 0, port: 4, flags }];
}

/** `masquerade fully-random` */
export function masquerade(flags: NftNatFlags = {}): NftExpression[] {
  return [{ kind: 'masq', flags }];
}

/** `reject`: port unreachable, in whatever words the family has. */
export function reject(family: Family): NftExpression[] {
  return rejectWith('icmp', family === 4 ? 3 : 4);
}

/** `reject with tcp reset`: the rule must match `meta l4proto tcp` before. */
export function rejectTcpReset(): NftExpression[] {
  return rejectWith('tcp reset', 0);
}

function rejectWith(kind: NftReject, code: number): NftExpression[] {
  return [{ kind: 'reject', with: kind, code }];
}

/**
 * `update @affinity { meta priority . ip saddr timeout 3h }`, with data for maps. `update` of what is there makes it
 * live longer and leaves its data as they are; `delete` of a map's element wants data too, and does not look at them.
 */
export function updateSet(
  set: string,
  sources: readonly NftSource[],
  options: {
    readonly data?: NftSource;
    readonly timeoutMs?: number;
    readonly op?: 'add' | 'update' | 'delete';
  } = {},
): NftExpression[] {
  const { data, timeoutMs, op = 'update' } = options;
  const words = sources.reduce((sum, source) => sum + registerBytes(fieldBytes(source)) / 4, 0);
  const after = Math.ceil(words / 4) * 4;
  return [
    ...loadAll(sources),
    ...(data === undefined ? [] : load(data, after)),
    {
      kind: 'dynset',
      set,
      op,
      key: 0,
      ...(data === undefined ? {} : { data: after }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
    },
  ];
}

export function counter(): NftExpression[] {
  return [{ kind: 'counter' }];
}

function verdict(value: NftVerdict): NftExpression[] {
  return [{ kind: 'verdict', verdict: value }];
}

export const accept = (): NftExpression[] => verdict({ verdict: 'accept' });
export const drop = (): NftExpression[] => verdict({ verdict: 'drop' });
/** `return`: back to the rule after the jump; at the end of a base chain, its policy. */
export const returns = (): NftExpression[] => verdict({ verdict: 'return' });
export const jump = (chain: string): NftExpression[] => verdict({ verdict: 'jump', chain });
export const goto = (chain: string): NftExpression[] => verdict({ verdict: 'goto', chain });
