import {
  type Cidr,
  cidrContains,
  type Family,
  families,
  familyOf,
  type HostCidr,
  type Ip,
  ipOf,
  networkOf,
  parseCidr,
  parseIp,
} from '../core/address.ts';
import type { PerFamily } from './lease.ts';

/** The node's own network: what carries packets between nodes. */
export interface Underlay {
  readonly device: string;
  readonly mtuBytes: number;
  /** The interface's own addresses: where tunnels begin. */
  readonly addresses: PerFamily<HostCidr>;
  /** What the other nodes are told; differs from `addresses` behind 1:1 NAT. */
  readonly publicIps: PerFamily<Ip>;
  /** Networks on the device's link besides those of {@link addresses}, where there are any: no router lies before them. */
  readonly onLink?: readonly Cidr[];
  /** Other ends of tunnels that are somebody else's (IP in IP), where there are any. */
  readonly tunnelRemotes?: readonly Ip[];
}

/**
 * The user's wishes; nothing given means the interface of the default route. Interfaces are tried first, then
 * patterns, then the reachable address; the first that finds something decides.
 */
export interface UnderlaySelector {
  /** Name of an interface, or an address on it. */
  readonly interface?: string | undefined;
  /** As many of these, in order of preference. */
  readonly interfaces?: readonly string[];
  /** In order: each is held against the addresses of all interfaces, then against their names. */
  readonly patterns?: readonly RegExp[];
  /** The interface, and the address on it, that packets to this address leave from. */
  readonly canReach?: Ip | undefined;
  readonly publicIps?: PerFamily<Ip>;
}

/** What rtnetlink says, in the kernel's order. */
export interface UnderlayFacts {
  readonly links: readonly LinkFact[];
  readonly addresses: readonly AddressFact[];
  /** Devices of the default routes. */
  readonly defaultRoutes: PerFamily<string>;
  /** Routes to networks that are on a device's link, of the main table. */
  readonly onLink?: readonly { readonly device: string; readonly network: Cidr }[];
  /** The way to {@link UnderlaySelector.canReach}; undefined when there is none, or nobody asked. */
  readonly reach?: { readonly device: string; readonly source?: Ip | undefined } | undefined;
}

export interface LinkFact {
  readonly name: string;
  readonly index: number;
  readonly mtuBytes: number;
  /** Of a tunnel between two ends, IP in IP: the other end. */
  readonly remote?: Ip | undefined;
}

export interface AddressFact {
  readonly device: string;
  readonly address: HostCidr;
  readonly scope: 'global' | 'link' | 'other';
  /** False while duplicate address detection runs or after it failed, and for deprecated addresses. */
  readonly usable: boolean;
  readonly permanent: boolean;
}

/** What a wish, or the default route, leads to. */
interface Choice {
  readonly device: string;
  /** An address that was named or found on the way. */
  readonly address?: Ip | undefined;
}

/** The underlay, or why there is none: a sentence that names the value. */
export function selectUnderlay(
  facts: UnderlayFacts,
  wanted: readonly Family[],
  selector: UnderlaySelector = {},
): Underlay | { readonly problem: string } {
  const choice = choose(facts, wanted, selector);
  if ('problem' in choice) return choice;
  const { device } = choice;
  const link = facts.links.find(({ name }) => name === device);
  if (link === undefined) return { problem: `interface ${device} does not exist` };
  if (link.mtuBytes === 0) return { problem: `interface ${device} has an MTU of 0` };
  const addresses: { -readonly [F in Family]?: HostCidr } = {};
  const publicIps: { -readonly [F in Family]?: Ip } = {};
  for (const family of wanted) {
    const named = [selector.publicIps?.[family], choice.address];
    const address = selectAddress(facts, device, family, named);
    if (address === undefined) return { problem: `interface ${device} has no usable IPv${family} address` };
    addresses[family] = address;
    publicIps[family] = selector.publicIps?.[family] ?? ipOf(address);
  }
  const found = { device, mtuBytes: link.mtuBytes, addresses, publicIps };
  return { ...found, ...surroundings(facts, found) };
}

function surroundings(
  { links, onLink = [] }: UnderlayFacts,
  { device, addresses }: Pick<Underlay, 'device' | 'addresses'>,
): Pick<Underlay, 'onLink' | 'tunnelRemotes'> {
  const tunnelRemotes = links.flatMap(({ remote }) => remote ?? []);
  const known: readonly Cidr[] = families.flatMap((family) => {
    const address = addresses[family];
    return address === undefined ? [] : networkOf(address);
  });
  const more = onLink
    .filter((route) => route.device === device && !known.includes(route.network))
    .map(({ network }) => network);
  return {
    ...(more.length > 0 ? { onLink: [...new Set(more)].sort() } : {}),
    ...(tunnelRemotes.length > 0 ? { tunnelRemotes } : {}),
  };
}

/** What a node has to go by that may have had an underlay before. */
export interface UnderlayCase {
  readonly facts: UnderlayFacts;
  readonly wanted: readonly Family[];
  readonly selector: UnderlaySelector;
  readonly last: Underlay | undefined;
  /** Whether a first underlay of one family is better than none. */
  readonly takesPart: boolean;
}

/**
 * What carries packets from here on, and what is wrong with it. A part that is lost takes nothing else down: the last
 * underlay stays in use while its device has an address of any family, and a family without one keeps what it had.
 * Without a last one, a part of the families may begin.
 */
