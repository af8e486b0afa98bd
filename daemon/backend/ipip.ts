import { addressBits, type Family, families, hostCidr, ipOf } from '../../core/address.ts';
import type { AddressRow } from '../../kernel/address.ts';
import type { LinkRow } from '../../kernel/link.ts';
import type { RouteRow } from '../../kernel/route.ts';
import type { Underlay } from '../underlay.ts';
import {
  type BackendConfig,
  type BackendFacts,
  type BackendKind,
  type BackendRows,
  backendAlias,
  type Guard,
  noRows,
} from './backend.ts';
import { innerMtu, leastInnerMtu, readMtu, type UnderlayMtu } from './mtu.ts';
import {
  countReached,
  isAdjacent,
  type Peer,
  readSenders,
  selectPeers,
  sendersOf,
  type TunnelSenders,
} from './peers.ts';

/*
 * The life of one packet, from pod 10.244.1.5 here to pod 10.244.2.7 on the node 192.0.2.2:
 *
 *   pod        its default route leads over the bridge to this node's root namespace
 *   route      10.244.2.0/24 via 192.0.2.2 dev fl-ipip onlink: the next hop is the peer itself
 *   fl-ipip    puts an IP header around the packet, from the interface's own address to the next hop
 *   peer       its fl-ipip takes the header off and routes the packet to its bridge
 *
 * A tunnel without a remote address serves all peers: the kernel takes the outer destination from the route's next
 * hop. So a peer is one row, and the overhead is one IP header.
 *
 * IPv6 travels in IPv6, over fl-ipip6. There the kernel refuses a next hop that it knows behind another interface, so
 * the route itself says both ends of the outer header (`encap ip6`). A sit tunnel would need IPv4 addresses on every
 * node, which clusters of IPv6 alone do not have.
 */

export interface IpipConfig extends BackendConfig, UnderlayMtu, TunnelSenders {
  readonly type: 'ipip';
  /** Peers in the same layer-2 network are reached without the tunnel. */
  readonly directRouting: boolean;
}

/** One IPv4 or IPv6 header. */
const overheadBytes = Object.freeze({ 4: 20, 6: 40 });
/** In the outer header: IPPROTO_IPIP, IPPROTO_IPV6. */
const protocols = Object.freeze({ 4: 4, 6: 41 });
const devices = Object.freeze({ 4: 'fl-ipip', 6: 'fl-ipip6' });
const kinds = { 4: 'ipip', 6: 'ip6tnl' } as const;

export const ipip: BackendKind<IpipConfig> = {
  type: 'ipip',
  parse: (options, inUse) => ({
    type: 'ipip',
    directRouting: options.boolean('DirectRouting', false),
    ...readMtu(options, overheadBytes, inUse),
    ...readSenders(options),
  }),
  make: (config) => ({
    type: 'ipip',
    data: () => ({}),
    mtuBytes: (underlay) => leastInnerMtu(config, underlay, overheadBytes),
    plan: (facts) => planIpip(config, facts),
  }),
};

function planIpip(config: IpipConfig, facts: BackendFacts): BackendRows {
  const { underlay } = facts;
  const { peers, problems } = selectPeers(facts);
  const ends = families.map((family) => tunnelEnd(config, facts, family));
  const routes = peers.map((peer): RouteRow => {
    const { family, subnet: destination, publicIp: gateway } = peer;
    if (config.directRouting && isAdjacent(underlay, peer))
      return { destination, gateway, device: underlay.device };
    const device = devices[family];
    if (family === 4) return { destination, gateway, device, onlink: true };
    const local = underlay.addresses[family];
    const source = local === undefined ? gateway : ipOf(local);
    return { destination, device, encapsulation: { destination: gateway, source } };
  });
  return {
    ...noRows,
    links: ends.flatMap(({ links }) => links),
    addresses: ends.flatMap(({ addresses }) => addresses),
    routes,
    guard: config.takesStrangers ? undefined : guardOf(peers, underlay),
    problems: problems.sort(),
    peers: countReached(facts, peers),
  };
}

/** The kernel gives a packet to a tunnel with two ends before it gives it to one with one end, as ours is. */
function guardOf(peers: readonly Peer[], { addresses, tunnelRemotes = [] }: Underlay): Guard {
  const ends = families.flatMap((family) => {
    const address = addresses[family];
    return address === undefined ? [] : [[family, ipOf(address)] as const];
  });
  return { protocols, ends: Object.fromEntries(ends), senders: [...sendersOf(peers), ...tunnelRemotes] };
}

function tunnelEnd(
  config: IpipConfig,
  { self, underlay }: BackendFacts,
  family: Family,
): { readonly links: LinkRow[]; readonly addresses: AddressRow[] } {
  const subnet = self.subnets[family];
  const local = underlay.addresses[family];
  if (subnet === undefined || local === undefined) return { links: [], addresses: [] };
  const name = devices[family];
  const link: LinkRow = {
    name,
    kind: kinds[family],
    alias: backendAlias,
    mtuBytes: innerMtu(config, underlay, overheadBytes, family),
    up: true,
    ...(family === 4 ? { ipip: { local: ipOf(local), device: underlay.device } } : {}),
  };
  const address = hostCidr(ipOf(subnet), addressBits(family));
  return { links: [link], addresses: [{ device: name, address }] };
}
