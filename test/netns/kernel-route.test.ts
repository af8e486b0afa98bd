import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import type { Cidr, Ip } from '../../core/address.ts';
import { monitor } from '../../kernel/netlink/monitor.ts';
import { decodeRoute } from '../../kernel/netlink/route/route.ts';
import {
  RTM_NEWROUTE,
  RTNLGRP_IPV4_ROUTE,
  RTNLGRP_IPV6_ROUTE,
} from '../../kernel/netlink/route/rtnetlink.ts';
import { FAIRLEAD_PROTOCOL, type RouteRow, RouteTable, routeKey } from '../../kernel/route.ts';
import { addLinks, make, openSpace, type Space, settle } from './kernel-space.ts';

function openRouted(t: Parameters<typeof openSpace>[0]): Space {
  const space = openSpace(t);
  addLinks(space);
  space.ip(`
    address add 10.0.0.1/24 dev one
    address add 10.0.1.1/24 dev two
    address add fd00::1/64 dev one nodad
    address add fd00:1::1/64 dev two nodad`);
  return space;
}

const cidr = (text: string) => text as Cidr;
const ip = (text: string) => text as Ip;

const kinds: readonly (readonly [what: string, row: RouteRow, shown: object])[] = [
  [
    'through a gateway',
    { destination: cidr('10.244.1.0/24'), gateway: ip('10.0.0.2'), device: 'one' },
    { dst: '10.244.1.0/24', gateway: '10.0.0.2', dev: 'one', flags: [] },
  ],
  [
    'through a gateway that is on no subnet of the link (onlink, as on a vxlan)',
    { destination: cidr('10.244.2.0/24'), gateway: ip('10.244.2.0'), device: 'two', onlink: true },
    { dst: '10.244.2.0/24', gateway: '10.244.2.0', dev: 'two', flags: ['onlink'] },
  ],
  [
    'to the link itself, with a source address',
    { destination: cidr('10.244.3.7/32'), device: 'one', source: ip('10.0.1.1') },
    { dst: '10.244.3.7', dev: 'one', scope: 'link', prefsrc: '10.0.1.1' },
  ],
  [
    'to the link with scope universe',
    { destination: cidr('10.244.4.0/24'), device: 'one', scope: 'universe' },
    { dst: '10.244.4.0/24', dev: 'one' },
  ],
  [
    'of everything, in a table above 255',
    { destination: cidr('0.0.0.0/0'), gateway: ip('10.0.1.2'), device: 'two', table: 1000 },
    { dst: 'default', gateway: '10.0.1.2', table: '1000' },
  ],
  [
    'of IPv6 through a gateway',
    { destination: cidr('fd00:244:1::/64'), gateway: ip('fd00::2'), device: 'one' },
    { dst: 'fd00:244:1::/64', gateway: 'fd00::2', dev: 'one' },
  ],
  [
    'of IPv6, onlink',
    { destination: cidr('fd00:244:2::/64'), gateway: ip('fd00:244:2::'), device: 'two', onlink: true },
    { dst: 'fd00:244:2::/64', gateway: 'fd00:244:2::', flags: ['onlink'] },
  ],
  [
    'of IPv6 to the link, with a source address, in another table',
    { destination: cidr('fd00:244:3::7/128'), device: 'one', source: ip('fd00:1::1'), table: 88 },
    { dst: 'fd00:244:3::7', dev: 'one', prefsrc: 'fd00:1::1', table: '88' },
  ],
  [
    'of all IPv6',
    { destination: cidr('::/0'), gateway: ip('fd00:1::2'), device: 'two' },
    { dst: 'default', gateway: 'fd00:1::2' },
  ],
];

for (const [what, row, shown] of kinds) {
  test(`a route ${what}`, async (t) => {
    const space = openRouted(t);
    const table = new RouteTable(space);
    t.is(await settle(t, table, routeKey, [row]), 1);
    const version = row.destination.includes(':') ? '-6' : '-4';
    const [found] = space.show(`${version} route show table all proto ${FAIRLEAD_PROTOCOL}`);
    t.like(found, shown);
    t.is(await settle(t, table, routeKey, []), 1);
    t.deepEqual(space.show(`${version} route show table all proto ${FAIRLEAD_PROTOCOL}`), []);
  });
}

test('all kinds of routes at once, and any subset of them', async (t) => {
  const space = openRouted(t);
  const table = new RouteTable(space);
  const rows = kinds.map(([, row]) => row);
  t.is(await settle(t, table, routeKey, rows), rows.length);
  await settle(t, table, routeKey, rows.slice(3));
  await settle(t, table, routeKey, rows.slice(0, 6));
  t.is(await settle(t, table, routeKey, []), 6);
});

