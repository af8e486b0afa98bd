import test from 'ava';
import {
  type AddressFact,
  followUnderlay,
  selectUnderlay,
  type Underlay,
  type UnderlayFacts,
  type UnderlaySelector,
} from '../../daemon/underlay.ts';
import { hostCidr, ip } from './golden.ts';

const address = (device: string, text: string, more: Partial<AddressFact> = {}): AddressFact => ({
  device,
  address: hostCidr(text),
  scope: text.startsWith('fe80') ? 'link' : 'global',
  usable: true,
  permanent: true,
  ...more,
});
const facts: UnderlayFacts = {
  links: [
    { name: 'lo', index: 1, mtuBytes: 65536 },
    { name: 'eth0', index: 2, mtuBytes: 1500 },
    { name: 'eth1', index: 3, mtuBytes: 9000 },
  ],
  addresses: [
    address('lo', '127.0.0.1/8', { scope: 'other' }),
    address('eth0', 'fe80::1/64'),
    address('eth0', '192.0.2.7/24'),
    address('eth0', '192.0.2.8/24'),
    address('eth0', '2001:db8::9/64', { usable: false }),
    address('eth0', '2001:db8::a/64', { permanent: false }),
    address('eth0', '2001:db8::b/64'),
    address('eth1', '198.51.100.1/24'),
  ],
  defaultRoutes: { 4: 'eth0', 6: 'eth0' },
};
const select = (families: (4 | 6)[], selector?: UnderlaySelector, given = facts) =>
  selectUnderlay(given, families, selector) as unknown;

test('without a wish it is the interface of the default route', (t) => {
  t.deepEqual(select([4, 6]), {
    device: 'eth0',
    mtuBytes: 1500,
    addresses: { 4: '192.0.2.7/24', 6: '2001:db8::b/64' },
    publicIps: { 4: '192.0.2.7', 6: '2001:db8::b' },
  });
});

test('an interface is chosen by name or by one of its addresses, which is then used', (t) => {
  const named = {
    device: 'eth1',
    mtuBytes: 9000,
    addresses: { 4: '198.51.100.1/24' },
    publicIps: { 4: '198.51.100.1' },
  };
  t.deepEqual(select([4], { interface: 'eth1' }), named);
  t.deepEqual(select([4], { interface: '198.51.100.1' }), named);
  t.like(select([4], { interface: '192.0.2.8' }) as object, { addresses: { 4: '192.0.2.8/24' } });
});

test('of several wishes the first that finds something decides: interfaces, patterns, the address to reach', (t) => {
  const device = (selector: UnderlaySelector, given = facts) =>
    (select([4], selector, given) as { device?: string }).device;
  t.is(device({ interfaces: ['eth9', 'eth1', 'eth0'], patterns: [/^eth0$/] }), 'eth1');
  t.is(device({ interfaces: ['eth9'], patterns: [/^wlan/, /^eth0$/] }), 'eth0');
  t.is(device({ patterns: [/^198\.51\./] }), 'eth1');
  t.is(
    device({ patterns: [/0\.1$/] }),
    'eth1',
    'addresses are looked at before names, and loopback’s are not',
  );
  t.like(select([4], { patterns: [/\.8$/] }) as object, { addresses: { 4: '192.0.2.8/24' } });
  const reach = { device: 'eth0', source: ip('192.0.2.8') };
  t.like(select([4], { canReach: ip('192.0.2.99') }, { ...facts, reach }) as object, {
    device: 'eth0',
    addresses: { 4: '192.0.2.8/24' },
  });
});

test('a public address behind NAT is announced, and tunnels begin at the interface’s own', (t) => {
  t.like(select([4], { publicIps: { 4: ip('203.0.113.5') } }) as object, {
    device: 'eth0',
    addresses: { 4: '192.0.2.7/24' },
    publicIps: { 4: '203.0.113.5' },
  });
  t.like(select([4], { publicIps: { 4: ip('198.51.100.1') } }) as object, { device: 'eth1' });
});

test('an address that may not be used is passed over; a temporary or link-local one is the last choice', (t) => {
  const few = {
    ...facts,
    addresses: facts.addresses.filter((fact) => !fact.address.startsWith('2001:db8::b')),
  };
  t.like(select([6], {}, few) as object, { addresses: { 6: '2001:db8::a/64' } });
  const local = { ...facts, addresses: facts.addresses.filter((fact) => !fact.address.startsWith('2001')) };
  t.like(select([6], {}, local) as object, { addresses: { 6: 'fe80::1/64' } });
});

