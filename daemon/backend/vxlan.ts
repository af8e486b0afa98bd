import {
  addressBits,
  type Family,
  families,
  hostCidr,
  ipOf,
  type Mac,
  macToBytes,
  parseMac,
} from '../../core/address.ts';
import type { AddressRow } from '../../kernel/address.ts';
import type { LinkRow } from '../../kernel/link.ts';
import type { FdbRow, NeighborRow } from '../../kernel/neighbor.ts';
import type { RouteRow } from '../../kernel/route.ts';
import type { VxlanConfig } from '../config.ts';
import { type PerFamily, vtepMac } from '../lease.ts';
import type { Underlay } from '../underlay.ts';
import { type Backend, type BackendFacts, type BackendRows, backendAlias } from './backend.ts';
import { isAdjacent, type Peer, selectPeers } from './peers.ts';

/*
 * The life of one packet, from pod 10.244.1.5 here to pod 10.244.2.7 on the node 192.0.2.2:
 *
 *   pod        its default route leads over the bridge to this node's root namespace
 *   route      10.244.2.0/24 via 10.244.2.0 dev fl.1 onlink: the next hop is the peer's tunnel end
 *   neighbor   10.244.2.0 lladdr <peer's VTEP MAC> permanent: no ARP ever crosses the tunnel
 *   fdb        <peer's VTEP MAC> dst 192.0.2.2: where a frame for this MAC is to be sent
 *   fl.1       wraps the frame in VXLAN, UDP and IP, from the interface's own address to 192.0.2.2:8472
 *   peer       its fl.1 unwraps the frame; the MAC is its own, so it routes the packet to its bridge
 *
 * So a peer is three rows, and adding the thousandth costs what adding the first did. With DirectRouting a peer
 * in the same layer-2 network is one row: its subnet via its public address on the interface.
 *
 * Each family has a device of its own (fl.1, fl6.1), because a tunnel end has one local address.
 */

/** Outer Ethernet (14), IPv4 (20) or IPv6 (40), UDP (8) and VXLAN (8) headers around a packet. */
export const vxlanOverheadBytes = Object.freeze({ 4: 50, 6: 70 });

/** flannel's names are flannel.1 and flannel-v6.1; ours differ so that neither touches the other's. */
export function vtepDevice(vni: number, family: Family): string {
  return `${family === 4 ? 'fl' : 'fl6'}.${vni}`;
}

export function vxlan(config: VxlanConfig): Backend {
  return {
    data: (nodeName, underlay) => vtepData(config, nodeName, underlay),
    mtuBytes: (underlay) =>
      Math.min(...familiesOf(underlay).map((family) => tunnelMtu(config, underlay, family))),
    plan: (facts) => planVxlan(config, facts),
  };
}

function familiesOf(underlay: Underlay): Family[] {
  return families.filter((family) => underlay.addresses[family] !== undefined);
}

function tunnelMtu(config: VxlanConfig, underlay: Underlay, family: Family): number {
  return (config.mtuBytes ?? underlay.mtuBytes) - vxlanOverheadBytes[family];
}

function vtepData(config: VxlanConfig, nodeName: string, underlay: Underlay): PerFamily<unknown> {
  return Object.fromEntries(
    familiesOf(underlay).map((family) => [family, { VNI: config.vni, VtepMAC: vtepMac(nodeName, family) }]),
  );
}

function planVxlan(config: VxlanConfig, facts: BackendFacts): BackendRows {
  const { peers, problems } = selectPeers(facts);
  const links: LinkRow[] = [];
  const addresses: AddressRow[] = [];
  const neighbors: NeighborRow[] = [];
  const fdb: FdbRow[] = [];
  const routes: RouteRow[] = [];
  const reached = new Set<string>();
  for (const family of families) {
    const subnet = facts.self.subnets[family];
    const local = facts.underlay.addresses[family];
    if (subnet === undefined || local === undefined) continue;
    const name = vtepDevice(config.vni, family);
    const { vni, port, learning } = config;
    links.push({
      name,
      kind: 'vxlan',
      alias: backendAlias,
      mac: vtepMac(facts.nodeName, family),
      mtuBytes: tunnelMtu(config, facts.underlay, family),
      up: true,
      vxlan: { vni, port, local: ipOf(local), device: facts.underlay.device, learning },
    });
    addresses.push({ device: name, address: hostCidr(ipOf(subnet), addressBits(family)) });
  }
  for (const peer of peers) {
    const device = vtepDevice(config.vni, peer.family);
    if (config.directRouting && isAdjacent(facts.underlay, peer)) {
      routes.push({ destination: peer.subnet, gateway: peer.publicIp, device: facts.underlay.device });
    } else {
      const mac = peerMac(config, peer);
      if (typeof mac !== 'string') {
        problems.push(mac.problem);
        continue;
      }
      const nextHop = ipOf(peer.subnet);
      neighbors.push({ device, ip: nextHop, mac });
      fdb.push({ device, mac, destination: peer.publicIp });
      routes.push({ destination: peer.subnet, gateway: nextHop, device, onlink: true });
    }
    reached.add(peer.key);
  }
  return { links, addresses, neighbors, fdb, routes, problems: problems.sort(), peers: reached.size };
}

function peerMac(config: VxlanConfig, { key, data }: Peer): Mac | { readonly problem: string } {
  const { VNI: vni, VtepMAC: text } = (data ?? {}) as { VNI?: unknown; VtepMAC?: unknown };
  if (vni !== undefined && vni !== config.vni) {
    return { problem: `${key}: its VNI is ${JSON.stringify(vni)}, not ${config.vni}` };
  }
  const mac = typeof text === 'string' ? parseMac(text) : undefined;
  const multicast = mac !== undefined && ((macToBytes(mac)[0] ?? 0) & 1) === 1;
  if (mac !== undefined && !multicast && mac !== '00:00:00:00:00:00') return mac;
  return { problem: `${key}: its VtepMAC is not a unicast MAC address: ${JSON.stringify(text)}` };
}
