import test from 'ava';
import type { Ip, Mac } from '../../core/address.ts';
import { LinkTable } from '../../kernel/link.ts';
import {
  type FdbRow,
  FdbTable,
  fdbKey,
  type NeighborRow,
  NeighborTable,
  neighborKey,
} from '../../kernel/neighbor.ts';
import { addLinks, make, openSpace, type Space, settle } from './kernel-space.ts';

function neighbor(device: string, ip: string, mac: string): NeighborRow {
  return { device, ip: ip as Ip, mac: mac as Mac };
}

function fdb(device: string, mac: string, destination: string): FdbRow {
  return { device, mac: mac as Mac, destination: destination as Ip };
}

const ANY = '00:00:00:00:00:00';

/** fl.4 and fl.6 are vxlans of ours over IPv4 and IPv6, "theirs" is one of somebody else. */
async function addVxlans(space: Space): Promise<void> {
  addLinks(space);
  const links = new LinkTable(space);
  const vxlan = (name: string, vni: number, local: string) => ({
    key: name,
    kind: 'create' as const,
    wanted: {
      name,
      kind: 'vxlan' as const,
      alias: 'fairlead vxlan',
      up: true,
      vxlan: { vni, port: 8472, local: local as Ip, device: 'one', learning: false },
    },
  });
  await links.write([vxlan('fl.4', 4, '10.0.0.1'), vxlan('fl.6', 6, 'fd00::1')]);
  space.ip('link add theirs type vxlan id 9 dstport 8472 local 10.0.0.1 dev one nolearning');
}

test('permanent neighbors of both families are added, changed and removed', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  const table = new NeighborTable(space);
  const rows = [
    neighbor('one', '10.244.2.0', '02:00:00:00:02:00'),
    neighbor('one', 'fd00:244:2::', '02:00:00:00:02:00'),
    neighbor('two', '10.244.2.0', '02:00:00:00:02:01'),
  ];
  t.is(await settle(t, table, neighborKey, rows), 3);
  t.like(space.show('neighbor show 10.244.2.0 dev one')[0], {
    lladdr: '02:00:00:00:02:00',
    state: ['PERMANENT'],
  });
  t.like(space.show('-6 neighbor show dev one nud permanent')[0], { dst: 'fd00:244:2::' });
  const moved = [neighbor('one', '10.244.2.0', '02:00:00:00:09:09'), ...rows.slice(1)];
  t.is(await settle(t, table, neighborKey, moved), 1);
  t.is(await settle(t, table, neighborKey, rows.slice(2)), 2);
  t.is(await settle(t, table, neighborKey, []), 1);
});

test('a neighbor that was learned is made permanent, and learned ones are left alone', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  space.ip(`
    neighbor add 10.0.0.2 lladdr 02:00:00:00:00:02 dev one nud reachable
    neighbor add 10.0.0.3 lladdr 02:00:00:00:00:03 dev one nud reachable
    neighbor add 10.0.0.4 lladdr 02:00:00:00:00:04 dev foreign nud permanent`);
  const table = new NeighborTable(space);
  t.deepEqual(await table.read(), new Map());
  await settle(t, table, neighborKey, [neighbor('one', '10.0.0.2', '02:00:00:00:09:02')]);
  t.like(space.show('neighbor show 10.0.0.2 dev one')[0], {
    lladdr: '02:00:00:00:09:02',
    state: ['PERMANENT'],
  });
  await settle(t, table, neighborKey, []);
  t.is(space.show('neighbor show 10.0.0.3 dev one').length, 1);
  t.like(space.show('neighbor show 10.0.0.4 dev foreign')[0], { lladdr: '02:00:00:00:00:04' });
});

test('a neighbor on a link of others, or on none, is refused and the rest is made', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  const mac = '02:00:00:00:02:00';
  const table = new NeighborTable(space);
  const rows = ['foreign', 'nowhere', 'one'].map((device) => neighbor(device, '10.0.0.2', mac));
  t.deepEqual((await make(table, neighborKey, rows)).failures, [
    'create foreign 10.0.0.2: EPERM',
    'create nowhere 10.0.0.2: ENODEV',
  ]);
  t.deepEqual([...(await table.read()).keys()], ['one 10.0.0.2']);
});

