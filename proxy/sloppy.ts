import { type Ip, parseIp } from '../core/address.ts';

/**
 * Reads an address as Kubernetes reads stored objects: leading zeros are decimal (`010.0.0.1` is `10.0.0.1`), and
 * an IPv4-mapped IPv6 address is the IPv4 address. The result is canonical, so that it can be a key.
 * (Go's ParseIPSloppy in k8s.io/utils/net. New objects with such addresses are refused, old ones live on.)
 */
export function parseIpSloppy(text: string): Ip | undefined {
  const ip = parseIp(text) ?? parseIp(text.replace(/(\d+\.){3}\d+$/, withoutLeadingZeros));
  return ip?.startsWith('::ffff:') && ip.includes('.') ? parseIp(ip.slice('::ffff:'.length)) : ip;
}

function withoutLeadingZeros(quad: string): string {
  return quad.replaceAll(/(^|\.)0+(?=\d)/g, '$1');
}
