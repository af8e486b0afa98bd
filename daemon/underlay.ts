import { type Family, families, familyOf, type HostCidr, type Ip, ipOf, parseIp } from '../core/address.ts';
import type { PerFamily } from './lease.ts';

/** The node's own network: what carries packets between nodes. */
export interface Underlay {
  readonly device: string;
  readonly mtuBytes: number;
  /** The interface's own addresses: where tunnels begin. */
  readonly addresses: PerFamily<HostCidr>;
  /** What the other nodes are told; differs from `addresses` behind 1:1 NAT. */
  readonly publicIps: PerFamily<Ip>;
}

/** The user's wishes; nothing given means the interface of the default route. */
export interface UnderlaySelector {
  /** Name of an interface, or an address on it. */
  readonly interface?: string;
  readonly publicIps?: PerFamily<Ip>;
}

/** What rtnetlink says, in the kernel's order. */
export interface UnderlayFacts {
  readonly links: readonly { readonly name: string; readonly index: number; readonly mtuBytes: number }[];
  readonly addresses: readonly AddressFact[];
  /** Devices of the default routes. */
  readonly defaultRoutes: PerFamily<string>;
}

export interface AddressFact {
  readonly device: string;
  readonly address: HostCidr;
  readonly scope: 'global' | 'link' | 'other';
  /** False while duplicate address detection runs or after it failed, and for deprecated addresses. */
  readonly usable: boolean;
  readonly permanent: boolean;
}

/** The underlay, or why there is none: a sentence that names the value. */
export function selectUnderlay(
  facts: UnderlayFacts,
  wanted: readonly Family[],
  selector: UnderlaySelector = {},
): Underlay | { readonly problem: string } {
  const device = selectDevice(facts, wanted, selector);
  if (typeof device !== 'string') return device;
  const link = facts.links.find(({ name }) => name === device);
  if (link === undefined) return { problem: `interface ${device} does not exist` };
  const addresses: { -readonly [F in Family]?: HostCidr } = {};
  const publicIps: { -readonly [F in Family]?: Ip } = {};
  for (const family of wanted) {
    const address = selectAddress(facts, device, family, selector);
    if (address === undefined) return { problem: `interface ${device} has no usable IPv${family} address` };
    addresses[family] = address;
    publicIps[family] = selector.publicIps?.[family] ?? ipOf(address);
  }
  return { device, mtuBytes: link.mtuBytes, addresses, publicIps };
}

function selectDevice(
  facts: UnderlayFacts,
  wanted: readonly Family[],
  { interface: name, publicIps = {} }: UnderlaySelector,
): string | { readonly problem: string } {
  if (name !== undefined) {
    const ip = parseIp(name);
    if (ip === undefined) return name;
    return ownerOf(facts, ip) ?? { problem: `no interface has the address ${ip}; ${describe(facts)}` };
  }
  const owners = families.flatMap((family) => publicIps[family] ?? []).map((ip) => ownerOf(facts, ip));
  const owner = owners.find((device) => device !== undefined);
  return owner ?? defaultDevice(facts, wanted);
}

function defaultDevice(
  facts: UnderlayFacts,
  wanted: readonly Family[],
): string | { readonly problem: string } {
  const devices = wanted.map((family) => facts.defaultRoutes[family]);
  const missing = wanted.find((family) => facts.defaultRoutes[family] === undefined);
  const [first, second] = devices;
  if (missing !== undefined || first === undefined) {
    return { problem: `there is no IPv${missing} default route to tell the interface; name one` };
  }
  if (second === undefined || second === first) return first;
  return {
    problem: `the default routes lead to two interfaces, IPv4 to ${first} and IPv6 to ${second}; name one`,
  };
}

function ownerOf(facts: UnderlayFacts, ip: Ip): string | undefined {
  return facts.addresses.find(({ address }) => ipOf(address) === ip)?.device;
}

/** Global before link-local, permanent before temporary; an address that the user named before all. */
function selectAddress(
  facts: UnderlayFacts,
  device: string,
  family: Family,
  selector: UnderlaySelector,
): HostCidr | undefined {
  const named = [selector.publicIps?.[family], parseIp(selector.interface ?? '')];
  const rank = ({ address, scope, permanent }: AddressFact) =>
    (named.includes(ipOf(address)) ? 0 : 4) + (scope === 'global' ? 0 : 2) + (permanent ? 0 : 1);
  return facts.addresses
    .filter((fact) => fact.device === device && familyOf(fact.address) === family)
    .filter(({ usable, scope }) => usable && scope !== 'other')
    .toSorted((a, b) => rank(a) - rank(b))[0]?.address;
}

function describe(facts: UnderlayFacts): string {
  const all = facts.links.map(({ name }) => {
    const own = facts.addresses.filter(({ device }) => device === name).map(({ address }) => address);
    return `${name} [${own.join(', ')}]`;
  });
  return `there are ${all.join(', ') || 'none'}`;
}
