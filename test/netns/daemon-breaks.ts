import type { ExecutionContext } from 'ava';
import type { Ip } from '../../core/address.ts';
import { NETLINK_GENERIC } from '../../kernel/netlink/generic.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { openNamespace } from '../../kernel/netns.ts';
import { type WireguardPeerRow, WireguardTable, wireguardKey } from '../../kernel/wireguard.ts';
import { until } from '../daemon/etcd-server.ts';
import type { Agent } from './daemon-nodes.ts';

const nft = '/usr/sbin/nft';
const settings = [
  'net.ipv4.ip_forward',
  'net.ipv6.conf.all.forwarding',
  'net.bridge.bridge-nf-call-iptables',
  'net.ipv6.conf.eth0.accept_ra',
];

/** What somebody does to a node, by name. */
export type Breaks = Readonly<Record<string, () => unknown>>;

export const settingsOf = (agent: Agent) => agent.run('sysctl', ...settings);

/** Each break is noticed, and all is as before. How long each took is logged. */
export async function assertRepairs(t: ExecutionContext, agent: Agent, breaks: Breaks): Promise<void> {
  const state = () => agent.kernel() + settingsOf(agent);
  const before = state();
  for (const [what, doBreak] of Object.entries(breaks)) {
    const { writes } = await agent.status();
    const begin = performance.now();
    await doBreak();
    await agent.until(`${what}: noticed`, (status) => status.writes > writes);
    await until(`${what}: repaired`, () => state() === before);
    t.pass();
    t.log(`${what}: ${Math.round(performance.now() - begin)} ms, of which up to 300 for looking`);
  }
}

/** Of every backend. */
export function commonBreaks(agent: Agent): Breaks {
  const set = (setting: string) => () => agent.run('sysctl', '-qw', setting);
  return {
    'nftables flushed': () => agent.run(nft, 'flush', 'ruleset'),
    'a rule deleted': () => agent.run(nft, 'flush', 'chain', 'inet', 'fairlead', 'postrouting'),
    'a set emptied': () => agent.run(nft, 'flush', 'set', 'inet', 'fairlead', 'cluster4'),
    'IPv4 forwarding off': set('net.ipv4.ip_forward=0'),
    'IPv6 forwarding off': set('net.ipv6.conf.all.forwarding=0'),
    'packets of bridges past the rules': set('net.bridge.bridge-nf-call-iptables=0'),
    'router advertisements not heard': set('net.ipv6.conf.eth0.accept_ra=1'),
  };
}

export function routeBreaks(agent: Agent): Breaks {
  return {
    'routes deleted': () => agent.run('ip', 'route', 'flush', 'proto', '88'),
    'IPv6 routes deleted': () => agent.run('ip', '-6', 'route', 'flush', 'proto', '88'),
  };
}

export function deviceBreaks(agent: Agent, device: string): Breaks {
  return {
    'the address deleted': () => agent.run('ip', 'addr', 'flush', 'dev', device),
    'the link down': () => agent.run('ip', 'link', 'set', device, 'down'),
    'the alias taken away': () => agent.run('ip', 'link', 'set', device, 'alias', ''),
    'the link deleted': () => agent.run('ip', 'link', 'del', device),
    'a foreign route through our tunnel': () =>
      agent.run('ip', 'route', 'add', '10.244.250.0/24', 'dev', device, 'proto', '88'),
  };
}

/** Removes all peers of WireGuard's devices, of which the kernel tells nobody. */
export async function removeWireguardPeers(agent: Agent): Promise<void> {
  await withPeers(agent, async (table, peers) => {
    await table.write(peers.map((actual) => ({ kind: 'delete', key: wireguardKey(actual), actual })));
  });
}

/** As if packets of the peers came from another address; of those whose packets are IPv4. */
export async function roamWireguardPeers(agent: Agent, ip: string): Promise<void> {
  await withPeers(agent, async (table, peers) => {
    for (const actual of peers) {
      if (actual.endpoint === undefined || actual.endpoint.ip.includes(':')) continue;
      const wanted = { ...actual, endpoint: { ip: ip as Ip, port: actual.endpoint.port } };
      await table.write([{ kind: 'create', key: wireguardKey(actual), wanted }]);
    }
  });
}

export async function wireguardEndpoints(agent: Agent): Promise<string[]> {
  return await withPeers(agent, async (_, peers) => peers.map(({ endpoint }) => endpoint?.ip ?? ''));
}

async function withPeers<T>(
  agent: Agent,
  use: (table: WireguardTable, peers: WireguardPeerRow[]) => Promise<T>,
): Promise<T> {
  using namespace = openNamespace(`/run/netns/${agent.machine.namespace}`);
  using route = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd: namespace.fd });
  using generic = NetlinkSocket.open(NETLINK_GENERIC, { namespaceFd: namespace.fd });
  const table = new WireguardTable({ route, generic });
  const rows = [...(await table.read()).values()];
  return await use(
    table,
    rows.flatMap((row) => (row.peer === undefined ? [] : [row])),
  );
}
