import { join } from 'node:path';
import {
  addressBits,
  type Cidr,
  cidrContains,
  type Family,
  families,
  hostCidr,
  type Ip,
  ipOf,
  parseCidr,
} from '../../core/address.ts';
import { layer } from '../../core/rows.ts';
import type { LinkRow } from '../../kernel/link.ts';
import { NETLINK_GENERIC } from '../../kernel/netlink/generic.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { type WireguardRow, WireguardTable, wireguardKey } from '../../kernel/wireguard.ts';
import type { JsonObject } from '../json-object.ts';
import type { PerFamily } from '../lease.ts';
import type { Underlay } from '../underlay.ts';
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
import { innerMtu, leastInnerMtu, readMtu, type UnderlayMtu, underlayFamilies } from './mtu.ts';
import { countReached, type Peer, selectPeers } from './peers.ts';
import { isWireguardKey, readWireguardKeys, type WireguardKeys } from './wireguard-key.ts';

/*
 * The life of one packet, from pod 10.244.1.5 here to pod 10.244.2.7 on the node 192.0.2.2:
 *
 *   pod        its default route leads over the bridge to this node's root namespace
 *   route      10.244.2.0/24 dev fl-wg
 *   fl-wg      finds the peer by its allowed IPs, which are its subnets, encrypts, and sends to 192.0.2.2:51820
 *   peer       its device knows the sender by its key, takes only packets from the sender's subnets, and routes them
 *
 * In the mode `separate` each family has a device; else one device carries both, and its outer packets are of the
 * family that the mode says. `auto` takes IPv4 where the peer's IPv4 address is a public one, else IPv6 where both
 * IPv6 addresses are, else IPv4, as flannel does.
 *
 * The device stays when the agent stops, and so does the key: no packet is lost, and no peer has to be told.
 */

export interface WireguardConfig extends BackendConfig, UnderlayMtu {
  readonly type: 'wireguard';
  /** `separate`: a device for each family; else one device for both, whose outer packets are of one family. */
  readonly mode: 'separate' | 'auto' | 'ipv4' | 'ipv6';
  /** UDP ports; of one device for both families, the IPv4 port. */
  readonly ports: { readonly [F in Family]: number };
  /** Preshared key, base64 of 32 bytes. */
  readonly psk?: string;
  /** 0: none. */
  readonly keepaliveSeconds: number;
}

/** flannel subtracts as much for IPv4 as for IPv6: IP (40), UDP (8), WireGuard's header (16) and tag (16). */
const overheadBytes = Object.freeze({ 4: 80, 6: 80 });
const usualPorts = Object.freeze({ 4: 51820, 6: 51821 });
const keyFile = 'wireguard.key';
const flannelKeyFile = 'wgkey';

export const wireguard: BackendKind<WireguardConfig> = {
  type: 'wireguard',
  parse: parseWireguard,
  make(config, { stateDir, flannelDir }) {
    const path = process.env.WIREGUARD_KEY_FILE || join(stateDir, keyFile);
    let known: WireguardKeys | undefined;
    const keys = () => {
      known ??= readWireguardKeys(path, flannelDir && join(flannelDir, flannelKeyFile));
      return known;
    };
    return {
      type: 'wireguard',
      data: (_, underlay) => wireguardData(config, keys(), underlay),
      mtuBytes: (underlay) => leastInnerMtu(config, underlay, overheadBytes),
      plan: (facts) => planWireguard(config, facts),
      open: (place) => openWireguard(config, keys, place),
    };
  },
};

function parseWireguard(options: JsonObject, inUse: readonly Family[]): WireguardConfig {
  const ports = {
    4: options.integer('ListenPort', 0, 65535) || usualPorts[4],
    6: options.integer('ListenPortV6', 0, 65535) || usualPorts[6],
  };
  const mode = options.word('Mode', ['separate', 'auto', 'ipv4', 'ipv6']);
  if (mode === 'separate' && inUse.length > 1 && ports[4] === ports[6]) {
    options.problem('ListenPortV6', `${ports[6]} is the port of IPv4, too, and each family has a device`);
  }
  const psk = options.string('PSK') || undefined;
  if (psk !== undefined && !isWireguardKey(psk)) {
    options.problem('PSK', 'is not base64 of 32 bytes'); // a secret: not to be told
  }
  return {
    type: 'wireguard',
    mode,
    ports,
    ...(psk === undefined ? {} : { psk }),
    keepaliveSeconds: options.integer('PersistentKeepaliveInterval', 0, 65535) ?? 0,
    ...readMtu(options, overheadBytes, inUse),
  };
}

/** The device that carries a family's packets, and the port that it listens on. */
function deviceOf({ mode, ports }: WireguardConfig, family: Family): { name: string; port: number } {
  const own = mode === 'separate' ? family : 4;
  return { name: own === 4 ? 'fl-wg' : 'fl-wg6', port: ports[own] };
}

function wireguardData(config: WireguardConfig, keys: WireguardKeys, underlay: Underlay): PerFamily<unknown> {
  const data = (family: Family) => ({ PublicKey: keys.publicKey, Port: deviceOf(config, family).port });
  return Object.fromEntries(underlayFamilies(underlay).map((family) => [family, data(family)]));
}

