import {
  type Cidr,
  families,
  familyOf,
  type Ip,
  parseCidr,
  parseIp,
  prefixLengthOf,
} from '../core/address.ts';
import type { Lease, LeaseAttributes, PerFamily } from './lease.ts';

/*
 * flannel's format in etcd. Key: `<prefix>/subnets/10.5.52.0-24`, with a v6 subnet `10.5.52.0-24&fc00:0:0:1::-64`,
 * with none of v4 `0.0.0.0-0&fc00:0:0:1::-64`. Value, with its keys in this order:
 * `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{…},"BackendV6Data":{…}}`.
 */

/** The last part of the key of a lease. */
export function subnetKey(subnets: PerFamily<Cidr>): string {
  const v4 = dashed(subnets[4] ?? '0.0.0.0/0');
  return subnets[6] === undefined ? v4 : `${v4}&${dashed(subnets[6])}`;
}

function dashed(cidr: string): string {
  return cidr.replace('/', '-');
}

/** undefined when the text is no key of a lease. */
export function parseSubnetKey(text: string): PerFamily<Cidr> | undefined {
  const [, v4, v6] = /^(\d+\.\d+\.\d+\.\d+-\d+)(?:&([a-f\d:.]+-\d+))?$/.exec(text) ?? [];
  if (v4 === undefined) return undefined;
  const first = parseCidr(v4.replace('-', '/'));
  const second = v6 === undefined ? undefined : parseCidr(v6.replace('-', '/'));
  if (first === undefined || (v6 !== undefined && (second === undefined || familyOf(second) !== 6)))
    return undefined;
  return {
    ...(prefixLengthOf(first) === 0 ? {} : { 4: first }),
    ...(second === undefined ? {} : { 6: second }),
  };
}

export function renderLeaseValue({ publicIps, backendType, backendData }: LeaseAttributes): string {
  return JSON.stringify({
    PublicIP: publicIps[4] ?? '0.0.0.0',
    PublicIPv6: publicIps[6] ?? null,
    BackendType: backendType,
    BackendData: backendData[4] ?? undefined,
    BackendV6Data: backendData[6] ?? undefined,
  });
}

/** Reads key and value strictly: other machines wrote them. The problem is a sentence without the key. */
export function parseLease(name: string, value: string): Lease | { readonly problem: string } {
  const subnets = parseSubnetKey(name);
  if (subnets === undefined) return { problem: 'is not the key of a subnet' };
  const fields = parseObject(value);
  if (fields === undefined) return { problem: `is not a JSON object: ${value.slice(0, 80)}` };
  const type = fields.BackendType ?? '';
  if (typeof type !== 'string') return { problem: `BackendType is not a string: ${JSON.stringify(type)}` };
  const publicIps: { 4?: Ip; 6?: Ip } = {};
  for (const family of families) {
    const key = family === 4 ? 'PublicIP' : 'PublicIPv6';
    const text = fields[key];
    if (text === undefined || text === null || text === '0.0.0.0' || text === '::') continue;
    const ip = typeof text === 'string' ? parseIp(text) : undefined;
    if (ip === undefined || familyOf(ip) !== family)
      return { problem: `${key} is no address: ${JSON.stringify(text)}` };
    publicIps[family] = ip;
  }
  const { BackendData: v4 = null, BackendV6Data: v6 = null } = fields;
  return { key: name, subnets, publicIps, backendType: type, backendData: { 4: v4, 6: v6 } };
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return value !== null && typeof value === 'object' && !Array.isArray(value) ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}
