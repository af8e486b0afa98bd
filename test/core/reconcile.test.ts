import test from 'ava';
import fc from 'fast-check';
import { applyChanges, reconcile } from '../../core/reconcile.ts';
import { layer, type Plan, type Table } from '../../core/rows.ts';
import { FakeKernel, FakeTable } from '../fake/table.ts';

//   route ──on──▶ link          A small kernel with the dependencies of the real one: an address and a
//     │             ▲           neighbor lie on a link, a route lies on a link and, when it names a
//     └─source─▶ address ──on───┘           source, on that address.

interface Link {
  readonly mtu: number;
}
interface Address {
  readonly link: string;
}
interface Route {
  readonly link: string;
  readonly source?: string | undefined;
  readonly gateway: number;
}

interface State {
  readonly links: ReadonlyMap<string, Link>;
  readonly addresses: ReadonlyMap<string, Address>;
  readonly routes: ReadonlyMap<string, Route>;
}

/** By key: the order of rows is no part of a state. */
function inOrder({ links, addresses, routes }: State): State {
  const sorted = <V>(rows: ReadonlyMap<string, V>) => new Map([...rows].sort(([a], [b]) => (a < b ? -1 : 1)));
  return { links: sorted(links), addresses: sorted(addresses), routes: sorted(routes) };
}

function fakeWorld() {
  const kernel = new FakeKernel();
  const links = new FakeTable<Link>({ name: 'link', kernel });
  const addresses = new FakeTable<Address>({
    name: 'address',
    kernel,
    liesOn: ({ link }) => [`link/${link}`],
  });
  const routes = new FakeTable<Route>({
    name: 'route',
    kernel,
    liesOn: ({ link, source }) => [`link/${link}`, ...(source ? [`address/${source}` as const] : [])],
  });
  const plan = (wanted: State): Plan => [
    layer(links, wanted.links),
    layer(addresses, wanted.addresses),
    layer(routes, wanted.routes),
  ];
  const rows = () => inOrder({ links: links.rows(), addresses: addresses.rows(), routes: routes.rows() });
  const put = (state: State) => {
    for (const [key, row] of state.links) links.put(key, row);
    for (const [key, row] of state.addresses) addresses.put(key, row);
    for (const [key, row] of state.routes) routes.put(key, row);
  };
  return { kernel, links, addresses, routes, plan, rows, put };
}

function mapOf<V>(keys: readonly string[], value: fc.Arbitrary<V>): fc.Arbitrary<Map<string, V>> {
  if (keys.length === 0) return fc.constant(new Map());
  return fc.array(fc.tuple(fc.constantFrom(...keys), value), { maxLength: 6 }).map((rows) => new Map(rows));
}

/** States in which every row has what it lies on, as planners make them and kernels hold them. */
const state: fc.Arbitrary<State> = mapOf(['a', 'b', 'c'], fc.record({ mtu: fc.nat(1) })).chain((links) => {
  const names = [...links.keys()];
  const onLink = names.length === 0 ? undefined : fc.constantFrom(...names);
  const addresses = onLink ? mapOf(['1', '2', '3'], fc.record({ link: onLink })) : fc.constant(new Map());
  return addresses.chain((there: Map<string, Address>) => {
    const source = fc.constantFrom(undefined, ...there.keys());
    const routes: fc.Arbitrary<Map<string, Route>> = onLink
      ? mapOf(['x', 'y', 'z'], fc.record({ link: onLink, source, gateway: fc.nat(1) }))
      : fc.constant(new Map());
    return routes.map((rows) => ({ links, addresses: there, routes: rows }));
  });
});

test('any state becomes any other, never with a row in the air, and the second run writes nothing', async (t) => {
  await fc.assert(
    fc.asyncProperty(state, state, async (before, wanted) => {
      const world = fakeWorld();
      world.put(before);
      const first = await reconcile(world.plan(wanted));
      t.deepEqual(first.failures, []);
      t.deepEqual(world.rows(), inOrder(wanted));
      t.deepEqual(world.kernel.dangling(), []);
      t.deepEqual(await reconcile(world.plan(wanted)), { writes: 0, failures: [] });
    }),
    { numRuns: 400 },
  );
});

const forbidden = fc.record({
  links: fc.subarray(['a', 'b', 'c']),
  addresses: fc.subarray(['1', '2', '3']),
  routes: fc.subarray(['x', 'y', 'z']),
});

test('what is refused is reported with what lies on it, all else is done, and once allowed it heals', async (t) => {
  await fc.assert(
    fc.asyncProperty(state, state, forbidden, async (before, wanted, refused) => {
      const world = fakeWorld();
      world.put(before);
      const tables = { links: world.links, addresses: world.addresses, routes: world.routes };
      for (const [name, keys] of Object.entries(refused)) {
        for (const key of keys) tables[name as keyof typeof tables].forbidden.add(key);
      }
      const { failures } = await reconcile(world.plan(wanted));
      t.deepEqual(world.kernel.dangling(), []);
      const failed = new Set(failures.map(({ table, key }) => `${table}/${key}`));
      const after = world.rows();
      for (const name of ['links', 'addresses', 'routes'] as const) {
        const keys = new Set([...wanted[name].keys(), ...after[name].keys()]);
        for (const key of keys) {
          const isAsWanted = JSON.stringify(after[name].get(key)) === JSON.stringify(wanted[name].get(key));
          t.is(failed.has(`${tables[name].name}/${key}`), !isAsWanted, `${name} ${key}`);
        }
      }
      for (const table of Object.values(tables)) table.forbidden.clear();
      t.deepEqual((await reconcile(world.plan(wanted))).failures, []);
      t.deepEqual(world.rows(), inOrder(wanted));
      t.is((await reconcile(world.plan(wanted))).writes, 0);
    }),
    { numRuns: 400 },
  );
});

