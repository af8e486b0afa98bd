import { release } from 'node:os';
import { addressBits, type Family, families, hostCidr, ipOf, type Mac } from '../../core/address.ts';
import type { AddressRow } from '../../kernel/address.ts';
import type { LinkRow } from '../../kernel/link.ts';
import type { FdbRow, NeighborRow } from '../../kernel/neighbor.ts';
import type { OffloadRow } from '../../kernel/offload.ts';
import type { RouteRow } from '../../kernel/route.ts';
import type { JsonObject } from '../json-object.ts';
import { isOlder, leaseFamilies, type PerFamily } from '../lease.ts';
import type { Underlay } from '../underlay.ts';
import {
  type Backend,
  type BackendConfig,
  type BackendFacts,
  type BackendKind,
  type BackendRows,
  backendAlias,
  noRows,
} from './backend.ts';
import { innerMtu, leastInnerMtu, readMtu, type UnderlayMtu, underlayFamilies } from './mtu.ts';
import {
  countReached,
  isAdjacent,
  type Peer,
  readSenders,
  selectPeers,
  sendersOf,
  type TunnelSenders,
} from './peers.ts';
import { chooseMac, macOf, vtepMac } from './vtep.ts';

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

export interface VxlanConfig extends BackendConfig, UnderlayMtu, TunnelSenders {
  readonly type: 'vxlan';
  readonly vni: number;
  /** UDP port. */
  readonly port: number;
  readonly learning: boolean;
  /** Peers in the same layer-2 network are reached without the tunnel. */
  readonly directRouting: boolean;
  /** Group based policy: the packet's mark travels in the VXLAN header. */
  readonly gbp: boolean;
  /** Of the tunnel's device. `auto`: off where this kernel is known to spoil checksums. Not a key of flannel's. */
  readonly checksumOffload: 'auto' | 'on' | 'off';
}

/** flannel's values for what a configuration does not say. */
const defaults = Object.freeze({
  vni: 1,
  /** The Linux kernel's own default; IANA's is 4789. */
  port: 8472,
  gbp: false,
  learning: false,
  directRouting: false,
});

export const vxlan: BackendKind<VxlanConfig> = {
  type: 'vxlan',
  parse: parseVxlan,
  make: (config) => vxlanBackend(config, release()),
};

function parseVxlan(options: JsonObject, inUse: readonly Family[]): VxlanConfig {
  options.skip('MacPrefix', 'Name'); // on Windows
  return {
    type: 'vxlan',
    vni: options.integer('VNI', 1, 2 ** 24 - 1) ?? defaults.vni,
    port: options.integer('Port', 0, 65535) || defaults.port,
    ...readMtu(options, vxlanOverheadBytes, inUse),
    gbp: options.boolean('GBP', defaults.gbp),
    learning: options.boolean('Learning', defaults.learning),
    directRouting: options.boolean('DirectRouting', defaults.directRouting),
    checksumOffload: options.word('ChecksumOffload', ['auto', 'on', 'off']),
    ...readSenders(options),
  };
}

/** `kernelRelease` as uname(2) gives it. */
export function vxlanBackend(config: VxlanConfig, kernelRelease: string): Backend {
  const transmitChecksum = offloadOf(config, kernelRelease);
  const known: TunnelledPeers = new WeakMap();
  const claims = new MacClaims();
  return {
    type: 'vxlan',
    data: (nodeName, underlay, standing) =>
      perUnderlayFamily(underlay, (family) => {
        return { VNI: config.vni, VtepMAC: chooseMac(nodeName, family, standing) };
      }),
    mtuBytes: (underlay) => leastInnerMtu(config, underlay, vxlanOverheadBytes),
    plan: (facts) => planVxlan(config, facts, { transmitChecksum, known, claims }),
  };
}

/**
 * Kernels before 5.7 leave the checksum of an inner packet wrong when NAT changed the packet before it entered the
 * tunnel (connections to Services then take 1, 3 or 63 seconds: flannel issue 1279, Kubernetes issue 90084).
 */
function offloadOf({ checksumOffload }: VxlanConfig, kernelRelease: string): boolean {
  if (checksumOffload !== 'auto') return checksumOffload === 'on';
  const [major = 0, minor = 0] = kernelRelease.split('.').map((part) => Number.parseInt(part, 10));
  return major > 5 || (major === 5 && minor >= 7);
}

function perUnderlayFamily<T>(underlay: Underlay, make: (family: Family) => T): PerFamily<T> {
  return Object.fromEntries(underlayFamilies(underlay).map((family) => [family, make(family)]));
}

/** The rows of a peer behind the tunnel; a peer that has not changed has the same ones in every plan. */
interface TunnelledPeer {
  readonly neighbor: NeighborRow;
  readonly fdb: FdbRow;
  readonly route: RouteRow;
}

/** What one backend keeps between plans, and what its configuration and the kernel come to. */
interface Planning {
  readonly transmitChecksum: boolean;
  readonly known: TunnelledPeers;
  readonly claims: MacClaims;
}

type TunnelledPeers = WeakMap<Peer, TunnelledPeer | { readonly problem: string }>;

