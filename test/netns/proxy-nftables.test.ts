import test, { type ExecutionContext } from 'ava';
import type { Cidr, Family, Ip } from '../../core/address.ts';
import { decodeTableHandle } from '../../kernel/netlink/nftables/messages.ts';
import { getTable } from '../../kernel/netlink/nftables/requests.ts';
import { readGeneration } from '../../kernel/nftables.ts';
import type { Backend } from '../../proxy/backend.ts';
import { openNftables } from '../../proxy/nftables/backend.ts';
import type { ServicePortView } from '../../proxy/view.ts';
import { type NftSpace, openNftSpace } from './nftables-space.ts';
import { policy, portsOf, SERVICE_CIDRS, type TestService, viewsOf } from './proxy-backend-lab.ts';

/* What the nftables backend leaves in the kernel, seen by nft; no packets but in one test. */

const facts = { nodePortIps: { 4: ['192.0.2.1' as Ip], 6: 'all' }, serviceCidrs: SERVICE_CIDRS } as const;

async function open(t: ExecutionContext, space: NftSpace, wanted?: readonly Family[]): Promise<Backend> {
  const onRefused = (error: Error) => t.log(`refused: ${error.message}`);
  const backend = openNftables({ namespaceFd: space.fd, policy, onRefused, families: wanted });
  t.teardown(() => backend[Symbol.dispose]());
  await backend.updateNode(facts);
  return backend;
}

const pods = ['one', 'two', 'three'] as const;
/** One of each kind. */
const services: readonly TestService[] = [
  { number: 1, pods },
  { number: 2, pods, view: { externalPolicy: 'Local', internalPolicy: 'Local' } },
  { number: 3, pods: [] },
  { number: 4, pods, view: { affinitySeconds: 10_800 } },
  { number: 5, pods, view: guarded },
  { number: 6, pods, view: { balancing: 'maglev' } },
  { number: 7, pods: ['three'], view: { externalPolicy: 'Local', affinitySeconds: 5 } },
  { number: 8, pods: [], view: { hasAnyEndpoints: true, sourceRanges: [] } },
];

function guarded(family: Family): Partial<ServicePortView> {
  const ranges = family === 4 ? ['10.0.0.0/8', '10.1.0.0/16', '203.0.113.7/32'] : ['fd00::/8'];
  return {
    affinitySeconds: 77,
    externalPolicy: 'Local',
    sourceRanges: ranges as readonly string[] as Cidr[],
  };
}

async function replace(t: ExecutionContext, backend: Backend, views: ReadonlyMap<string, ServicePortView[]>) {
  const { writes, failures } = await backend.replace(views);
  t.deepEqual(
    failures.map(({ key, error }) => `${key}: ${error.message}`),
    [],
  );
  return writes;
}