test('rows of others stay, also where they are in the way', async (t) => {
  const world = fakeWorld();
  world.links.put('a', { mtu: 9 }, { ours: false });
  world.links.put('other', { mtu: 9 }, { ours: false });
  const wanted: State = {
    links: new Map([
      ['a', { mtu: 1 }],
      ['b', { mtu: 1 }],
    ]),
    addresses: new Map(),
    routes: new Map(),
  };
  const { failures } = await reconcile(world.plan(wanted));
  t.like(failures[0], { table: 'link', key: 'a', kind: 'create', error: { code: 'EEXIST' } });
  t.is(failures.length, 1);
  t.deepEqual(
    world.links.rows(),
    new Map([
      ['a', { mtu: 9 }],
      ['other', { mtu: 9 }],
      ['b', { mtu: 1 }],
    ]),
  );
});

test('rows are made in the order of the tables and removed in the reverse order', async (t) => {
  const world = fakeWorld();
  world.put({
    links: new Map([['a', { mtu: 1 }]]),
    addresses: new Map([['1', { link: 'a' }]]),
    routes: new Map(),
  });
  const order: string[] = [];
  const watched = <V>(table: FakeTable<V>): Table<string, V> => ({
    name: table.name,
    same: (a, b) => table.same(a, b),
    read: () => table.read(),
    write: (changes) => {
      for (const { kind, key } of changes) order.push(`${kind} ${table.name} ${key}`);
      return table.write(changes);
    },
  });
  const { writes } = await reconcile([
    layer(watched(world.links), new Map([['b', { mtu: 1 }]])),
    layer(watched(world.addresses), new Map([['2', { link: 'b' }]])),
  ]);
  t.deepEqual(order, ['create link b', 'create address 2', 'delete address 1', 'delete link a']);
  t.is(writes, 4);
});

test('an atomic table gets makes and removals in one batch', async (t) => {
  const kernel = new FakeKernel();
  const elements = new FakeTable<number>({ name: 'element', kernel, atomic: true });
  elements.put('old', 1);
  await reconcile([layer(elements, new Map([['new', 2]]))]);
  t.deepEqual(
    elements.batches.map((batch) => batch.map(({ kind, key }) => `${kind} ${key}`)),
    [['create new', 'delete old']],
  );
});

test('a refused transaction changes nothing and is reported whole', async (t) => {
  const kernel = new FakeKernel();
  const elements = new FakeTable<number>({ name: 'element', kernel, atomic: true });
  elements.put('old', 1);
  elements.forbidden.add('bad');
  const wanted = new Map([
    ['good', 2],
    ['bad', 3],
  ]);
  const { failures } = await reconcile([layer(elements, wanted)]);
  t.deepEqual(
    failures.map(({ key }) => key),
    ['good', 'bad', 'old'],
  );
  t.deepEqual(elements.rows(), new Map([['old', 1]]));
});

test('a table without changes is not written to', async (t) => {
  const world = fakeWorld();
  const rows: State = { links: new Map([['a', { mtu: 1 }]]), addresses: new Map(), routes: new Map() };
  world.put(rows);
  await reconcile(world.plan(rows));
  t.deepEqual(world.links.batches, []);
});

test('a table that cannot be read stops everything before the first write', async (t) => {
  const world = fakeWorld();
  const unreadable: Table<string, number> = {
    name: 'unreadable',
    same: () => true,
    read: async () => {
      throw new Error('EPERM');
    },
    write: async () => [],
  };
  const wanted: State = { links: new Map([['a', { mtu: 1 }]]), addresses: new Map(), routes: new Map() };
  await t.throwsAsync(reconcile([...world.plan(wanted), layer(unreadable, new Map())]), { message: 'EPERM' });
  t.deepEqual(world.links.batches, []);
});

test('known changes are applied without reading anything', async (t) => {
  const kernel = new FakeKernel();
  const table = new FakeTable<number>({ name: 'element', kernel });
  table.put('old', 1);
  const unread = Object.assign(table, { read: () => Promise.reject(new Error('was read')) });
  const report = await applyChanges([
    {
      layer: layer<string, number>(unread, new Map()),
      changes: [
        { kind: 'create', key: 'new', wanted: 2 },
        { kind: 'delete', key: 'old', actual: 1 },
      ],
    },
  ]);
  t.deepEqual(report, { writes: 2, failures: [] });
  t.deepEqual(table.rows(), new Map([['new', 2]]));
});