test('forwarding entries of vxlans over both families are added and removed', async (t) => {
  const space = openSpace(t);
  await addVxlans(space);
  const table = new FdbTable(space);
  const rows = [
    fdb('fl.4', '02:00:00:00:02:00', '192.0.2.2'),
    fdb('fl.4', '02:00:00:00:03:00', '192.0.2.3'),
    fdb('fl.6', '02:00:00:00:02:00', 'fd99::2'),
  ];
  t.is(await settle(t, table, fdbKey, rows), 3);
  t.like(
    space.show('fdb show dev fl.4', 'bridge').find(({ mac }) => mac === '02:00:00:00:02:00'),
    {
      dst: '192.0.2.2',
      flags: ['self'],
      state: 'permanent',
    },
  );
  t.like(space.show('fdb show dev fl.6', 'bridge')[0], { dst: 'fd99::2' });
  t.is(await settle(t, table, fdbKey, rows.slice(1)), 1);
  t.is(await settle(t, table, fdbKey, []), 2);
});

test('a MAC address moves to another node in one run, and is there all the time', async (t) => {
  const space = openSpace(t);
  await addVxlans(space);
  const table = new FdbTable(space);
  const mac = '02:00:00:00:02:00';
  await settle(t, table, fdbKey, [fdb('fl.4', mac, '192.0.2.2')]);
  t.is(await settle(t, table, fdbKey, [fdb('fl.4', mac, '192.0.2.9')]), 2);
  t.is(space.show('fdb show dev fl.4', 'bridge').length, 1);
});

test('unknown frames may go to many nodes', async (t) => {
  const space = openSpace(t);
  await addVxlans(space);
  const table = new FdbTable(space);
  const rows = ['192.0.2.2', '192.0.2.3', '192.0.2.4'].map((ip) => fdb('fl.4', ANY, ip));
  t.is(await settle(t, table, fdbKey, rows), 3);
  t.is(await settle(t, table, fdbKey, [...rows.slice(1), fdb('fl.4', ANY, '192.0.2.5')]), 2);
  t.is(await settle(t, table, fdbKey, []), 3);
});

test('forwarding entries of others, and of other kinds of links, are left alone', async (t) => {
  const space = openSpace(t);
  await addVxlans(space);
  const table = new FdbTable(space);
  space.ip('link add br0 type bridge\nlink set one master br0');
  const fdbShow = () =>
    space
      .show('fdb show', 'bridge')
      .map((shown) => JSON.stringify(shown))
      .toSorted();
  const { execFileSync } = await import('node:child_process');
  const add = 'fdb add 02:00:00:00:02:00 dev theirs dst 192.0.2.2 self permanent'.split(' ');
  execFileSync('/usr/sbin/bridge', ['-n', space.name, ...add]);
  const before = fdbShow();
  t.deepEqual(await table.read(), new Map());
  await settle(t, table, fdbKey, [fdb('fl.4', '02:00:00:00:02:00', '192.0.2.2')]);
  await settle(t, table, fdbKey, []);
  t.deepEqual(fdbShow(), before);
  const { failures } = await make(table, fdbKey, [fdb('theirs', '02:00:00:00:02:00', '192.0.2.2')]);
  t.deepEqual(failures, ['create theirs 02:00:00:00:02:00 192.0.2.2: EPERM']);
});

test('removing what is gone, with its link or without, is no failure', async (t) => {
  const space = openSpace(t);
  await addVxlans(space);
  const actual = fdb('fl.4', '02:00:00:00:02:00', '192.0.2.2');
  const gone = fdb('fl.7', '02:00:00:00:02:00', '192.0.2.2');
  const changes = [actual, gone].map((row) => ({ kind: 'delete' as const, key: fdbKey(row), actual: row }));
  t.deepEqual(await new FdbTable(space).write(changes), []);
  const arp = ['one', 'nowhere'].map((device) => neighbor(device, '10.0.0.2', '02:00:00:00:02:00'));
  const arpChanges = arp.map((row) => ({ kind: 'delete' as const, key: neighborKey(row), actual: row }));
  t.deepEqual(await new NeighborTable(space).write(arpChanges), []);
});

test('a destination of the wrong family is refused with the words of the kernel', async (t) => {
  const space = openSpace(t);
  await addVxlans(space);
  const { failures } = await make(new FdbTable(space), fdbKey, [fdb('fl.4', '02:00:00:00:02:00', 'fd00::2')]);
  t.is(failures.length, 1);
});
