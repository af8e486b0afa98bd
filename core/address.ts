import ipaddr from 'ipaddr.js';

declare const brand: unique symbol;
type Opaque<Name extends string> = string & { readonly [brand]: Name };

/** Address family, as users write it. */
export type Family = 4 | 6;
export const families = [4, 6] as const satisfies readonly Family[];

/** One IP address in canonical text (IPv6 as RFC 5952, like Go's net/netip). Safe as a key of a map. */
export type Ip = Opaque<'Ip'>;
/** A network: address and prefix length, host bits zero, canonical text such as `10.244.1.0/24`. */
export type Cidr = Opaque<'Cidr'>;
/** An address on an interface: host bits kept, canonical text such as `10.244.1.1/24`. */
export type HostCidr = Opaque<'HostCidr'>;
/** A MAC address in canonical text: six lower-case pairs with colons. */
export type Mac = Opaque<'Mac'>;

/** Reads strict text: four decimal parts without leading zeros, or RFC 4291. No zone. */
export function parseIp(text: string): Ip | undefined {
  if (text.includes(':')) {
    const zeroInTail = text.includes('.') && /[:.]0\d+(?=\.|$)/.test(text);
    if (text.includes('%') || zeroInTail || !ipaddr.IPv6.isValid(text)) return undefined;
    return formatV6(ipaddr.IPv6.parse(text));
  }
  return ipaddr.IPv4.isValidFourPartDecimal(text) && !/(^|\.)0\d/.test(text) ? (text as Ip) : undefined;
}

function formatV6(address: ipaddr.IPv6): Ip {
  return (address.isIPv4MappedAddress()
    ? `::ffff:${address.toIPv4Address().toString()}`
    : address.toRFC5952String()) as unknown as Ip;
}

export function parseHostCidr(text: string): HostCidr | undefined {
  const slash = text.indexOf('/');
  if (slash < 0) return undefined;
  const ip = parseIp(text.slice(0, slash));
  const length = text.slice(slash + 1);
  if (ip === undefined || !/^(0|[1-9]\d{0,2})$/.test(length) || Number(length) > addressBits(familyOf(ip))) {
    return undefined;
  }
  return `${ip}/${length}` as HostCidr;
}

/** Reads a network; host bits that are set make it invalid (see {@link networkOf} to clear them). */
export function parseCidr(text: string): Cidr | undefined {
  const host = parseHostCidr(text);
  if (host === undefined) return undefined;
  const network = networkOf(host);
  return (network as string) === host ? network : undefined;
}

/** Accepts colons or hyphens and either case. */
export function parseMac(text: string): Mac | undefined {
  const lower = text.toLowerCase().replaceAll('-', ':');
  return /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(lower) ? (lower as Mac) : undefined;
}

export function familyOf(address: Ip | Cidr | HostCidr): Family {
  return address.includes(':') ? 6 : 4;
}

/** 32 or 128. */
export function addressBits(family: Family): number {
  return family === 4 ? 32 : 128;
}

export function ipOf(cidr: Cidr | HostCidr): Ip {
  return cidr.slice(0, cidr.indexOf('/')) as Ip;
}

export function prefixLengthOf(cidr: Cidr | HostCidr): number {
  return Number(cidr.slice(cidr.indexOf('/') + 1));
}

/** The network that an interface address lies in. */
export function networkOf(cidr: Cidr | HostCidr): Cidr {
  const length = prefixLengthOf(cidr);
  const family = familyOf(cidr);
  const hostBits = BigInt(addressBits(family) - length);
  const network = (ipToBigInt(ipOf(cidr)) >> hostBits) << hostBits;
  return `${ipFromBigInt(network, family)}/${length}` as Cidr;
}

export function hostCidr(ip: Ip, prefixLength: number): HostCidr {
  return `${ip}/${prefixLength}` as HostCidr;
}

/** The network of exactly one address: /32 or /128. */
export function singleCidr(ip: Ip): Cidr {
  return `${ip}/${addressBits(familyOf(ip))}` as Cidr;
}

/** `0.0.0.0/0` or `::/0`. */
export function anyCidr(family: Family): Cidr {
  return (family === 4 ? '0.0.0.0/0' : '::/0') as Cidr;
}

export function cidrContains(outer: Cidr, inner: Ip | Cidr | HostCidr): boolean {
  const family = familyOf(outer);
  if (familyOf(inner) !== family) return false;
  const length = prefixLengthOf(outer);
  const innerText = inner.includes('/') ? ipOf(inner as Cidr) : (inner as Ip);
  if (inner.includes('/') && prefixLengthOf(inner as Cidr) < length) return false;
  const hostBits = BigInt(addressBits(family) - length);
  return ipToBigInt(innerText) >> hostBits === ipToBigInt(ipOf(outer)) >> hostBits;
}

export function cidrsOverlap(a: Cidr, b: Cidr): boolean {
  return cidrContains(a, b) || cidrContains(b, a);
}

/** The address `offset` places after the first address of the network; undefined when outside. */
export function cidrAddress(cidr: Cidr, offset: bigint | number): Ip | undefined {
  const family = familyOf(cidr);
  const size = 1n << BigInt(addressBits(family) - prefixLengthOf(cidr));
  const place = BigInt(offset);
  if (place < 0n || place >= size) return undefined;
  return ipFromBigInt(ipToBigInt(ipOf(cidr)) + place, family);
}

/** 4 or 16 bytes in network order. */
export function ipToBytes(ip: Ip): Uint8Array {
  if (familyOf(ip) === 4) {
    const bytes = new Uint8Array(4);
    let part = 0;
    let index = 0;
    for (let i = 0; i < ip.length; i += 1) {
      const code = ip.charCodeAt(i);
      if (code === 46) {
        bytes[index++] = part;
        part = 0;
      } else part = part * 10 + code - 48;
    }
    bytes[index] = part;
    return bytes;
  }
  return Uint8Array.from(ipaddr.IPv6.parse(ip).toByteArray());
}

/** The length says the family: 4 or 16 bytes. */
export function ipFromBytes(bytes: Uint8Array): Ip {
  if (bytes.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}` as Ip;
  return formatV6(new ipaddr.IPv6([...bytes]));
}

export function ipToBigInt(ip: Ip): bigint {
  let value = 0n;
  for (const byte of ipToBytes(ip)) value = (value << 8n) | BigInt(byte);
  return value;
}

export function ipFromBigInt(value: bigint, family: Family): Ip {
  const bytes = new Uint8Array(addressBits(family) / 8);
  for (let i = bytes.length - 1, rest = value; i >= 0; i -= 1, rest >>= 8n) bytes[i] = Number(rest & 255n);
  return ipFromBytes(bytes);
}

export function macToBytes(mac: Mac): Uint8Array {
  const bytes = new Uint8Array(6);
  for (let at = 0; at < 6; at += 1) {
    bytes[at] = (hexDigit(mac, at * 3) << 4) | hexDigit(mac, at * 3 + 1);
  }
  return bytes;
}

/** Of a lower-case digit. */
function hexDigit(text: string, at: number): number {
  const code = text.charCodeAt(at);
  return code > 57 ? code - 87 : code - 48;
}

const hexPairs = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));

/** Of the first six bytes. */
export function macFromBytes(bytes: Uint8Array): Mac {
  let text = '';
  for (let at = 0; at < 6; at += 1) text += `${at === 0 ? '' : ':'}${hexPairs[bytes[at] ?? 0]}`;
  return text as Mac;
}
