import test from 'ava';
import type { HostCidr } from '../../core/address.ts';
import { type AddressRow, AddressTable, addressKey } from '../../kernel/address.ts';
import { LinkTable } from '../../kernel/link.ts';
import { decodeAddress, encodeAddressDump } from '../../kernel/netlink/route/address.ts';
import { RTM_GETADDR } from '../../kernel/netlink/route/rtnetlink.ts';
import { addLinks, make, openSpace, type Shown, type Space, settle } from './kernel-space.ts';

function row(device: string, address: string): AddressRow {
  return { device, address: address as HostCidr };
}

/** "ADDRESS/LENGTH" of one link, without link-local ones. */
function shownOn({ show }: Space, device: string): string[] {
  const infos = show(`address show dev ${device}`).flatMap(({ addr_info }) => addr_info as Shown[]);
  return infos
    .filter(({ scope }) => scope !== 'link')
    .map(({ local, prefixlen }) => `${local}/${prefixlen}`)
    .toSorted();
}

test('addresses of both families are added and removed', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  const table = new AddressTable(space);
  const first = [row('one', '10.0.0.1/24'), row('one', 'fd00::1/64'), row('two', '10.0.1.1/32')];
  t.is(await settle(t, table, addressKey, first), 3);
  t.deepEqual(shownOn(space, 'one'), ['10.0.0.1/24', 'fd00::1/64']);
  t.deepEqual(shownOn(space, 'two'), ['10.0.1.1/32']);
  t.is(await settle(t, table, addressKey, [row('one', '10.0.0.1/16'), row('two', 'fd00::2/128')]), 5);
  t.deepEqual(shownOn(space, 'one'), ['10.0.0.1/16']);
  t.deepEqual(shownOn(space, 'two'), ['fd00::2/128']);
  t.is(await settle(t, table, addressKey, []), 2);
});

test('an IPv6 address works at once: no duplicate address detection', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  await settle(t, new AddressTable(space), addressKey, [row('one', 'fd00::1/64')]);
  const infos = space
    .show('-6 address show dev one to fd00::1')
    .flatMap((shown) => shown.addr_info as Shown[]);
  const info = infos.find(({ local }) => local === 'fd00::1');
  t.like(info, { local: 'fd00::1', nodad: true });
  t.is(info?.tentative, undefined);
});

test('addresses carry our protocol number where the kernel knows it (since Linux 5.18)', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  const rows = [row('one', '10.0.0.1/24'), row('one', 'fd00::1/64')];
  await settle(t, new AddressTable(space), addressKey, rows);
  const messages = await space.socket.dump({ type: RTM_GETADDR, flags: 0, payload: encodeAddressDump(0) });
  const marked = messages
    .map(({ payload }) => decodeAddress(payload))
    .filter(({ protocol }) => protocol === 88);
  t.deepEqual(marked.map(({ ip }) => ip).toSorted() as string[], ['10.0.0.1', 'fd00::1']);
});

test('removing the first address of a subnet keeps the others', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  const table = new AddressTable(space);
  const rows = ['10.0.0.1/24', '10.0.0.2/24', '10.0.0.3/24'].map((address) => row('one', address));
  await settle(t, table, addressKey, rows);
  space.ip('route add 10.9.0.0/16 via 10.0.0.9 src 10.0.0.3');
  t.is(await settle(t, table, addressKey, rows.slice(2)), 2);
  t.deepEqual(shownOn(space, 'one'), ['10.0.0.3/24']);
  t.like(space.show('route show 10.9.0.0/16')[0], { prefsrc: '10.0.0.3' });
});

test('replacing the only address of a subnet by another one takes one run', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  const table = new AddressTable(space);
  await settle(t, table, addressKey, [row('one', '10.0.0.1/24')]);
  t.is(await settle(t, table, addressKey, [row('one', '10.0.0.2/24')]), 2);
});

test('addresses of links of others, and those that the kernel made, are left alone', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  space.ip(`
    link set lo up
    address add 10.7.0.1/24 dev foreign
    address add fd07::1/64 dev foreign nodad`);
  const before = space.show('address show dev foreign');
  const table = new AddressTable(space);
  t.deepEqual(await table.read(), new Map());
  t.is(await settle(t, table, addressKey, []), 0);
  t.deepEqual(space.show('address show dev foreign'), before);
  t.true(JSON.stringify(space.show('-6 address show dev one')).includes('fe80::'));
});

test('an address on a link of others is refused, because it could not be recognised', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  const wanted = row('foreign', '10.0.0.1/24');
  const failures = await new AddressTable(space).write([{ kind: 'create', key: addressKey(wanted), wanted }]);
  t.is(
    failures[0]?.error.message,
    'RTM_NEWADDR 10.0.0.1/24 foreign: EPERM: link "foreign" has no alias beginning with "fairlead"',
  );
  t.deepEqual(shownOn(space, 'foreign'), []);
});

test('a failed row does not stop the others', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  const rows = [row('nowhere', '10.0.0.1/24'), row('one', '10.0.0.1/24'), row('one', 'ff02::1/64')];
  t.deepEqual(await make(new AddressTable(space), addressKey, rows), {
    writes: 3,
    failures: ['create nowhere 10.0.0.1/24: ENODEV', 'create one ff02::1/64: EADDRNOTAVAIL'],
  });
  t.deepEqual(shownOn(space, 'one'), ['10.0.0.1/24']);
});

test('removing what is gone, or what was on a link that is gone, is no failure', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  const gone = ['10.0.0.1/24', 'fd00::1/64'].flatMap((address) => [
    row('one', address),
    row('nowhere', address),
  ]);
  const changes = gone.map((actual) => ({ kind: 'delete' as const, key: addressKey(actual), actual }));
  t.deepEqual(await new AddressTable(space).write(changes), []);
});

test('making what is there is no failure', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  const table = new AddressTable(space);
  const rows = [row('one', '10.0.0.1/24'), row('one', 'fd00::1/64')];
  await settle(t, table, addressKey, rows);
  const again = rows.map((wanted) => ({ kind: 'create' as const, key: addressKey(wanted), wanted }));
  t.deepEqual(await table.write(again), []);
  t.is((await table.read()).size, 2);
});

test('more addresses than single lookups are worth', async (t) => {
  const space = openSpace(t);
  const names = Array.from({ length: 20 }, (_, index) => `v${index}`);
  const links = names.map(
    (name) => [name, { name, kind: 'veth' as const, alias: 'fairlead', up: true }] as const,
  );
  const table = new LinkTable(space);
  await table.write(links.map(([key, wanted]) => ({ kind: 'create', key, wanted })));
  const rows = names.map((name, index) => row(name, `10.0.${index}.1/24`));
  t.is(await settle(t, new AddressTable(space), addressKey, rows), 20);
});