/** Chains and rules, each of which has a line and a comment. */
function counts(space: NftSpace): readonly [number, number] {
  const list = space.nft('-t list ruleset');
  return [[...list.matchAll(/^\tchain /gm)].length, [...list.matchAll(/ comment "/g)].length];
}

test.serial('nft lists services of every kind, and its list loads again', async (t) => {
  const space = openNftSpace(t);
  await replace(t, await open(t, space), viewsOf(services));
  const list = space.nft('list ruleset');
  const elsewhere = openNftSpace(t);
  elsewhere.load(list);
  t.is(elsewhere.nft('list ruleset'), list);
});

test.serial('services of all kinds have the chains and rules of one', async (t) => {
  const space = openNftSpace(t);
  const backend = await open(t, space);
  await replace(t, backend, viewsOf([services[3] as TestService]));
  const few = counts(space);
  const views = Array.from({ length: 10 }, (_, index) =>
    services.map((service) => {
      const view = typeof service.view === 'object' ? service.view : {};
      const seconds = view.affinitySeconds === undefined ? {} : { affinitySeconds: 1 + index * 7000 };
      return { ...service, number: 10 * index + service.number, view: { ...view, ...seconds } };
    }),
  )
    .flat()
    .map((service) => [`default/s${service.number}`, portsOf(service).filter(isIPv4)] as const);
  await backend.update(new Map(views));
  t.deepEqual(counts(space), few);
  t.true(few.every((each) => each > 100));
});

function isIPv4({ family, frontends }: ServicePortView): boolean {
  return (
    family === 4 && frontends.every((frontend) => frontend.kind !== 'nodePort' || frontend.port < 32_768)
  );
}

test.serial(
  'a restart writes nothing, also after services went that had made the table larger',
  async (t) => {
    const space = openNftSpace(t);
    const first = await open(t, space);
    const large = viewsOf(services);
    const { number } = services[0] as TestService;
    const many = Array.from({ length: 40 }, (_, index) => `10.200.0.${index + 1}` as Ip);
    large.set('default/large', [
      {
        ...(portsOf({ number: 200, pods })[0] as ServicePortView),
        name: 'default/large:',
        clusterEndpoints: many.map((ip) => ({ ip, port: 80, local: false, weight: 1 })),
      },
    ]);
    await replace(t, first, large);
    await first.update(
      new Map([
        ['default/large', []],
        ['default/s4', []],
        ['default/s5', []],
        ['default/s7', []],
      ]),
    );
    const left = new Map(
      [...viewsOf(services)].filter(([name]) => !['default/s4', 'default/s5', 'default/s7'].includes(name)),
    );
    t.true(left.has(`default/s${number}`));
    const before = space.nft('list ruleset');
    t.is(await replace(t, await open(t, space), left), 0);
    t.is(space.nft('list ruleset'), before);
  },
);

/** A service with so many endpoints. */
function listOf(length: number): Map<string, ServicePortView[]> {
  const clusterEndpoints = Array.from({ length }, (_, index) => ({
    ip: `10.200.${index >> 8}.${index & 255}` as Ip,
    port: 80,
    local: false,
    weight: 1,
  }));
  const [port] = portsOf({ number: 100, pods });
  return new Map([['default/long', [{ ...(port as ServicePortView), clusterEndpoints }]]]);
}

/** What tells a table from one that was made after it. */
async function handleOf({ socket }: NftSpace): Promise<bigint | undefined> {
  const [table] = await socket.request(getTable({ family: 'ip', table: 'fairlead-proxy' }));
  return table && decodeTableHandle(table);
}

/** Without what is said of how large it was when it was made. */
function linesOf(space: NftSpace): string[] {
  return space
    .nft('list table ip fairlead-proxy')
    .split(/[\n,]/)
    .map((line) => line.trim())
    .filter((line) => !line.startsWith('comment "fairlead layout'))
    .toSorted();
}

for (const affinity of [false, true]) {
  const kept = viewsOf(affinity ? services : services.slice(0, 3));
  const which = affinity ? 'with affinity' : 'without affinity';
  test.serial(
    `a list that becomes longer adds chains to the table, ${which}, and a restart goes on from there`,
    async (t) => {
      const space = openNftSpace(t);
      const first = await open(t, space, [4]);
      await replace(t, first, kept);
      const handle = await handleOf(space);
      for (const length of [17, 33, 100]) t.deepEqual((await first.update(listOf(length))).failures, []);
      const views = new Map([...kept, ...listOf(100)]);
      t.is(await replace(t, first, views), 0);
      const second = await open(t, space, [4]);
      t.is(await replace(t, second, views), 0);
      t.is(await handleOf(space), handle);
      const fresh = openNftSpace(t);
      await replace(t, await open(t, fresh, [4]), views);
      t.deepEqual(linesOf(space).length, linesOf(fresh).length);
      // One that was grown is made anew as any other, and chains of a process that was killed meanwhile are used.
      space.nft('flush map ip fairlead-proxy slots');
      t.true(await second.isDamaged());
      t.true((await replace(t, await open(t, space, [4]), views)) > 100);
      t.is(await handleOf(space), handle);
      space.nft('flush chain ip fairlead-proxy slots-90');
      t.true((await replace(t, await open(t, space, [4]), views)) > 0);
      t.not(await handleOf(space), handle);
      t.is(await replace(t, await open(t, space, [4]), views), 0);
      // A much longer one is quicker made anew.
      const remade = await handleOf(space);
      await replace(t, second, new Map([...kept, ...listOf(600)]));
      t.not(await handleOf(space), remade);
    },
  );
}

test.serial('clients keep their endpoints when the table is made anew', async (t) => {
  const space = openNftSpace(t);
  const backend = await open(t, space);
  await replace(t, backend, viewsOf(services));
  const client = '1:0 . 198.51.100.7';
  space.nft(`add element ip fairlead-proxy affinity { ${client} timeout 1h expires 50m : 1:1 }`);
  const slots = /jump slots-(\d+)/g;
  const before = [...space.nft('list map ip fairlead-proxy slots').matchAll(slots)].length;
  await backend.update(listOf(100));
  t.is([...space.nft('list map ip fairlead-proxy slots').matchAll(slots)].length, before + 112);
  t.regex(
    space.nft('list map ip fairlead-proxy affinity'),
    /1:0 \. 198\.51\.100\.7 timeout 1h expires 49m\d+s.* : 1:1/,
  );
});

test.serial('a table of another layout gives way in one transaction', async (t) => {
  const space = openNftSpace(t);
  space.load('table ip fairlead-proxy { comment "fairlead layout 0123456789abcdef"; chain old { }; }');
  const backend = await open(t, space, [4]);
  const before = await readGeneration(space.socket);
  await replace(
    t,
    backend,
    new Map(Array.from(viewsOf(services), ([name, ports]) => [name, ports.filter(isIPv4)])),
  );
  t.is(await readGeneration(space.socket), before + 1);
  t.notRegex(space.nft('list table ip fairlead-proxy'), /chain old/);
});

test.serial('the first services are written in pieces, and none that is not whole', async (t) => {
  const space = openNftSpace(t);
  const backend = await open(t, space);
  const views = new Map(
    Array.from({ length: 2_000 }, (_, number) => {
      const ip = `10.96.${number >> 8}.${number & 255}` as Ip;
      const [port] = portsOf({ number: 1, pods });
      const name = `default/s${number}`;
      return [
        name,
        [{ ...(port as ServicePortView), name, frontends: [{ kind: 'clusterIP' as const, ip, port: 80 }] }],
      ];
    }),
  );
  const before = await readGeneration(space.socket);
  await replace(t, backend, views);
  t.true((await readGeneration(space.socket)) > before + 2);
  t.is(await replace(t, await open(t, space), views), 0);
});

test.serial('one change is one transaction of its own elements, whatever the kind', async (t) => {
  const space = openNftSpace(t);
  const backend = await open(t, space);
  await replace(t, backend, viewsOf(services));
  for (const service of services) {
    const before = await readGeneration(space.socket);
    const [port] = portsOf(service);
    const changed = {
      ...(port as ServicePortView),
      frontends: [
        ...(port?.frontends ?? []),
        { kind: 'externalIP', ip: '192.0.2.99' as Ip, port: service.number } as const,
      ],
    };
    const its = [changed, ...portsOf(service).slice(1)];
    const { writes } = await backend.update(new Map([[`default/s${service.number}`, its]]));
    t.true(writes <= 2, `${service.number}: ${writes}`);
    t.is(await readGeneration(space.socket), before + 1);
  }
  const before = await readGeneration(space.socket);
  const { writes } = await backend.updateNode({
    ...facts,
    nodePortIps: { 4: ['192.0.2.2' as Ip], 6: 'all' },
  });
  t.deepEqual([writes, (await readGeneration(space.socket)) - before], [2, 1]);
});

test.serial("others' changes are seen, own ones are not; what others broke is mended", async (t) => {
  const space = openNftSpace(t);
  const backend = await open(t, space);
  await replace(t, backend, viewsOf(services));
  t.false(await backend.isDisturbed());
  await backend.update(viewsOf([{ number: 1, pods: ['one'] }]));
  t.false(await backend.isDisturbed());
  space.nft('flush map ip fairlead-proxy sticky');
  t.true(await backend.isDisturbed());
  await replace(t, backend, viewsOf(services));
  t.false(await backend.isDisturbed());
  t.is(await replace(t, backend, viewsOf(services)), 0);
});

test.serial('what is gone is seen at a glance, and nothing else is', async (t) => {
  const space = openNftSpace(t);
  const backend = await open(t, space);
  t.false(await backend.isDamaged());
  await replace(t, backend, viewsOf(services));
  t.false(await backend.isDamaged());
  const table = 'ip6 fairlead-proxy';
  const harms = [
    'flush ruleset',
    `delete table ${table}`,
    `flush table ${table}`,
    `flush chain ${table} nat-output`,
    `flush map ${table} services`,
    `flush map ${table} endpoints`,
    `flush set ${table} cluster-ips`,
  ];
  for (const harm of harms) {
    space.nft(harm);
    t.true(await backend.isDamaged(), harm);
    await replace(t, backend, viewsOf(services));
    t.false(await backend.isDamaged(), harm);
  }
  // The same by name, and of old.
  const list = space.nft(`list table ${table}`);
  space.nft(`delete table ${table}`);
  space.load(list);
  t.true(await backend.isDamaged());
  await replace(t, backend, viewsOf(services));
  space.nft('add table ip another');
  await backend.update(viewsOf([{ number: 1, pods: ['one'] }]));
  // Our own new table is no harm.
  await backend.updateNode({ ...facts, nodePortIps: { 4: 'all', 6: 'all' } });
  t.false(await backend.isDamaged());
  t.true(await backend.isDisturbed());
});

test.serial('a change that the kernel refuses makes the table anew', async (t) => {
  const space = openNftSpace(t);
  const backend = await open(t, space);
  await replace(t, backend, viewsOf(services));
  space.nft('flush map ip fairlead-proxy endpoints');
  const { failures } = await backend.update(viewsOf([{ number: 1, pods: ['one'] }]));
  t.deepEqual(failures, []);
  const views = viewsOf([...services.slice(1), { number: 1, pods: ['one'] }]);
  t.is(await replace(t, await open(t, space), views), 0);
});
