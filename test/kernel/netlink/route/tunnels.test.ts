import test from 'ava';
import fc from 'fast-check';
import type { Cidr, Ip } from '../../../../core/address.ts';
import { decodeLink, encodeLink, type Link } from '../../../../kernel/netlink/route/link.ts';
import { decodeRoute, encodeRoute, type Route } from '../../../../kernel/netlink/route/route.ts';
import { ip } from '../../../core/arbitrary.ts';
import { plain } from '../golden.ts';

// The bytes are made by hand after linux/if_link.h and linux/if_tunnel.h: length and type of each attribute, low
// byte first; struct ifinfomsg (16 bytes) and IFLA_IFNAME come before.
const hexOf = (link: Link) => Buffer.from(encodeLink(link)).toString('hex');
const join = (...lines: string[]) => lines.join('').replaceAll(' ', '');
const header = join('00'.repeat(16), '0600 0300 6100 0000');

test('an ipip tunnel has a device and a local address', (t) => {
  const link = { name: 'a', kind: 'ipip', ipip: { local: '192.0.2.1' as Ip, deviceIndex: 7 } };
  const info = ['0900 0100 69706970 00 000000', '1400 0280', '0800 0100 07000000', '0800 0200 c0000201'];
  t.is(hexOf(link), join(header, '2400 1280', ...info));
});

test('an ip6tnl tunnel carries IPv6 only, between ends that routes say', (t) => {
  const info = ['0b00 0100 697036746e6c 00 00', '1000 0280', '0500 0900 29 000000', '0400 1300'];
  t.is(hexOf({ name: 'a', kind: 'ip6tnl', ipip: { external: true } }), join(header, '2000 1280', ...info));
});

test('a route may say the ends of an outer header, and reads as it was written', (t) => {
  const route: Route = {
    destination: 'fd00:2::/64' as Cidr,
    ...{ index: 7, flags: 0, table: 254, protocol: 88, scope: 0, type: 1 },
    encapsulation: { destination: '2001:db8::2' as Ip, source: '2001:db8::1' as Ip },
  };
  const hex = Buffer.from(encodeRoute(route)).toString('hex');
  const ends = [
    '0600 1500 0400 0000',
    '2c00 1680',
    '1400 0200 20010db8000000000000000000000002',
    '1400 0300 20010db8000000000000000000000001',
  ];
  t.true(hex.endsWith(join(...ends)));
  t.deepEqual(plain(decodeRoute(encodeRoute(route))), plain(route));
});

test('a vxlan with group based policy has the flag, and one without has not', (t) => {
  const hex = (gbp: boolean) => hexOf({ name: 'a', kind: 'vxlan', vxlan: { vni: 1, gbp } });
  const kind = '0a00 0100 76786c616e 00 0000';
  t.is(hex(true), join(header, '2000 1280', kind, '1000 0280', '0800 0100 01000000', '0400 1700'));
  t.is(hex(false), join(header, '1c00 1280', kind, '0c00 0280', '0800 0100 01000000'));
});

test('tunnels read as they were written', (t) => {
  const tunnel = fc.record({ local: ip, deviceIndex: fc.nat(0x7fffffff) });
  fc.assert(
    fc.property(fc.constantFrom('ipip', 'ip6tnl'), tunnel, (kind, ipip) => {
      t.like(plain<Link>(decodeLink(encodeLink({ kind, ipip }))), { kind, ipip });
    }),
  );
});
