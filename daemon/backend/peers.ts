import {
  addressBits,
  type Cidr,
  cidrContains,
  type Family,
  families,
  familyOf,
  type Ip,
  ipOf,
  ipToBigInt,
  networkOf,
  parseCidr,
  prefixLengthOf,
} from '../../core/address.ts';
import type { JsonObject } from '../json-object.ts';
import { type Lease, leaseFamilies } from '../lease.ts';
import type { Underlay } from '../underlay.ts';
import type { BackendFacts } from './backend.ts';

/** One family of one other node. */
export interface Peer {
  readonly key: string;
  readonly family: Family;
  readonly subnet: Cidr;
  readonly publicIp: Ip;
  /** As published, not yet checked. */
  readonly data: unknown;
  /** See {@link Lease.since}. */
  readonly since: number | undefined;
  /** See {@link Lease.addresses}; of this family. */
  readonly addresses?: readonly Ip[];
}

/** The first and last address of a network, as numbers: of IPv6 they are too large for anything but bigint. */
interface Range {
  readonly first: number | bigint;
  readonly last: number | bigint;
}

/** What a lease says of one family, whoever reads it. */
interface Candidate extends Range {
  readonly lease: Lease;
  /** Why nobody can have the address that it announces. */
  readonly wrong: string | undefined;
  /** undefined: it has the subnet, but no public address. */
  readonly peer: Peer | undefined;
  readonly subnet: Cidr;
}

/**
 * A lease object never changes, so it is read once, and a changed lease costs as much as one lease: all that is done
 * for the others in every plan is to compare numbers. A peer that has not changed is the same object.
 */
const candidates = { 4: new WeakMap<Lease, Candidate>(), 6: new WeakMap<Lease, Candidate>() } as const;

function candidateOf(lease: Lease, family: Family): Candidate | undefined {
  const subnet = lease.subnets[family];
  if (subnet === undefined) return undefined;
  const known = candidates[family].get(lease);
  if (known !== undefined) return known;
  const publicIp = lease.publicIps[family];
  const data = lease.backendData[family];
  const { key, since } = lease;
  const addresses = lease.addresses?.filter((ip) => familyOf(ip) === family) ?? [];
  const more = addresses.length > 0 ? { addresses } : {};
  const peer = publicIp && { key, family, subnet, publicIp, data, since, ...more };
  const wrong = publicIp && wrongAddress(publicIp);
  const candidate = { lease, peer, subnet, wrong, ...rangeOf(subnet) };
  candidates[family].set(lease, candidate);
  return candidate;
}

/** What is no address of one machine that others can send to: RFC 6890, RFC 5771, RFC 4291. */
const wrongNetworks = (
  [
    ['0.0.0.0/8', 'of no network'],
    ['127.0.0.0/8', 'a loopback address'],
    ['224.0.0.0/4', 'a multicast address'],
    ['240.0.0.0/4', 'reserved'],
    ['::/128', 'unspecified'],
    ['::1/128', 'a loopback address'],
    ['::ffff:0:0/96', 'an IPv4 address'],
    ['ff00::/8', 'a multicast address'],
  ] as const
).flatMap(([text, what]) => {
  const network = parseCidr(text);
  return network === undefined ? [] : [{ network, what }];
});

function wrongAddress(ip: Ip): string | undefined {
  const family = familyOf(ip);
  return wrongNetworks.find(({ network }) => familyOf(network) === family && cidrContains(network, ip))?.what;
}

function rangeOf(cidr: Cidr): Range {
  const start = ipToBigInt(ipOf(cidr));
  const end = start + (1n << BigInt(addressBits(familyOf(cidr)) - prefixLengthOf(cidr))) - 1n;
  return familyOf(cidr) === 4 ? { first: Number(start), last: Number(end) } : { first: start, last: end };
}

function contains(outer: Range, inner: Range): boolean {
  return outer.first <= inner.first && inner.last <= outer.last;
}

/**
 * The peers worth a route, in the order of their subnets, and a sentence for each that is not: leases are
 * written by other machines, so one that overlaps another or leaves the cluster's network is not believed.
 */
export function selectPeers(facts: BackendFacts): { readonly peers: Peer[]; readonly problems: string[] } {
  const problems: string[] = [];
  const known: Lease[] = [];
  for (const lease of facts.leases.values()) {
    if (lease.key === facts.self.key) continue;
    if (lease.backendType === facts.self.backendType) known.push(lease);
    else problems.push(`${lease.key}: its backend is ${lease.backendType}, not ${facts.self.backendType}`);
  }
  const peers = families.flatMap((family) =>
    withoutOverlaps(believed(known, family, facts, problems), problems),
  );
  return { peers, problems };
}

