import {
  addressBits,
  type Cidr,
  familyOf,
  hostCidr,
  type Ip,
  ipFromBytes,
  ipToBytes,
  networkOf,
  parseIp,
} from '../core/address.ts';

/** Nearly all there are, and already canonical: at a cold start, each of a hundred thousand is read. */
const PLAIN_IPV4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}$/;
/** How many bits of an IPv4-mapped IPv6 address come before the IPv4 address. */
const MAPPED_BITS = 96;

/**
 * Reads an address as Kubernetes reads stored objects: leading zeros are decimal (`010.0.0.1` is `10.0.0.1`), and
 * an IPv4-mapped IPv6 address is the IPv4 address. The result is canonical, so that it can be a key.
 * (Go's ParseIPSloppy in k8s.io/utils/net. New objects with such addresses are refused, old ones live on.)
 */
export function parseIpSloppy(text: string): Ip | undefined {
  if (PLAIN_IPV4.test(text)) return text as Ip;
  const ip = parseIp(text) ?? parseIp(text.replace(/(\d+\.){3}\d+$/, withoutLeadingZeros));
  return ip && (mappedIp(ip) ?? ip);
}

/** Reads a network as Kubernetes reads stored objects; host bits that are set are cleared. (Go's ParseCIDRSloppy.) */
export function parseCidrSloppy(text: string): Cidr | undefined {
  const [, address, length] = /^([^/]*)\/(\d{1,3})$/.exec(text) ?? [];
  const ip = address === undefined ? undefined : parseIp6OrSloppy(address);
  if (ip === undefined || Number(length) > addressBits(familyOf(ip))) return undefined;
  const mapped = Number(length) >= MAPPED_BITS ? mappedIp(ip) : undefined;
  if (mapped !== undefined) return networkOf(hostCidr(mapped, Number(length) - MAPPED_BITS));
  return networkOf(hostCidr(ip, Number(length)));
}

/** A mapped address stays one: its prefix length counts from the beginning of all 128 bits. */
function parseIp6OrSloppy(text: string): Ip | undefined {
  const ip = parseIpSloppy(text);
  if (ip === undefined || familyOf(ip) === 6 || !text.includes(':')) return ip;
  return ipFromBytes(Uint8Array.from([...new Uint8Array(10), 0xff, 0xff, ...ipToBytes(ip)]));
}

function mappedIp(ip: Ip): Ip | undefined {
  return ip.startsWith('::ffff:') && ip.includes('.') ? parseIp(ip.slice('::ffff:'.length)) : undefined;
}

function withoutLeadingZeros(quad: string): string {
  return quad.replaceAll(/(^|\.)0+(?=\d)/g, '$1');
}
