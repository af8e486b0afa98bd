import {
  type Cidr,
  familyOf,
  type Ip,
  ipOf,
  ipToBytes,
  macToBytes,
  parseMac,
  prefixLengthOf,
} from '../../../core/address.ts';
import type { NftKey } from './spec.ts';
import { type NftTypeName, nftTypes, registerBytes } from './types.ts';

/** A number, an IP or MAC address, or the name of an interface, as the type asks for. */
export type NftValue = number | Ip | string;

const IFNAME_BYTES_MAX = 15;
const byteHex: readonly string[] = Array.from({ length: 256 }, (_, byte) =>
  byte.toString(16).padStart(2, '0'),
);

/** Bytes as lower-case hex. */
export function hexOf(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += byteHex[byte];
  return text;
}

/** Bytes of hex. */
export function bytesOfHex(hex: string): Uint8Array {
  const bytes = new Uint8Array(hex.length >>> 1);
  writeHex(bytes, 0, hex);
  return bytes;
}

/** Puts the bytes of hex into `bytes` from `at` on. */
export function writeHex(bytes: Uint8Array, at: number, hex: string): void {
  for (let index = 0, place = at; index < hex.length; index += 2, place += 1) {
    bytes[place] = (digit(hex.charCodeAt(index)) << 4) | digit(hex.charCodeAt(index + 1));
  }
}

/** The digit's value, of either case: letters have bit 6. */
function digit(code: number): number {
  return (code & 15) + (code >>> 6) * 9;
}

function hexByte(value: number): string {
  return byteHex[value & 255] ?? '';
}

/** A number of four bytes in host order (little-endian), as marks, priorities and random numbers are held. */
export function hexU32(value: number): string {
  return hexByte(value) + hexByte(value >>> 8) + hexByte(value >>> 16) + hexByte(value >>> 24);
}

/** The same, put into `bytes` from `at` on. */
export function writeU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}

/** A port: two bytes in network order. */
export function hexU16be(value: number): string {
  return hexByte(value >>> 8) + hexByte(value);
}

/** One value as the kernel holds it in a register or key, as hex without filling. */
export function nftValue(type: NftTypeName, value: NftValue): string {
  const { bytes, order } = nftTypes[type];
  if (typeof value === 'number') {
    if (bytes > 4 || !Number.isInteger(value) || value < 0 || value >= 2 ** (bytes * 8))
      throw unfit(type, value);
    if (bytes === 1) return hexByte(value);
    if (bytes === 2) return order === 'network' ? hexU16be(value) : hexByte(value) + hexByte(value >>> 8);
    if (order === 'host') return hexU32(value);
    return hexU16be(value >>> 16) + hexU16be(value);
  }
  if (type === 'ifname') return interfaceName(value).padEnd(bytes * 2, '0');
  if (type === 'ether_addr') return macHex(value);
  const isAddress = type === 'ipv4_addr' || type === 'ipv6_addr' || type === 'integer128';
  const address = isAddress ? ipToBytes(value as Ip) : undefined;
  if (address?.length !== bytes) throw unfit(type, value);
  return hexOf(address);
}

function macHex(value: string): string {
  const mac = parseMac(value);
  if (mac === undefined) throw unfit('ether_addr', value);
  return hexOf(macToBytes(mac));
}

function unfit(type: NftTypeName, value: NftValue): RangeError {
  return new RangeError(`nftables value of type ${type}: "${value}" does not fit`);
}

/** The name's own bytes as hex, not filled up. */
export function interfaceName(name: string): string {
  const text = new TextEncoder().encode(name);
  if (text.length === 0 || text.length > IFNAME_BYTES_MAX) throw unfit('ifname', name);
  return hexOf(text);
}

/** The bytes of a key or of a map's data, as hex: one value for each part. */
export function nftKey(key: NftKey, ...values: readonly NftValue[]): string {
  if (values.length !== key.length) {
    throw new RangeError(`nftables key of ${key.length} parts: ${values.length} values given`);
  }
  let text = '';
  for (let index = 0; index < values.length; index += 1) {
    const part = key[index] as NftKey[number];
    const type = typeof part === 'string' ? part : part.type;
    const hex = nftValue(type, values[index] as NftValue);
    text += values.length === 1 ? hex : hex.padEnd(registerBytes(hex.length >>> 1) * 2, '0');
  }
  return text;
}

/** The range of addresses of a network, for rows of interval sets: first and last address as hex. */
export function nftRange(cidr: Cidr): { key: string; keyEnd: string } {
  const bytes = ipToBytes(ipOf(cidr));
  const key = hexOf(bytes);
  const prefix = prefixLengthOf(cidr);
  bytes.forEach((byte, index) => {
    const bits = Math.min(8, Math.max(0, prefix - index * 8));
    bytes[index] = byte | (255 >>> bits);
  });
  return { key, keyEnd: hexOf(bytes) };
}

/** The type of an address of the network's family. */
export function addressType(cidr: Cidr | Ip): NftTypeName {
  return familyOf(cidr) === 4 ? 'ipv4_addr' : 'ipv6_addr';
}
