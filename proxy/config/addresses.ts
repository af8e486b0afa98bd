import { addressBits, type Cidr, familyOf, hostCidr, type Ip, networkOf } from '../../core/address.ts';
import { parseIpSloppy } from '../sloppy.ts';

/** Where a server listens. */
export interface HostPort {
  readonly host: Ip;
  readonly port: number;
}

/** Reads a network as kube-proxy does: leading zeros are decimal, bits behind the prefix do not matter. */
export function parseCidrSloppy(text: string): Cidr | undefined {
  const [, address = '', length = ''] = /^([^/]+)\/(\d{1,3})$/.exec(text) ?? [];
  const ip = parseIpSloppy(address);
  if (ip === undefined || Number(length) > addressBits(familyOf(ip))) return undefined;
  return networkOf(hostCidr(ip, Number(length)));
}

/** Reads "0.0.0.0:10256" or "[::]:10256". */
export function parseHostPort(text: string): HostPort | undefined {
  const [, inBrackets, plain, port] = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d{1,5})$/.exec(text) ?? [];
  const host = parseIpSloppy(inBrackets ?? plain ?? '');
  const number = Number(port);
  return host === undefined || number < 1 || number > 65535 ? undefined : { host, port: number };
}

/** As {@link parseHostPort} reads it. */
export function renderHostPort({ host, port }: HostPort): string {
  return familyOf(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
}
