import test from 'ava';
import fc from 'fast-check';
import { type Cidr, familyOf, type HostCidr, type Ip, ipOf, type Mac } from '../../core/address.ts';
import { reconcile } from '../../core/reconcile.ts';
import { layer, type Plan, type Table } from '../../core/rows.ts';
import { type AddressRow, AddressTable, addressKey } from '../../kernel/address.ts';
import { type LinkRow, LinkTable, linkKey } from '../../kernel/link.ts';
import {
  type FdbRow,
  FdbTable,
  fdbKey,
  type NeighborRow,
  NeighborTable,
  neighborKey,
} from '../../kernel/neighbor.ts';
import { FAIRLEAD_PROTOCOL, type RouteRow, RouteTable, routeKey } from '../../kernel/route.ts';
import { openSpace, type Shown, type Space } from './kernel-space.ts';

// The engine on the real kernel. One namespace goes through a row of random states of all tables at once.
// Everything of ours lies on four links: bridge "br", veths "v1" and "v2" (ports of it or not), and the vxlan
// "vx" on "under", which is somebody else's, with rows of somebody else's on it.

interface State {
  readonly links: readonly LinkRow[];
  readonly addresses: readonly AddressRow[];
  readonly neighbors: readonly NeighborRow[];
  readonly fdb: readonly FdbRow[];
  readonly routes: readonly RouteRow[];
}

function maybe<T>(value: T): fc.Arbitrary<T | undefined> {
  return fc.constantFrom(undefined, value);
}

const common = {
  up: fc.boolean(),
  mtuBytes: fc.constantFrom(1400, 1380),
  alias: fc.constantFrom('fairlead', 'fairlead other'),
};
const bridge: fc.Arbitrary<LinkRow> = fc.record({
  ...common,
  name: fc.constant('br'),
  kind: fc.constant('bridge'),
  mac: fc.constantFrom('02:00:00:00:00:01' as Mac, '02:00:00:00:00:02' as Mac),
});
const veth = (name: string): fc.Arbitrary<LinkRow> =>
  fc.record({
    ...common,
    name: fc.constant(name),
    kind: fc.constant('veth'),
    master: maybe('br'),
    bridgePort: fc.record({ hairpin: fc.boolean() }),
  });
const vxlan: fc.Arbitrary<LinkRow> = fc.record({
  ...common,
  name: fc.constant('vx'),
  kind: fc.constant('vxlan'),
  mtuBytes: fc.constant(1350),
  vxlan: fc.record({
    vni: fc.constantFrom(1, 2),
    port: fc.constant(8472),
    local: fc.constant('10.99.0.1' as Ip),
    device: fc.constant('under'),
    learning: fc.constant(false),
  }),
});

/** Ports only of a bridge that is there. */
const links: fc.Arbitrary<LinkRow[]> = fc
  .tuple(
    fc.option(bridge, { nil: undefined, freq: 4 }),
    fc.option(veth('v1'), { nil: undefined, freq: 3 }),
    fc.option(veth('v2'), { nil: undefined, freq: 3 }),
    fc.option(vxlan, { nil: undefined, freq: 4 }),
  )
  .map((all) => {
    const there = all.filter((row) => row !== undefined);
    const hasBridge = there.some(({ name }) => name === 'br');
    return there.map((row) => (hasBridge ? row : { ...row, master: undefined }));
  });

/** Subnets are one link's each; some addresses share one, and one address has two lengths. */
function addressesOf(device: string, number: number): AddressRow[] {
  const texts = [
    `10.${number}.0.1/24`,
    `10.${number}.0.2/24`,
    `10.${number}.0.3/24`,
    `10.${number}.0.1/16`,
    `fd0${number}::1/64`,
    `fd0${number}::2/64`,
  ];
  return texts.map((address) => ({ device, address: address as HostCidr }));
}

const macs = ['02:00:00:00:aa:01', '02:00:00:00:aa:02'] as Mac[];

function neighborOf(device: string): fc.Arbitrary<NeighborRow> {
  const ip = fc.constantFrom('10.200.0.1', '10.200.0.2', 'fd20::1', 'fd20::2') as fc.Arbitrary<Ip>;
  return fc.record({ device: fc.constant(device), ip, mac: fc.constantFrom(...macs) });
}

const forwarding: fc.Arbitrary<FdbRow[]> = fc.uniqueArray(
  fc.record({
    device: fc.constant('vx'),
    mac: fc.constantFrom(...macs, '00:00:00:00:00:00' as Mac),
    destination: fc.constantFrom('10.99.0.2' as Ip, '10.99.0.3' as Ip),
  }),
  // One destination of a MAC address, many of everything unknown.
  { selector: ({ mac, destination }) => (mac === '00:00:00:00:00:00' ? destination : mac), maxLength: 4 },
);

function routeOn(device: string, addresses: readonly AddressRow[]): fc.Arbitrary<RouteRow> {
  const destination = fc.constantFrom(
    '10.210.0.0/24',
    '10.211.0.0/24',
    'fd21::/64',
    'fd22::/64',
    '::/0',
    '0.0.0.0/0',
  );
  return (destination as fc.Arbitrary<Cidr>)
    .chain((to) => {
      const sources = addresses
        .map(({ address }) => ipOf(address))
        .filter((ip) => familyOf(ip) === familyOf(to));
      const gateway = (familyOf(to) === 4 ? '10.250.0.1' : 'fd25::1') as Ip;
      return fc.record({
        destination: fc.constant(to),
        device: fc.constant(device),
        gateway: maybe(gateway),
        source: fc.constantFrom(undefined, ...sources),
        table: fc.constantFrom(undefined, 1000),
      });
    })
    .map((row) => ({ ...row, onlink: row.gateway !== undefined }));
}

