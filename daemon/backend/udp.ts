import { addressBits, families, familyOf, hostCidr, ipOf } from '../../core/address.ts';
import { layer } from '../../core/rows.ts';
import { type TunnelRow, TunnelTable, tunnelKey } from '../../kernel/tunnel.ts';
import {
  type BackendConfig,
  type BackendFacts,
  type BackendKind,
  type BackendPlace,
  type BackendRows,
  backendAlias,
  noRows,
  type OpenBackend,
} from './backend.ts';
import { leastInnerMtu, readMtu, type UnderlayMtu } from './mtu.ts';
import { countReached, selectPeers } from './peers.ts';

/*
 * The life of one packet, from pod 10.244.1.5 here to pod 10.244.2.7 on the node 192.0.2.2:
 *
 *   pod        its default route leads over the bridge to this node's root namespace
 *   route      10.244.2.0/24 dev fl-udp: a TUN device, read by a thread of this process
 *   tunnel     10.244.2.0/24 → 192.0.2.2:8285: the packet is the payload of a datagram, with nothing in front of it
 *   peer       its thread looks who sent the datagram, and writes the packet to its device
 *
 * As flannel's udp backend has it on the wire; flannel carries IPv4 only, and so do its nodes for us. For nodes whose
 * kernel can do nothing better: nothing is encrypted, and a sender's address is all that is known of it.
 *
 * flannel lowers the time to live in its process; here the kernel does, as it forwards to and from the device.
 */

export interface UdpConfig extends BackendConfig, UnderlayMtu {
  readonly type: 'udp';
  readonly port: number;
}

/** Outer IPv4 (20) or IPv6 (40) and UDP (8) headers. */
const overheadBytes = Object.freeze({ 4: 28, 6: 48 });
const usualPort = 8285;
const device = 'fl-udp';

export const udp: BackendKind<UdpConfig> = {
  type: 'udp',
  parse: (options, inUse) => ({
    type: 'udp',
    port: options.integer('Port', 0, 65535) || usualPort,
    ...readMtu(options, overheadBytes, inUse),
  }),
  make: (config) => ({
    type: 'udp',
    data: () => ({}),
    mtuBytes: (underlay) => leastInnerMtu(config, underlay, overheadBytes),
    plan: (facts) => planUdp(config, facts),
    open: (place) => openUdp(config, place),
  }),
};

function planUdp(config: UdpConfig, facts: BackendFacts): BackendRows {
  const { self, underlay } = facts;
  const { peers, problems } = selectPeers(facts);
  const mtuBytes = leastInnerMtu(config, underlay, overheadBytes);
  const subnets = families.flatMap((family) => self.subnets[family] ?? []);
  return {
    ...noRows,
    links: [{ name: device, kind: 'tun', alias: backendAlias, mtuBytes, up: true }],
    addresses: subnets.map((subnet) => {
      return { device, address: hostCidr(ipOf(subnet), addressBits(familyOf(subnet))) };
    }),
    routes: peers.map(({ subnet: destination }) => ({ destination, device })),
    problems: problems.sort(),
    peers: countReached(facts, peers),
  };
}

/** Where packets for each peer go: each family in datagrams of its own. */
export function planTunnel({ port }: UdpConfig, facts: BackendFacts): Map<string, TunnelRow> {
  const rows = selectPeers(facts).peers.map(({ subnet: destination, publicIp: endpoint }) => {
    return { destination, endpoint, port };
  });
  return new Map(rows.map((row) => [tunnelKey(row), row]));
}

function openUdp(config: UdpConfig, place: BackendPlace): OpenBackend {
  const table = new TunnelTable(place);
  return {
    layers(facts) {
      const locals = families.flatMap((family) => facts.underlay.addresses[family] ?? []).map(ipOf);
      const { port } = config;
      return [layer(table.between({ device, locals, port }), planTunnel(config, facts))];
    },
    packets() {
      const state = table.state();
      if (state === undefined) return undefined;
      const { sent, received, noRoute, badSender, malformed, lost } = state;
      return { sent, received, no_route: noRoute, bad_sender: badSender, malformed, lost };
    },
    [Symbol.dispose]: () => table[Symbol.dispose](),
  };
}