/** Those inside of the cluster's network, and apart from this node's own subnet. */
function believed(
  leases: readonly Lease[],
  family: Family,
  facts: BackendFacts,
  problems: string[],
): Candidate[] {
  const own = facts.self.subnets[family];
  // Without an address of its own the node cannot begin a tunnel.
  if (own === undefined || facts.underlay.addresses[family] === undefined) return [];
  const network = facts.networks[family];
  const { [family]: address } = facts.underlay.addresses;
  const here = address && ipOf(address);
  const [ownRange, networkRange] = [rangeOf(own), network && rangeOf(network)];
  const found: Candidate[] = [];
  for (const lease of leases) {
    const candidate = candidateOf(lease, family);
    if (candidate === undefined) continue;
    const { peer, subnet, wrong } = candidate;
    if (peer === undefined)
      problems.push(`${lease.key}: it has the subnet ${subnet} but no public IPv${family} address`);
    else if (wrong !== undefined)
      problems.push(`${lease.key}: it announces ${peer.publicIp}, which is ${wrong}`);
    else if (peer.publicIp === here)
      problems.push(`${lease.key}: it announces ${here}, which is this node's address: is it gone?`);
    else if (networkRange === undefined || !contains(networkRange, candidate))
      problems.push(`${lease.key}: its subnet ${subnet} is outside of the network ${network}`);
    else if (contains(ownRange, candidate) || contains(candidate, ownRange))
      problems.push(`${lease.key}: its subnet ${subnet} overlaps this node's ${own}`);
    else found.push(candidate);
  }
  return found;
}

/** Networks nest or are apart, so after sorting it is enough to look at the last one taken. */
function withoutOverlaps(found: Candidate[], problems: string[]): Peer[] {
  const sorted = found.sort(
    (a, b) => order(a.first, b.first) || order(b.last, a.last) || order(a.lease.key, b.lease.key),
  );
  const taken: Peer[] = [];
  let before: Candidate | undefined;
  for (const candidate of sorted) {
    const { peer, lease, subnet } = candidate;
    if (before !== undefined && contains(before, candidate))
      problems.push(`${lease.key}: its subnet ${subnet} overlaps ${before.subnet} of ${before.lease.key}`);
    else if (peer !== undefined) {
      taken.push(peer);
      before = candidate;
    }
  }
  return taken;
}

function order<T extends number | bigint | string>(a: T, b: T): number {
  return a === b ? 0 : a < b ? -1 : 1;
}

/** How many nodes there is a way to in every family that both they and this node have a subnet of. */
export function countReached({ self, leases }: BackendFacts, reached: readonly Peer[]): number {
  const own = leaseFamilies(self);
  if (own.length < 2) return reached.length;
  const ways = new Map<string, number>();
  for (const { key } of reached) ways.set(key, (ways.get(key) ?? 0) + 1);
  let count = 0;
  for (const [key, found] of ways) {
    const subnets = leases.get(key)?.subnets;
    if (found >= own.filter((family) => subnets?.[family] !== undefined).length) count += 1;
  }
  return count;
}

/** Where peers' encapsulated packets may come from. */
export function sendersOf(peers: readonly Peer[]): Ip[] {
  const senders: Ip[] = [];
  for (const { publicIp, addresses = [] } of peers) senders.push(publicIp, ...addresses);
  return senders;
}

/** The option `TunnelSenders`, not one of flannel's: where nodes' packets do not come from addresses that anybody knows. */
export interface TunnelSenders {
  /** By default false: encapsulated packets are taken from the cluster's nodes only. */
  readonly takesStrangers?: boolean;
}

export function readSenders(options: JsonObject): TunnelSenders {
  return options.word('TunnelSenders', ['nodes', 'any']) === 'any' ? { takesStrangers: true } : {};
}

/** Whether no router lies between the underlay device and the peer: its address is in a network on the device's link. */
export function isAdjacent(underlay: Underlay, peer: Pick<Peer, 'family' | 'publicIp'>): boolean {
  const address = underlay.addresses[peer.family];
  if (address === undefined) return false;
  if (cidrContains(networkOf(address), peer.publicIp)) return true;
  const { onLink = [] } = underlay;
  return onLink.some((network) => familyOf(network) === peer.family && cidrContains(network, peer.publicIp));
}