function planVxlan(
  config: VxlanConfig,
  facts: BackendFacts,
  { transmitChecksum, known, claims }: Planning,
): BackendRows {
  const { peers, problems } = selectPeers(facts);
  const links: LinkRow[] = [];
  const offloads: OffloadRow[] = [];
  const addresses: AddressRow[] = [];
  const neighbors: NeighborRow[] = [];
  const fdb: FdbRow[] = [];
  const routes: RouteRow[] = [];
  const reached: Peer[] = [];
  for (const family of families) {
    const subnet = facts.self.subnets[family];
    const local = facts.underlay.addresses[family];
    if (subnet === undefined || local === undefined) continue;
    const name = vtepDevice(config.vni, family);
    const { vni, port, learning, gbp } = config;
    links.push({
      name,
      kind: 'vxlan',
      alias: backendAlias,
      mac: ownMac(facts, family),
      mtuBytes: innerMtu(config, facts.underlay, vxlanOverheadBytes, family),
      up: true,
      vxlan: { vni, port, local: ipOf(local), device: facts.underlay.device, learning, gbp },
    });
    offloads.push({ device: name, transmitChecksum });
    addresses.push({ device: name, address: hostCidr(ipOf(subnet), addressBits(family)) });
  }
  claims.begin(facts);
  const ways = peers.map((peer) => {
    if (config.directRouting && isAdjacent(facts.underlay, peer)) return undefined;
    const before = known.get(peer);
    const rows = before ?? tunnelled(config, peer);
    if (before === undefined) known.set(peer, rows);
    if (!('problem' in rows)) claims.add(peer, rows.neighbor.mac);
    return rows;
  });
  problems.push(...claims.ownProblems(facts));
  peers.forEach((peer, at) => {
    const rows = ways[at];
    if (rows === undefined) {
      routes.push({ destination: peer.subnet, gateway: peer.publicIp, device: facts.underlay.device });
    } else {
      const problem = 'problem' in rows ? rows.problem : claims.problem(peer, rows.neighbor.mac);
      if (problem !== undefined) problems.push(problem);
      if (problem !== undefined || 'problem' in rows) return;
      neighbors.push(rows.neighbor);
      fdb.push(rows.fdb);
      routes.push(rows.route);
    }
    reached.push(peer);
  });
  return {
    ...noRows,
    ...{ links, offloads, addresses, neighbors, fdb, routes },
    guard: config.takesStrangers ? undefined : { udpPort: config.port, senders: sendersOf(peers) },
    problems: problems.sort(),
    peers: countReached(facts, reached),
  };
}

function tunnelled(config: VxlanConfig, peer: Peer): TunnelledPeer | { readonly problem: string } {
  const device = vtepDevice(config.vni, peer.family);
  const mac = peerMac(config, peer);
  if (typeof mac !== 'string') return mac;
  const nextHop = ipOf(peer.subnet);
  return {
    neighbor: { device, ip: nextHop, mac },
    fdb: { device, mac, destination: peer.publicIp },
    route: { destination: peer.subnet, gateway: nextHop, device, onlink: true },
  };
}

function peerMac(config: VxlanConfig, { key, data }: Peer): Mac | { readonly problem: string } {
  const { VNI: vni, VtepMAC: text } = (data ?? {}) as { VNI?: unknown; VtepMAC?: unknown };
  if (vni !== undefined && vni !== config.vni) {
    return { problem: `${key}: its VNI is ${JSON.stringify(vni)}, not ${config.vni}` };
  }
  const mac = macOf(data);
  return mac ?? { problem: `${key}: its VtepMAC is not a unicast MAC address: ${JSON.stringify(text)}` };
}

/** What this node announced is what its device has, until it announces another. */
function ownMac({ self, nodeName }: BackendFacts, family: Family): Mac {
  return macOf(self.backendData[family]) ?? vtepMac(nodeName, family);
}

/** Of one address: which peer has it, in which plan. */
interface Claim {
  peer: Peer;
  plan: number;
}

/**
 * Whose a MAC address is. The device has one way for each: with two nodes of one address, packets for both would go to
 * the one that was written last. Each plan begins anew; only the room is kept, because most say what the last one said.
 */
class MacClaims {
  readonly #claims = { 4: new Map<Mac, Claim>(), 6: new Map<Mac, Claim>() } as const;
  #plan = 0;
  #count = 0;
  #isContested = false;
  #own: PerFamily<Mac> = {};

  begin(facts: BackendFacts): void {
    for (const claims of Object.values(this.#claims)) if (claims.size > 2 * this.#count) claims.clear();
    this.#plan += 1;
    this.#count = 0;
    this.#isContested = false;
    this.#own = { 4: ownMac(facts, 4), 6: ownMac(facts, 6) };
  }

  add(peer: Peer, mac: Mac): void {
    this.#count += 1;
    const claim = this.#claims[peer.family].get(mac);
    if (claim === undefined) this.#claims[peer.family].set(mac, { peer, plan: this.#plan });
    else if (claim.plan !== this.#plan) [claim.peer, claim.plan] = [peer, this.#plan];
    else {
      this.#isContested = true;
      if (isOlder(peer, claim.peer)) claim.peer = peer;
    }
  }

  #owner(family: Family, mac: Mac): string | undefined {
    const claim = this.#claims[family].get(mac);
    return claim?.plan === this.#plan ? claim.peer.key : undefined;
  }

  /** Why the peer cannot have it; undefined: it has. */
  problem({ key, family }: Peer, mac: Mac): string | undefined {
    if (mac !== this.#own[family] && !this.#isContested) return undefined;
    const owner = mac === this.#own[family] ? 'this node' : this.#owner(family, mac);
    return owner === key ? undefined : `${key}: its VtepMAC ${mac} is that of ${owner}${advice}`;
  }

  /** Who had the address first that this node's name gives. */
  ownProblems({ nodeName, self }: BackendFacts): string[] {
    return leaseFamilies(self).flatMap((family) => {
      const usual = vtepMac(nodeName, family);
      const owner = this.#owner(family, usual);
      if (owner === undefined || this.#own[family] === usual) return [];
      return [`this node: the VtepMAC ${usual} of the name ${nodeName} is that of ${owner}${advice}`];
    });
  }
}

const advice = '; does another node have its name? Each needs one of its own (--node-name, NODE_NAME)';