const replacements: readonly (readonly [RouteRow, RouteRow])[] = [
  [
    { destination: cidr('10.244.1.0/24'), gateway: ip('10.0.0.2'), device: 'one' },
    { destination: cidr('10.244.1.0/24'), gateway: ip('10.0.1.2'), device: 'two', source: ip('10.0.0.1') },
  ],
  [
    { destination: cidr('10.244.1.0/24'), device: 'one' },
    { destination: cidr('10.244.1.0/24'), gateway: ip('10.9.9.9'), device: 'two', onlink: true },
  ],
  [
    { destination: cidr('fd00:244:1::/64'), gateway: ip('fd00::2'), device: 'one' },
    { destination: cidr('fd00:244:1::/64'), gateway: ip('fd00:1::2'), device: 'two' },
  ],
  [
    { destination: cidr('fd00:244:1::/64'), device: 'one' },
    { destination: cidr('fd00:244:1::/64'), gateway: ip('fd99::1'), device: 'two', onlink: true },
  ],
];

for (const [index, [before, after]] of replacements.entries()) {
  test(`a route to the same network is replaced without a moment of none (${index + 1})`, async (t) => {
    const space = openRouted(t);
    const table = new RouteTable(space);
    await settle(t, table, routeKey, [before]);
    using events = monitor([RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE], { namespaceFd: space.fd });
    t.is(await settle(t, table, routeKey, [after]), 1);
    t.is(await settle(t, table, routeKey, [before]), 1);
    await sleep(20);
    const { value } = await events.next();
    if (value?.kind !== 'messages') return t.fail();
    const ours = value.messages.filter(({ payload }) => decodeRoute(payload).protocol === FAIRLEAD_PROTOCOL);
    t.deepEqual(
      ours.map(({ type }) => type),
      [RTM_NEWROUTE, RTM_NEWROUTE],
    );
  });
}

test('routes of others stay, also to the same network with another metric', async (t) => {
  const space = openRouted(t);
  space.ip(`
    route add 10.244.1.0/24 via 10.0.0.9 metric 50
    route add 10.244.2.0/24 via 10.0.0.9 proto bird
    -6 route add fd00:244:1::/64 via fd00::9 metric 50
    -6 route add fd00:244:2::/64 via fd00::9 proto bird`);
  const before = [...space.show('-4 route show'), ...space.show('-6 route show')];
  const table = new RouteTable(space);
  t.deepEqual(await table.read(), new Map());
  const rows: RouteRow[] = [
    { destination: cidr('10.244.1.0/24'), gateway: ip('10.0.0.2'), device: 'one' },
    { destination: cidr('fd00:244:1::/64'), gateway: ip('fd00::2'), device: 'one' },
  ];
  await settle(t, table, routeKey, rows);
  await settle(t, table, routeKey, []);
  t.deepEqual([...space.show('-4 route show'), ...space.show('-6 route show')], before);
});

test('a route of others to the same network is not replaced but reported', async (t) => {
  const space = openRouted(t);
  space.ip(`
    route add 10.244.2.0/24 via 10.0.0.9 proto bird
    -6 route add fd00:244:2::/64 via fd00::9 proto bird`);
  const table = new RouteTable(space);
  const rows: RouteRow[] = [
    { destination: cidr('10.244.2.0/24'), gateway: ip('10.0.0.2'), device: 'one' },
    { destination: cidr('fd00:244:2::/64'), gateway: ip('fd00::2'), device: 'one' },
  ];
  t.deepEqual((await make(table, routeKey, rows)).failures, [
    'create 254 10.244.2.0/24: EEXIST',
    'create 254 fd00:244:2::/64: EEXIST',
  ]);
  const deletes = rows.map((actual) => ({ kind: 'delete' as const, key: routeKey(actual), actual }));
  t.deepEqual(await table.write(deletes), []);
  t.like(space.show('route show 10.244.2.0/24')[0], { gateway: '10.0.0.9', protocol: 'bird' });
  t.like(space.show('-6 route show fd00:244:2::/64')[0], { gateway: 'fd00::9', protocol: 'bird' });
});