export function followUnderlay({ facts, wanted, selector, last, takesPart }: UnderlayCase): {
  readonly underlay?: Underlay | undefined;
  readonly problem?: string | undefined;
} {
  const found = selectUnderlay(facts, wanted, selector);
  if (last === undefined) {
    if (!('problem' in found)) return { underlay: found };
    const parts = takesPart ? wanted.map((family) => selectUnderlay(facts, [family], selector)) : [];
    const underlay = parts.find((part) => !('problem' in part)) as Underlay | undefined;
    return { underlay, problem: found.problem };
  }
  const problem = 'problem' in found ? found.problem : fallen(found, wanted, last);
  if (problem === undefined) return { underlay: found as Underlay };
  const underlay = carryOn(facts, wanted, selector, last);
  return { underlay, problem: underlay ? `${problem}; ${last.device} stays in use as it was` : problem };
}

const linkLocal = ['169.254.0.0/16', 'fe80::/10'].flatMap((text) => parseCidr(text) ?? []);

function isLinkLocal(address: HostCidr): boolean {
  return linkLocal.some((network) => cidrContains(network, ipOf(address)));
}

/** Peers cannot send to an address of one link only; what is left of a family that has lost its others is none. */
function fallen(found: Underlay, wanted: readonly Family[], last: Underlay): string | undefined {
  for (const family of wanted) {
    const [now, before] = [found.addresses[family], last.addresses[family]];
    if (now === undefined || before === undefined || !isLinkLocal(now) || isLinkLocal(before)) continue;
    return `interface ${found.device} has no IPv${family} address but the link's own ${ipOf(now)}`;
  }
  return undefined;
}

function carryOn(
  facts: UnderlayFacts,
  wanted: readonly Family[],
  { publicIps: given }: UnderlaySelector,
  last: Underlay,
): Underlay | undefined {
  const { device } = last;
  const mtuBytes = facts.links.find(({ name }) => name === device)?.mtuBytes ?? 0;
  const addresses = { ...last.addresses };
  const publicIps = { ...last.publicIps };
  let isThere = false;
  for (const family of wanted) {
    const before = last.addresses[family];
    const address = selectAddress(facts, device, family, [given?.[family], before && ipOf(before)]);
    if (address === undefined || (before !== undefined && isLinkLocal(address) && !isLinkLocal(before)))
      continue;
    addresses[family] = address;
    publicIps[family] = given?.[family] ?? ipOf(address);
    isThere = true;
  }
  const kept = { device, mtuBytes, addresses, publicIps };
  return isThere && mtuBytes > 0 ? { ...kept, ...surroundings(facts, kept) } : undefined;
}

function choose(
  facts: UnderlayFacts,
  wanted: readonly Family[],
  selector: UnderlaySelector,
): Choice | { readonly problem: string } {
  const { interface: first, interfaces = [], patterns = [], canReach, publicIps = {} } = selector;
  const named = first === undefined ? interfaces : [first, ...interfaces];
  if (named.length + patterns.length > 0 || canReach !== undefined) {
    const inOrder = [...named.map(byName), ...patterns.map(byPattern), () => byReach(facts)];
    for (const find of inOrder) {
      const choice = find(facts);
      if (choice !== undefined) return choice;
    }
    return { problem: notFound(facts, named, patterns, canReach) };
  }
  const owners = families.flatMap((family) => publicIps[family] ?? []).map((ip) => ownerOf(facts, ip));
  const owner = owners.find((device) => device !== undefined);
  return owner === undefined ? defaultDevice(facts, wanted) : { device: owner };
}

function byName(text: string): (facts: UnderlayFacts) => Choice | undefined {
  return (facts) => {
    const address = parseIp(text);
    const device =
      address === undefined ? facts.links.find(({ name }) => name === text)?.name : ownerOf(facts, address);
    return device === undefined ? undefined : { device, address };
  };
}

function byPattern(pattern: RegExp): (facts: UnderlayFacts) => Choice | undefined {
  return ({ links, addresses }) => {
    const outward = addresses.filter(({ scope, usable }) => usable && scope !== 'other');
    const owned = outward.find(({ address }) => pattern.test(ipOf(address)));
    if (owned !== undefined) return { device: owned.device, address: ipOf(owned.address) };
    const link = links.find(({ name }) => pattern.test(name));
    return link && { device: link.name };
  };
}

function byReach({ reach }: UnderlayFacts): Choice | undefined {
  return reach && { device: reach.device, address: reach.source };
}

function notFound(
  facts: UnderlayFacts,
  named: readonly string[],
  patterns: readonly RegExp[],
  canReach: Ip | undefined,
): string {
  const asked = [
    ...named.map((text) => (parseIp(text) === undefined ? `is named ${text}` : `has the address ${text}`)),
    ...patterns.map(({ source }) => `matches ${source}`),
    ...(canReach === undefined ? [] : [`leads to ${canReach}`]),
  ];
  return `no interface ${asked.join(' or ')}; ${describe(facts)}`;
}

function defaultDevice(
  facts: UnderlayFacts,
  wanted: readonly Family[],
): Choice | { readonly problem: string } {
  const devices = wanted.map((family) => facts.defaultRoutes[family]);
  const missing = wanted.find((family) => facts.defaultRoutes[family] === undefined);
  const [first, second] = devices;
  if (missing !== undefined || first === undefined) {
    return { problem: `there is no IPv${missing} default route to tell the interface; name one` };
  }
  if (second === undefined || second === first) return { device: first };
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
  named: readonly (Ip | undefined)[],
): HostCidr | undefined {
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
