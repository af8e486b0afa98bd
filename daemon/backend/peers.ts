import {
  type Cidr,
  cidrContains,
  cidrsOverlap,
  type Family,
  families,
  type Ip,
  ipOf,
  ipToBigInt,
  networkOf,
  prefixLengthOf,
} from '../../core/address.ts';
import type { Lease } from '../lease.ts';
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
}

/**
 * The peers worth a route, in the order of their subnets, and a sentence for each that is not: leases are
 * written by other machines, so one that overlaps another or leaves the cluster's network is not believed.
 */
export function selectPeers(facts: BackendFacts): { readonly peers: Peer[]; readonly problems: string[] } {
  const problems: string[] = [];
  const others = [...facts.leases.values()].filter(({ key }) => key !== facts.self.key);
  const known = others.filter((lease) => {
    if (lease.backendType === facts.self.backendType) return true;
    problems.push(`${lease.key}: its backend is ${lease.backendType}, not ${facts.self.backendType}`);
    return false;
  });
  const peers = families.flatMap((family) => {
    if (facts.self.subnets[family] === undefined) return [];
    const candidates = known.flatMap((lease) => peerOf(lease, family, facts, problems));
    return withoutOverlaps(candidates, problems);
  });
  return { peers, problems };
}

function peerOf(lease: Lease, family: Family, facts: BackendFacts, problems: string[]): Peer[] {
  const subnet = lease.subnets[family];
  const publicIp = lease.publicIps[family];
  const network = facts.networks[family];
  const own = facts.self.subnets[family];
  if (subnet === undefined) return [];
  const no = (reason: string) => {
    problems.push(`${lease.key}: ${reason}`);
    return [];
  };
  if (publicIp === undefined) return no(`it has the subnet ${subnet} but no public IPv${family} address`);
  if (network === undefined || !cidrContains(network, subnet)) {
    return no(`its subnet ${subnet} is outside of the network ${network}`);
  }
  if (own !== undefined && cidrsOverlap(own, subnet))
    return no(`its subnet ${subnet} overlaps this node's ${own}`);
  return [{ key: lease.key, family, subnet, publicIp, data: lease.backendData[family] }];
}

/** Networks nest or are apart, so after sorting it is enough to look at the last one taken. */
function withoutOverlaps(candidates: Peer[], problems: string[]): Peer[] {
  const sorted = candidates
    .map((peer) => ({ peer, start: ipToBigInt(ipOf(peer.subnet)), length: prefixLengthOf(peer.subnet) }))
    .sort((a, b) =>
      a.start !== b.start
        ? a.start < b.start
          ? -1
          : 1
        : a.length - b.length || (a.peer.key < b.peer.key ? -1 : 1),
    );
  const taken: Peer[] = [];
  for (const { peer } of sorted) {
    const last = taken.at(-1);
    if (last === undefined || !cidrContains(last.subnet, peer.subnet)) taken.push(peer);
    else problems.push(`${peer.key}: its subnet ${peer.subnet} overlaps ${last.subnet} of ${last.key}`);
  }
  return taken;
}

/** Whether the peer is in the network that the underlay device is directly connected to. */
export function isAdjacent(underlay: Underlay, peer: Pick<Peer, 'family' | 'publicIp'>): boolean {
  const address = underlay.addresses[peer.family];
  return address !== undefined && cidrContains(networkOf(address), peer.publicIp);
}