function manyOf<V>(on: readonly string[], row: (device: string) => fc.Arbitrary<V>, key: (row: V) => string) {
  if (on.length === 0) return fc.constant<V[]>([]);
  return fc.uniqueArray(fc.oneof(...on.map(row)), { selector: key, maxLength: 5 });
}

const state: fc.Arbitrary<State> = links.chain((linkRows) => {
  // Rows only on links that are up: the kernel flushes most of them from those that are not.
  const up = linkRows.filter((row) => row.up).map(({ name }) => name);
  const pool = up.flatMap((name) => addressesOf(name, 1 + ['br', 'v1', 'v2', 'vx'].indexOf(name)));
  return fc.subarray(pool).chain((addresses) =>
    fc.record({
      links: fc.constant(linkRows),
      addresses: fc.shuffledSubarray(addresses, { minLength: addresses.length }),
      neighbors: manyOf(up, neighborOf, neighborKey),
      fdb: linkRows.some(({ name }) => name === 'vx') ? forwarding : fc.constant([]),
      routes: manyOf(up, (device) => routeOn(device, addresses), routeKey),
    }),
  );
});

function tablesOf({ socket }: Space) {
  return {
    links: [new LinkTable({ socket }), linkKey],
    addresses: [new AddressTable({ socket }), addressKey],
    neighbors: [new NeighborTable({ socket }), neighborKey],
    fdb: [new FdbTable({ socket }), fdbKey],
    routes: [new RouteTable({ socket }), routeKey],
  } as unknown as Record<keyof State, [Table<string, unknown>, (row: unknown) => string]>;
}

function wantedOf(rows: readonly unknown[], key: (row: unknown) => string): Map<string, unknown> {
  return new Map(rows.map((row) => [key(row), row]));
}

function planOf(space: Space, wanted: State): Plan {
  return Object.entries(tablesOf(space)).map(([name, [table, key]]) => {
    return layer(table, wantedOf(wanted[name as keyof State], key));
  });
}

/**
 * Where the kernel takes away what nobody removed. The first pass has read these rows before, so the second
 * makes them again; the kernel's notifications ask for it.
 */
function mayTakeTwoPasses(before: State, after: State): boolean {
  return after.links.some((row) => {
    const there = before.links.find(({ name }) => name === row.name);
    if (there === undefined) return false;
    // All that lies on a link goes when the link must be made anew.
    if (there.vxlan?.vni !== row.vxlan?.vni) return true;
    // The neighbors of a link go when its MAC address changes.
    if (there.mac !== row.mac) return true;
    // The IPv4 routes on a link go with its last IPv4 address.
    return hasIpv4(before, row.name) && !hasIpv4(after, row.name);
  });
}

function hasIpv4({ addresses }: State, link: string): boolean {
  return addresses.some(({ device, address }) => device === link && familyOf(address) === 4);
}

const nothing: State = { links: [], addresses: [], neighbors: [], fdb: [], routes: [] };

function addForeign({ ip }: Space): void {
  ip(`
    link set lo up
    link add under type veth peer name under-peer
    link set under addrgenmode none
    link set under-peer up
    link set under up
    address add 10.99.0.1/24 dev under
    address add fd99::1/64 dev under nodad
    route add 10.210.0.0/24 via 10.99.0.9 metric 7
    route add 10.77.0.0/16 via 10.99.0.9 proto bird
    -6 route add fd77::/64 via fd99::9
    neighbor add 10.99.0.9 lladdr 02:00:00:00:00:09 dev under nud permanent
    rule add from 10.0.0.0/8 table 1000 priority 9`);
}

/** All of somebody else's, as an independent reader shows it. */
function foreignOf({ show }: Space): unknown {
  const stable = (shown: Shown[]) =>
    shown.map((object) => JSON.stringify({ ...object, flags: [] })).toSorted();
  return {
    links: stable(show('link show dev under')),
    addresses: stable(show('address show dev under')),
    routes: stable(show('route show dev under')),
    routes6: stable(show('-6 route show dev under')),
    neighbors: stable(show('neighbor show dev under nud permanent')),
    rules: stable(show('rule show')),
  };
}

function routesShown({ show }: Space): number {
  const of = (version: string) => show(`${version} route show table all proto ${FAIRLEAD_PROTOCOL}`).length;
  return of('-4') + of('-6');
}

test('any state of the kernel becomes any other, and the next pass writes nothing', async (t) => {
  t.timeout(300_000);
  const rowOfStates = fc.array(state, { minLength: 6, maxLength: 8 });
  await fc.assert(
    fc.asyncProperty(rowOfStates, async (states) => {
      const space = openSpace(t);
      addForeign(space);
      const foreign = foreignOf(space);
      let before = nothing;
      for (const wanted of [...states, nothing]) {
        if (mayTakeTwoPasses(before, wanted)) await reconcile(planOf(space, wanted));
        t.deepEqual((await reconcile(planOf(space, wanted))).failures, []);
        t.deepEqual(await reconcile(planOf(space, wanted)), { writes: 0, failures: [] });
        for (const [name, [table, key]] of Object.entries(tablesOf(space))) {
          const rows = wantedOf(wanted[name as keyof State], key);
          t.deepEqual([...(await table.read()).keys()].toSorted(), [...rows.keys()].toSorted(), name);
        }
        t.is(routesShown(space), wanted.routes.length);
        before = wanted;
      }
      t.deepEqual(foreignOf(space), foreign);
    }),
    { numRuns: Number(process.env.RUNS ?? 8), endOnFailure: true },
  );
});