test('routes in our place that name no maker become ours: the same ones, and flanneld’s where that is wished', async (t) => {
  const space = openRouted(t);
  space.ip(`
    route add 10.244.1.0/24 via 10.0.0.2 dev one
    route add 10.244.2.0/24 via 10.0.0.9 dev one
    route add 10.244.3.0/24 via 10.0.1.2 dev two
    route add 10.244.4.0/24 via 10.0.0.2 dev one proto bird
    route add 10.244.5.0/24 dev one
    -6 route add fd00:244:1::/64 via fd00::2 dev one
    -6 route add fd00:244:2::/64 via fd00::9 dev one`);
  const rows = [1, 2, 3, 4, 5].map((n): RouteRow => {
    return { destination: cidr(`10.244.${n}.0/24`), gateway: ip('10.0.0.2'), device: 'one' };
  });
  rows.push({ destination: cidr('fd00:244:1::/64'), gateway: ip('fd00::2'), device: 'one' });
  rows.push({ destination: cidr('fd00:244:2::/64'), gateway: ip('fd00::2'), device: 'one' });
  const refused = (...destinations: string[]) => destinations.map((text) => `create 254 ${text}: EEXIST`);
  t.deepEqual(
    (await make(new RouteTable({ ...space, adopts: 'same' }), routeKey, rows)).failures,
    refused('10.244.2.0/24', '10.244.3.0/24', '10.244.4.0/24', '10.244.5.0/24', 'fd00:244:2::/64'),
  );
  t.deepEqual(
    (await make(new RouteTable({ ...space, adopts: 'flannel' }), routeKey, rows)).failures,
    refused('10.244.3.0/24', '10.244.4.0/24', '10.244.5.0/24'),
  );
  for (const { destination, gateway } of [rows[0], rows[1], rows[5], rows[6]].filter(
    (row) => row !== undefined,
  )) {
    const found = space.show(`${destination.includes(':') ? '-6' : '-4'} route show ${destination}`);
    t.is(found.length, 1, destination);
    t.like(found[0], { gateway, dev: 'one', protocol: '88' });
  }
  t.is(space.show('-4 route show proto boot').length, 2);
});

test('a failed route has the words of the kernel and does not stop the others', async (t) => {
  const space = openRouted(t);
  const table = new RouteTable(space);
  const good: RouteRow = { destination: cidr('10.244.1.0/24'), gateway: ip('10.0.0.2'), device: 'one' };
  const bad: RouteRow = { ...good, destination: cidr('10.244.9.0/24'), gateway: ip('172.31.0.1') };
  const nowhere: RouteRow = { ...good, destination: cidr('10.244.8.0/24'), device: 'nowhere' };
  const failures = await table.write(
    [bad, good, nowhere].map((wanted) => ({ kind: 'create', key: routeKey(wanted), wanted })),
  );
  t.deepEqual(
    failures.map(({ error }) => error.message),
    [
      'RTM_NEWROUTE 10.244.8.0/24: ENODEV: no link "nowhere"',
      'RTM_NEWROUTE 10.244.9.0/24: ENETUNREACH: Nexthop has invalid gateway',
    ].toSorted(),
  );
  t.deepEqual([...(await table.read()).keys()], ['254 10.244.1.0/24']);
});

test('removing a route that went with its link is no failure', async (t) => {
  const space = openRouted(t);
  const table = new RouteTable(space);
  const rows: RouteRow[] = [
    { destination: cidr('10.244.1.0/24'), gateway: ip('10.0.0.2'), device: 'one' },
    { destination: cidr('fd00:244:1::/64'), gateway: ip('fd00::2'), device: 'one', table: 4242 },
  ];
  await settle(t, table, routeKey, rows);
  const deletes = rows.map((actual) => ({ kind: 'delete' as const, key: routeKey(actual), actual }));
  space.ip('link delete one');
  t.deepEqual(await table.write(deletes), []);
});

test('making a route that is there exactly as wanted is no failure', async (t) => {
  const space = openRouted(t);
  const table = new RouteTable(space);
  const row: RouteRow = { destination: cidr('10.244.1.0/24'), gateway: ip('10.0.0.2'), device: 'one' };
  await settle(t, table, routeKey, [row]);
  t.deepEqual(await table.write([{ kind: 'create', key: routeKey(row), wanted: row }]), []);
  const other = { ...row, gateway: ip('10.0.0.3') };
  t.is((await table.write([{ kind: 'create', key: routeKey(row), wanted: other }])).length, 1);
});

test('a route of ours that somebody turned into a multipath route is repaired', async (t) => {
  const space = openRouted(t);
  const table = new RouteTable(space);
  const row: RouteRow = { destination: cidr('10.244.1.0/24'), gateway: ip('10.0.0.2'), device: 'one' };
  await settle(t, table, routeKey, [row]);
  space.ip('route replace 10.244.1.0/24 proto 88 nexthop via 10.0.0.2 dev one nexthop via 10.0.1.2 dev two');
  t.is(await settle(t, table, routeKey, [row]), 1);
});

test('five thousand routes are made, read and removed', async (t) => {
  const space = openRouted(t);
  const table = new RouteTable(space);
  const rows = Array.from({ length: 5000 }, (_, index): RouteRow => {
    const destination = cidr(`10.${100 + (index >> 8)}.${index & 255}.0/24`);
    return { destination, gateway: ip('10.0.0.2'), device: 'one' };
  });
  t.is(await settle(t, table, routeKey, rows), 5000);
  t.is(await settle(t, table, routeKey, []), 5000);
});