const both: Underlay = {
  ...{ device: 'eth0', mtuBytes: 1500 },
  addresses: { 4: hostCidr('192.0.2.7/24'), 6: hostCidr('2001:db8::b/64') },
  publicIps: { 4: ip('192.0.2.7'), 6: ip('2001:db8::b') },
};
const follow = (
  given: UnderlayFacts,
  last: Underlay | undefined,
  more: { takesPart?: boolean; selector?: UnderlaySelector } = {},
) => followUnderlay({ facts: given, wanted: [4, 6], selector: {}, takesPart: false, last, ...more });
const only = (...texts: string[]) => ({
  ...facts,
  addresses: texts.map((text) => address(text.startsWith('198') ? 'eth1' : 'eth0', text)),
});

test('an underlay that was found stays in use while its device has an address, whatever becomes of routes', (t) => {
  t.deepEqual(follow(facts, both), { underlay: both });
  t.deepEqual(follow({ ...facts, defaultRoutes: {} }, both), {
    underlay: both,
    problem: 'there is no IPv4 default route to tell the interface; name one; eth0 stays in use as it was',
  });
  const moved = {
    ...facts,
    defaultRoutes: { 4: 'eth1' },
    addresses: [...facts.addresses, address('eth1', '2001:db8:1::1/64')],
  };
  t.is(
    follow({ ...moved, defaultRoutes: { 4: 'eth1', 6: 'eth1' } }, both).underlay?.device,
    'eth1',
    'another is there',
  );
  t.is(follow(moved, both).underlay?.device, 'eth0', 'half of another is not');
  const smaller = {
    ...facts,
    defaultRoutes: {},
    links: facts.links.map((link) => ({ ...link, mtuBytes: 1400 })),
  };
  t.is(follow(smaller, both).underlay?.mtuBytes, 1400);
});

test('a family that lost its address keeps what it had, and the other one goes on', (t) => {
  const kept = follow(only('192.0.2.7/24'), both);
  t.deepEqual(kept.underlay, both);
  t.is(kept.problem, 'interface eth0 has no usable IPv6 address; eth0 stays in use as it was');
  const changed = follow(only('192.0.2.99/24'), both).underlay;
  t.deepEqual(
    changed?.publicIps,
    { 4: ip('192.0.2.99'), 6: ip('2001:db8::b') },
    'a new address is one all the same',
  );
  const local = follow(only('192.0.2.7/24', 'fe80::1/64'), both);
  t.deepEqual(local.underlay, both, 'an address of the link alone is none that peers could send to');
  t.regex(local.problem ?? '', /no IPv6 address but the link's own fe80::1/);
  t.is(follow(only('198.51.100.1/24'), both).underlay, undefined, 'none at all');
  t.is(
    follow({ ...facts, links: facts.links.filter(({ name }) => name !== 'eth0') }, both).underlay,
    undefined,
  );
});

test('a node that never had all families begins with those that it has, after a while', (t) => {
  const few = only('192.0.2.7/24');
  const problem = 'interface eth0 has no usable IPv6 address';
  t.deepEqual(follow(few, undefined), { underlay: undefined, problem });
  const part = follow(few, undefined, { takesPart: true });
  t.deepEqual(part, {
    underlay: { ...both, addresses: { 4: both.addresses[4] }, publicIps: { 4: both.publicIps[4] } },
    problem,
  } as never);
  t.deepEqual(follow(facts, part.underlay), { underlay: both }, 'and goes on with all');
});

test('what cannot be chosen is said with its name', (t) => {
  const all =
    'there are lo [127.0.0.1/8], ' +
    'eth0 [fe80::1/64, 192.0.2.7/24, 192.0.2.8/24, 2001:db8::9/64, 2001:db8::a/64, 2001:db8::b/64], ' +
    'eth1 [198.51.100.1/24]';
  t.deepEqual(select([4], { interface: 'eth9' }), { problem: `no interface is named eth9; ${all}` });
  const wishes = { interfaces: ['203.0.113.5', 'eth8'], patterns: [/^wlan/], canReach: ip('192.0.2.99') };
  t.deepEqual(select([4], wishes), {
    problem:
      'no interface has the address 203.0.113.5 or is named eth8 or matches ^wlan or leads to 192.0.2.99; ' +
      all,
  });
  const dead = { ...facts, links: facts.links.map((link) => ({ ...link, mtuBytes: 0 })) };
  t.deepEqual(select([4], {}, dead), { problem: 'interface eth0 has an MTU of 0' });
  t.deepEqual(select([6], { interface: 'eth1' }), { problem: 'interface eth1 has no usable IPv6 address' });
  t.deepEqual(select([4, 6], {}, { ...facts, defaultRoutes: { 4: 'eth0', 6: 'eth1' } }), {
    problem: 'the default routes lead to two interfaces, IPv4 to eth0 and IPv6 to eth1; name one',
  });
  t.deepEqual(select([4, 6], {}, { ...facts, defaultRoutes: { 4: 'eth0' } }), {
    problem: 'there is no IPv6 default route to tell the interface; name one',
  });
});