function planWireguard(config: WireguardConfig, facts: BackendFacts): BackendRows {
  const { reached, problems } = believedPeers(config, facts);
  const own = families.flatMap((family) => {
    const subnet = facts.self.subnets[family];
    return subnet === undefined ? [] : [{ family, subnet, device: deviceOf(config, family).name }];
  });
  const links = own.map(({ device, family }): LinkRow => {
    const mtuBytes = innerMtu(config, facts.underlay, overheadBytes, family);
    return { name: device, kind: 'wireguard', alias: backendAlias, mtuBytes, up: true };
  });
  return {
    ...noRows,
    links: [...new Map(links.map((link) => [link.name, link])).values()],
    addresses: own.map(({ device, subnet, family }) => {
      return { device, address: hostCidr(ipOf(subnet), addressBits(family)) };
    }),
    routes: reached.map(({ peer }) => {
      return { destination: peer.subnet, device: deviceOf(config, peer.family).name };
    }),
    problems: problems.sort(),
    peers: countReached(
      facts,
      reached.map(({ peer }) => peer),
    ),
  };
}

interface Reached {
  readonly peer: Peer;
  readonly publicKey: string;
  readonly endpoint: { readonly ip: Ip; readonly port: number };
}

function believedPeers(
  config: WireguardConfig,
  facts: BackendFacts,
): { readonly reached: Reached[]; readonly problems: string[] } {
  const { peers, problems } = selectPeers(facts);
  const reached: Reached[] = [];
  /** Whose key it is: the kernel has one peer for each key, and would give the networks of one to the other. */
  const owners = new Map<string, string>();
  for (const peer of peers) {
    const { PublicKey: publicKey, Port: port } = (peer.data ?? {}) as { PublicKey?: unknown; Port?: unknown };
    if (typeof publicKey !== 'string' || !isWireguardKey(publicKey)) {
      problems.push(`${peer.key}: its PublicKey is not base64 of 32 bytes: ${JSON.stringify(publicKey)}`);
      continue;
    }
    const owner = owners.get(publicKey) ?? peer.key;
    if (owner !== peer.key) {
      problems.push(`${peer.key}: its PublicKey is that of ${owner}`);
      continue;
    }
    owners.set(publicKey, peer.key);
    const isPort = typeof port === 'number' && Number.isInteger(port) && port > 0 && port < 65536;
    const ip = endpointIp(config, facts, peer);
    const endpoint = { ip, port: isPort ? port : deviceOf(config, peer.family).port };
    reached.push({ peer, publicKey, endpoint });
  }
  return { reached, problems };
}

/** RFC 1918, RFC 6598, and link-local; RFC 4193 and link-local. */
const privateNetworks = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10', '169.254.0.0/16']
  .concat(['fc00::/7', 'fe80::/10'])
  .flatMap((text) => parseCidr(text) ?? []);

function isPublic(ip: Ip | undefined): ip is Ip {
  return ip !== undefined && !privateNetworks.some((network) => cidrContains(network, ip));
}

function endpointIp({ mode }: WireguardConfig, { leases, underlay }: BackendFacts, peer: Peer): Ip {
  if (mode === 'separate') return peer.publicIp;
  const { 4: v4, 6: v6 } = leases.get(peer.key)?.publicIps ?? {};
  if (mode === 'ipv6') return v6 ?? peer.publicIp;
  if (mode === 'ipv4' || isPublic(v4)) return v4 ?? peer.publicIp;
  if (isPublic(v6) && isPublic(underlay.publicIps[6])) return v6;
  return v4 ?? peer.publicIp;
}

/** Keys, ports and peers; pure. */
export function planKeys(
  config: WireguardConfig,
  { privateKey }: WireguardKeys,
  facts: BackendFacts,
): Map<string, WireguardRow> {
  const own = families.filter((family) => facts.self.subnets[family] !== undefined);
  const devices = own.map((family): WireguardRow => {
    const { name: device, port: listenPort } = deviceOf(config, family);
    return { device, privateKey, listenPort };
  });
  const rows = new Map(devices.map((row) => [wireguardKey(row), row]));
  for (const { peer, publicKey, endpoint } of believedPeers(config, facts).reached) {
    const { keepaliveSeconds, psk: presharedKey } = config;
    const device = deviceOf(config, peer.family).name;
    const before = rows.get(`${device} ${publicKey}`);
    const more: readonly Cidr[] = before?.peer === undefined ? [] : before.allowedIps;
    const allowedIps = [...more, peer.subnet];
    const row = { device, peer: publicKey, presharedKey, endpoint, keepaliveSeconds, allowedIps };
    rows.set(wireguardKey(row), row);
  }
  return rows;
}

function openWireguard(
  config: WireguardConfig,
  keys: () => WireguardKeys,
  { namespaceFd }: BackendPlace,
): OpenBackend {
  using stack = new DisposableStack();
  const route = stack.use(NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd }));
  const generic = stack.use(NetlinkSocket.open(NETLINK_GENERIC, { namespaceFd }));
  const table = new WireguardTable({ route, generic });
  const owned = stack.move();
  return {
    layers: (facts) => [layer(table, planKeys(config, keys(), facts))],
    [Symbol.dispose]: () => owned.dispose(),
  };
}
