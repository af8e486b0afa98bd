import test from 'ava';
import type { Cidr, Ip } from '../../core/address.ts';
import { NETLINK_GENERIC } from '../../kernel/netlink/generic.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { type WireguardPeerRow, WireguardTable } from '../../kernel/wireguard.ts';

const row: WireguardPeerRow = {
  device: 'fl-wg',
  peer: Buffer.alloc(32, 1).toString('base64'),
  presharedKey: undefined,
  endpoint: { ip: '192.0.2.2' as Ip, port: 51820 },
  keepaliveSeconds: 25,
  allowedIps: ['10.244.2.0/24' as Cidr],
};
const roamed = { ip: '198.51.100.7' as Ip, port: 40123 };
const now = () => Math.floor(Date.now() / 1000);

test('where a peer has roamed to is left alone as long as it has a session', (t) => {
  using route = NetlinkSocket.open(NETLINK_ROUTE);
  using generic = NetlinkSocket.open(NETLINK_GENERIC);
  const table = new WireguardTable({ route, generic });
  const isSame = (actual: Partial<WireguardPeerRow>) => table.same(row, { ...row, ...actual });
  t.true(isSame({}));
  t.true(isSame({ endpoint: roamed, handshakeSeconds: now() - 100 }));
  t.false(isSame({ endpoint: roamed, handshakeSeconds: now() - 200 }), 'the session is over');
  t.false(isSame({ endpoint: roamed, handshakeSeconds: 0 }), 'there never was one');
  t.false(isSame({ endpoint: undefined }));
  t.false(isSame({ keepaliveSeconds: 0, handshakeSeconds: now() }));
});
