import test, { type ExecutionContext } from 'ava';
import type { Cidr, Ip } from '../../core/address.ts';
import { type LinkRow, LinkTable, linkKey } from '../../kernel/link.ts';
import { NETLINK_GENERIC } from '../../kernel/netlink/generic.ts';
import { NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { OffloadTable, offloadKey } from '../../kernel/offload.ts';
import { type RouteRow, RouteTable, routeKey } from '../../kernel/route.ts';
import { type TunnelRow, TunnelTable, tunnelKey } from '../../kernel/tunnel.ts';
import {
  type WireguardPeerRow,
  type WireguardRow,
  WireguardTable,
  wireguardKey,
} from '../../kernel/wireguard.ts';
import { make, openSpace, type Shown, settle } from './kernel-space.ts';
import { factOf, missingLink } from './missing.ts';

const tun: LinkRow = { name: 'fl-udp', kind: 'tun', alias: 'fairlead tunnel', mtuBytes: 1452, up: true };
const key = (n: number) => Buffer.alloc(32, n).toString('base64');

const wireguardFact = factOf(missingLink('wireguard'), test);
const own: WireguardRow = { device: 'fl-wg', privateKey: key(64), listenPort: 51820 };

function peer(n: number, more: Partial<WireguardPeerRow> = {}): WireguardPeerRow {
  return {
    ...{ device: 'fl-wg', peer: key(n), presharedKey: undefined, keepaliveSeconds: 25 },
    endpoint: { ip: `192.0.2.${n}` as Ip, port: 51820 },
    allowedIps: [`10.244.${n}.0/24` as Cidr, `fd00:10:244:${n}::/64` as Cidr],
    ...more,
  };
}

/** With a device; each table is that of another process. */
function openWireguard(t: ExecutionContext): () => WireguardTable {
  const { fd, ip, socket: route } = openSpace(t);
  const generic = NetlinkSocket.open(NETLINK_GENERIC, { namespaceFd: fd });
  t.teardown(() => generic[Symbol.dispose]());
  ip('link add fl-wg alias "fairlead tunnel" type wireguard\nlink set fl-wg alias "fairlead tunnel" up');
  return () => new WireguardTable({ route, generic });
}

function infoOf(shown: Shown | undefined): Shown {
  return ((shown?.linkinfo ?? {}) as { info_data?: Shown }).info_data ?? {};
}

test('a TUN device is made with our mark, stays, and is made as wanted again', async (t) => {
  const space = openSpace(t);
  const table = new LinkTable({ socket: space.socket, namespaceFd: space.fd });
  t.is(await settle(t, table, linkKey, [tun]), 1);
  const [shown] = space.show('link show dev fl-udp');
  t.like(shown, { mtu: 1452, ifalias: 'fairlead tunnel', inet6_addr_gen_mode: 'none' });
  t.like(infoOf(shown), { type: 'tun', persist: true });
  space.ip('link set fl-udp down mtu 1300');
  t.is(await settle(t, table, linkKey, [tun]), 1);
  t.is(await settle(t, table, linkKey, []), 1);
  t.deepEqual(space.show('link show type tun'), []);
});

test('a link without its mark is ours only to those who know it, and gets the mark again', async (t) => {
  const space = openSpace(t);
  await settle(t, new LinkTable({ socket: space.socket, namespaceFd: space.fd }), linkKey, [tun]);
  space.ip('link set fl-udp alias ""');
  const stranger = new LinkTable({ socket: space.socket, namespaceFd: space.fd });
  t.is((await stranger.read()).size, 0);
  const adopts = ({ name, kind }: { name: string; kind?: string | undefined }) =>
    name === tun.name && kind === 'tun';
  const table = new LinkTable({ socket: space.socket, namespaceFd: space.fd, adopts });
  t.is(await settle(t, table, linkKey, [tun]), 1);
  t.is(space.show('link show dev fl-udp')[0]?.ifalias, tun.alias);
});

test('a TUN device of somebody else is neither taken nor touched', async (t) => {
  const space = openSpace(t);
  space.ip('tuntap add dev fl-udp mode tun');
  const table = new LinkTable({ socket: space.socket, namespaceFd: space.fd });
  t.deepEqual((await make(table, linkKey, [tun])).failures, ['create fl-udp: EBUSY']);
  t.is(space.show('link show dev fl-udp')[0]?.ifalias, undefined);
});

test('a vxlan’s checksum offload is what it is to be, and its GBP', async (t) => {
  const space = openSpace(t);
  space.ip('link add one type veth peer name other\nlink set one up');
  const vxlan = { vni: 1, port: 8472, local: '192.0.2.1' as Ip, device: 'one', learning: false, gbp: true };
  const row: LinkRow = { name: 'fl.1', kind: 'vxlan', alias: 'fairlead vxlan', up: true, vxlan };
  const links = new LinkTable(space);
  await settle(t, links, linkKey, [row]);
  const [shown] = space.show('link show dev fl.1');
  t.like(infoOf(shown), { gbp: true });
  t.is(await settle(t, links, linkKey, [{ ...row, vxlan: { ...vxlan, gbp: false } }]), 1);
  const offloads = new OffloadTable({ devices: ['fl.1', 'absent'], namespaceFd: space.fd });
  for (const transmitChecksum of [false, true]) {
    t.is(await settle(t, offloads, offloadKey, [{ device: 'fl.1', transmitChecksum }]), 1);
  }
});

const row: TunnelRow = {
  destination: '10.244.2.0/24' as Cidr,
  endpoint: '127.0.0.1' as Ip,
  port: 9,
};

test('the tunnel’s rows are gone with its device, and come back with it', async (t) => {
  const space = openSpace(t);
  space.ip('link set lo up');
  const links = new LinkTable({ socket: space.socket, namespaceFd: space.fd });
  const ends = { device: 'fl-udp', locals: ['127.0.0.1' as Ip], port: 8285 };
  using tunnel = new TunnelTable({ namespaceFd: space.fd }).between(ends);
  await make(links, linkKey, [tun]);
  t.is(await settle(t, tunnel, tunnelKey, [row]), 1);
  t.true(tunnel.state()?.runs);
  space.ip('link del fl-udp');
  const until = performance.now() + 2000;
  while ((await tunnel.read()).size > 0 && performance.now() < until);
  t.is((await tunnel.read()).size, 0);
  await make(links, linkKey, [tun]);
  t.is(await settle(t, tunnel, tunnelKey, [row]), 1);
  t.is(await settle(t, tunnel.between({ ...ends, port: 8286 }), tunnelKey, [row]), 1);
});

factOf(missingLink('ipip'), test)(
  'an ipip tunnel is made as wanted, and anew where its address changes',
  async (t) => {
    const space = openSpace(t);
    space.ip('link add one type veth peer name other\nlink set one up');
    const table = new LinkTable(space);
    const wanted = (local: string): LinkRow => ({
      ...{ name: 'fl-ipip', kind: 'ipip', alias: 'fairlead tunnel', mtuBytes: 1400, up: true },
      ipip: { local: local as Ip, device: 'one' },
    });
    t.is(await settle(t, table, linkKey, [wanted('192.0.2.1')]), 1);
    t.is(await settle(t, table, linkKey, [wanted('192.0.2.2')]), 1);
    t.is(await settle(t, table, linkKey, []), 1);
  },
);

factOf(missingLink('ip6tnl mode ip6ip6 local ::1'), test)(
  'an ip6tnl tunnel has no ends, its routes have',
  async (t) => {
    const space = openSpace(t);
    space.ip(
      'link add one type veth peer name other\nlink set one up\naddress add 2001:db8::1/64 dev one nodad',
    );
    const link: LinkRow = {
      name: 'fl-ipip6',
      kind: 'ip6tnl',
      alias: 'fairlead tunnel',
      mtuBytes: 1400,
      up: true,
    };
    const links = new LinkTable(space);
    t.is(await settle(t, links, linkKey, [link]), 1);
    const routeTo = (node: number): RouteRow => ({
      ...{ destination: 'fd00:2::/64' as Cidr, device: 'fl-ipip6' },
      encapsulation: { destination: `2001:db8::${node}` as Ip, source: '2001:db8::1' as Ip },
    });
    const routes = new RouteTable(space);
    t.is(await settle(t, routes, routeKey, [routeTo(2)]), 1);
    t.is(await settle(t, routes, routeKey, [routeTo(3)]), 1);
    t.is(await settle(t, links, linkKey, []), 1);
  },
);

wireguardFact('wireguard’s devices have keys, ports and peers as wanted', async (t) => {
  const table = openWireguard(t)();
  const many = Array.from({ length: 200 }, (_, n) => peer(n + 2));
  t.is(await settle(t, table, wireguardKey, [own, ...many]), 201);
  const changed = [
    peer(2, { presharedKey: key(9) }),
    peer(3, { endpoint: { ip: '2001:db8::3' as Ip, port: 1 } }),
    peer(4, { allowedIps: ['10.244.4.0/25' as Cidr] }),
  ];
  t.is(await settle(t, table, wireguardKey, [{ ...own, listenPort: 51999 }, ...changed]), 201);
});

wireguardFact(
  'an endpoint that a peer without a session was moved to is put back, by whoever looks',
  async (t) => {
    const open = openWireguard(t);
    const first = open();
    const rows: WireguardRow[] = [own, peer(2), peer(3)];
    t.is(await settle(t, first, wireguardKey, rows), 3);
    for (const table of [first, open()]) {
      const wanted = peer(3, { endpoint: { ip: '198.51.100.7' as Ip, port: 40123 } });
      t.deepEqual(await open().write([{ kind: 'create', key: wireguardKey(wanted), wanted }]), []);
      const moved = (await first.read()).get(wireguardKey(wanted));
      t.like(moved, { endpoint: wanted.endpoint, handshakeSeconds: 0 });
      t.is(await settle(t, table, wireguardKey, rows), 1);
    }
  },
);
