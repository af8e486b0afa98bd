import test from 'ava';
import type { Ip } from '../../core/address.ts';
import { selectUnderlay } from '../../daemon/underlay.ts';
import { readUnderlayFacts } from '../../daemon/underlay-facts.ts';
import { addLinks, openSpace } from './kernel-space.ts';

const ip = (text: string) => text as Ip;

test('the kernel tells which interface leads to an address, and from which of its addresses', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  space.ip(`
    address add 10.0.0.1/24 dev one
    address add 10.0.1.1/24 dev two
    address add 10.0.1.7/24 dev two
    route add 192.0.2.0/24 via 10.0.1.2 src 10.0.1.7
    route add unreachable 203.0.113.0/24
    address add fd00:1::1/64 dev two nodad`);
  const reach = async (text: string) => (await readUnderlayFacts(space.socket, { canReach: ip(text) })).reach;
  t.deepEqual(await reach('192.0.2.9'), { device: 'two', source: ip('10.0.1.7') });
  t.deepEqual(await reach('10.0.0.9'), { device: 'one', source: ip('10.0.0.1') });
  t.deepEqual(await reach('fd00:1::9'), { device: 'two', source: ip('fd00:1::1') });
  t.is(await reach('203.0.113.1'), undefined, 'unreachable');
  t.is(await reach('198.51.100.1'), undefined, 'no route');
  t.is((await readUnderlayFacts(space.socket)).reach, undefined, 'nobody asked');

  const canReach = ip('192.0.2.9');
  const facts = await readUnderlayFacts(space.socket, { canReach });
  t.like(selectUnderlay(facts, [4], { canReach }), { device: 'two', addresses: { 4: '10.0.1.7/24' } });
});

test('networks on the link of the underlay are known, also those of second addresses and of routes without a gateway', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  space.ip(`
    address add 10.0.0.1/24 dev one
    address add 10.0.5.1/24 dev one
    address add 10.0.1.1/24 dev two
    address add fd00:1::1/64 dev one nodad
    route add 10.0.7.0/24 dev one
    route add 10.0.8.0/24 via 10.0.0.2
    route add 10.244.9.0/24 dev one proto 88
    route add unreachable 10.0.9.0/24
    route add 198.51.100.7 dev one table 99
    -6 route add fd00:7::/64 dev one
    -6 route add fd00:8::/64 via fd00:1::2
    -6 route add fd00:244::/64 dev one proto 88`);
  const underlay = selectUnderlay(await readUnderlayFacts(space.socket), [4, 6], { interface: '10.0.0.1' });
  const onLink = 'problem' in underlay ? underlay.problem : (underlay.onLink as readonly string[]);
  t.deepEqual(onLink, ['10.0.5.0/24', '10.0.7.0/24', 'fd00:7::/64', 'fe80::/64']);
});

test('a node without any address has no default route, and says so without an error', async (t) => {
  const space = openSpace(t);
  const facts = await readUnderlayFacts(space.socket);
  t.deepEqual(facts.defaultRoutes, {});
  t.deepEqual(selectUnderlay(facts, [4]), {
    problem: 'there is no IPv4 default route to tell the interface; name one',
  });
});
