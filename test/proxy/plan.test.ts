import { isDeepStrictEqual } from 'node:util';
import test from 'ava';
import fc from 'fast-check';
import type { Cidr, Ip } from '../../core/address.ts';
import { diff } from '../../core/diff.ts';
import type { Change } from '../../core/rows.ts';
import { decodeElements } from '../../kernel/netlink/nftables/decode-elements.ts';
import type { ElementPacker } from '../../kernel/netlink/nftables/element-packer.ts';
import { elementEncoder } from '../../kernel/netlink/nftables/encode-elements.ts';
import { type NftElement, type NftSet, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import { leastCapacity } from '../../proxy/nftables/capacity.ts';
import { MAX_IDS, MAX_SLOTS } from '../../proxy/nftables/elements.ts';
import { proxyLayout } from '../../proxy/nftables/layout.ts';
import { FamilyPlan } from '../../proxy/nftables/plan.ts';
import { placeEndpoints } from '../../proxy/nftables/slots.ts';
import type { Endpoint, Frontend, ServicePortView } from '../../proxy/view.ts';
import { expectedReach } from './model.ts';
import { reachability } from './reachability.ts';

const endpointsSet = proxyLayout({
  family: 4,
  detector: 'nothing',
  masqueradeAll: false,
  masqueradeBit: 14,
  nodePortsOn: 'all',
  capacity: leastCapacity,
}).sets.find(({ name }) => name === 'endpoints') as NftSet;

/** The elements that the plan yields, whether they are packed or not. */
function* filled(plan: FamilyPlan, views: Views): Generator<NftElement> {
  const packer = elementEncoder({ family: 'ip', table: 'test' }, endpointsSet).packer();
  for (const element of plan.fill(views, packer as ElementPacker)) {
    if ('message' in element) yield* decodeElements(endpointsSet, [element.message]);
    else yield element;
  }
}

type Views = Map<string, readonly ServicePortView[]>;
type Port = Omit<ServicePortView, 'name' | 'family'>;

const plain = {
  localEndpoints: [],
  internalPolicy: 'Cluster',
  externalPolicy: 'Cluster',
  balancing: 'random',
} as const;

const endpoint = (number: number, local = number % 3 === 0, weight = 1): Endpoint => ({
  ip: `10.244.${number >>> 8}.${number & 255}` as Ip,
  port: 8080,
  local,
  weight,
});
const someEndpoints = fc
  .uniqueArray(fc.integer({ min: 1, max: 40 }), { maxLength: 12 })
  .map((numbers) => numbers.map((number) => endpoint(number)));
const weightyEndpoints = fc
  .uniqueArray(fc.integer({ min: 1, max: 40 }), { maxLength: 6 })
  .chain((numbers) =>
    fc.tuple(
      ...numbers.map((number) => fc.nat(5).map((weight) => endpoint(number, number % 3 === 0, weight))),
    ),
  );
const protocols = fc.constantFrom('tcp' as const, 'udp' as const);
const names = ['a', 'b', 'c', 'd'];
const ranges = ['192.0.2.0/24', '192.0.2.128/25', '203.0.113.7/32'] as readonly string[] as readonly Cidr[];

/** What a port may be, whatever its frontends. */
const natures = {
  clusterEndpoints: fc.oneof(someEndpoints, weightyEndpoints),
  localEndpoints: fc.oneof(fc.constant<Endpoint[]>([]), someEndpoints),
  protocol: protocols,
  internalPolicy: fc.constantFrom('Cluster' as const, 'Local' as const),
  externalPolicy: fc.constantFrom('Cluster' as const, 'Local' as const),
  affinitySeconds: fc.constantFrom(undefined, undefined, 5, 10_800),
  sourceRanges: fc.option(fc.subarray([...ranges]), { nil: undefined }),
  balancing: fc.constantFrom('random' as const, 'random' as const, 'random' as const, 'maglev' as const),
  hasAnyEndpoints: fc.boolean(),
};

function frontendsOf(number: number, nodePort: number | null, balancer = number % 4): Frontend[] {
  return [
    { kind: 'clusterIP', ip: `10.96.0.${number}` as Ip, port: 80 },
    { kind: 'externalIP', ip: `198.51.100.${number}` as Ip, port: 80 },
    { kind: 'loadBalancerIP', ip: `198.51.100.${balancer}` as Ip, port: 80 },
    ...(nodePort === null ? [] : [{ kind: 'nodePort', port: nodePort } as const]),
  ];
}

/** Services that quarrel over few addresses and node ports. */
const quarrelling: fc.Arbitrary<Port> = fc.record({
  frontends: fc
    .tuple(fc.integer({ min: 1, max: 5 }), fc.option(fc.integer({ min: 30_000, max: 30_003 })))
    .chain(([number, nodePort]) => fc.subarray(frontendsOf(number, nodePort), { minLength: 1 })),
  ...natures,
});

/** Services as an API server lets them be: each address and node port is one's own. */
function peaceful(name: string): fc.Arbitrary<Port> {
  const number = 10 + names.indexOf(name);
  const frontends = fc.subarray(frontendsOf(number, 30_000 + number, number), { minLength: 1 });
  return fc.record({ frontends, ...natures });
}

/** As most services are. */
function plainly(name: string): fc.Arbitrary<Port> {
  const [clusterIp, , , nodePort] = frontendsOf(10 + names.indexOf(name), 30_000 + names.indexOf(name));
  return fc
    .record({
      frontends: fc.subarray([clusterIp, nodePort] as Frontend[], { minLength: 1 }),
      clusterEndpoints: someEndpoints,
      protocol: protocols,
    })
    .map((port) => ({ ...plain, ...port, hasAnyEndpoints: port.clusterEndpoints.length > 0 }));
}

interface Step {
  readonly service: string;
  readonly ports: readonly ServicePortView[];
}

function steps(ports: (name: string) => fc.Arbitrary<readonly Port[]>): fc.Arbitrary<Step[][]> {
  const step = fc.constantFrom(...names).chain((name) =>
    ports(name).map((its) => ({
      service: `default/${name}`,
      ports: its.map((port, index): ServicePortView => {
        return { ...port, name: `default/${name}:${index}`, family: 4 };
      }),
    })),
  );
  return fc.array(fc.array(step, { minLength: 1, maxLength: 3 }), { maxLength: 15 });
}

const quarrels = steps(() => fc.array(quarrelling, { maxLength: 2 }));
const peace = steps((name) => fc.array(peaceful(name), { maxLength: 1 }));
const plainness = steps((name) => fc.array(plainly(name), { maxLength: 1 }));

/** A kernel that refuses what the kernel refuses. */
class Kernel {
  readonly elements = new Map<string, NftElement>();

  apply(changes: readonly Change<string, NftElement>[]): void {
    for (const change of changes) {
      const there = this.elements.get(change.key);
      const fits = change.kind === 'create' ? there === undefined : there?.data === change.actual.data;
      if (!fits || (change.kind !== 'create' && there === undefined))
        throw new Error(`${change.kind} ${change.key}`);
      if (change.kind === 'delete') this.elements.delete(change.key);
      else this.elements.set(change.key, change.wanted);
    }
  }
}

/** Runs the batches through one plan and a kernel; `check` looks after each batch. */
function follow(
  batches: readonly (readonly Step[])[],
  check: (
    kernel: Kernel,
    views: Views,
    changes: readonly Change<string, NftElement>[],
    batch: readonly Step[],
  ) => void,
): void {
  const plan = FamilyPlan.of(4, new Map());
  const views: Views = new Map();
  const kernel = new Kernel();
  for (const batch of batches) {
    for (const { service, ports } of batch) plan.put(service, ports);
    const changes = plan.drain();
    kernel.apply(changes);
    if (!isDeepStrictEqual(kernel.elements, elementsOf(plan))) throw new Error('the plan lost track');
    check(kernel, views, changes, batch);
    for (const { service, ports } of batch) views.set(service, ports);
  }
}

function elementsOf(plan: FamilyPlan): Map<string, NftElement> {
  return new Map(Array.from(plan.elements(), (element) => [nftElementKey(element), element]));
}

const same = (a: NftElement, b: NftElement) => a.data === b.data;

test('after any changes, in any batches, connections meet what the views say, and nothing is left over', (t) => {
  fc.assert(
    fc.property(quarrels, (batches) => {
      follow(batches, (kernel, before, _changes, batch) => {
        const views = new Map([...before, ...batch.map(({ service, ports }) => [service, ports] as const)]);
        const expected = expectedReach(views, 4);
        const reached = reachability(kernel.elements, 4);
        if (!isDeepStrictEqual(inOrder(reached), inOrder(expected)))
          throw new Error(`${JSON.stringify(inOrder(reached))} is not ${JSON.stringify(inOrder(expected))}`);
        const fresh = elementsOf(FamilyPlan.of(4, views));
        t.deepEqual(sizes(kernel.elements), sizes(fresh));
      });
    }),
    { numRuns: 200 },
  );
});

function inOrder<V>(map: ReadonlyMap<string, V>): (readonly [string, V])[] {
  return [...map].sort(([a], [b]) => (a < b ? -1 : 1));
}

/** How many elements each set has. */
function sizes(elements: ReadonlyMap<string, NftElement>): Record<string, number> {
  return Object.fromEntries(
    inOrder(Map.groupBy(elements.values(), ({ set }) => set)).map(([set, all]) => [set, all.length]),
  );
}

test('a plan that yields its elements while it is made is the one made at once', (t) => {
  fc.assert(
    fc.property(quarrels, (batches) => {
      const views = new Map(batches.flat().map(({ service, ports }) => [service, ports]));
      const plan = FamilyPlan.of(4, new Map());
      const yielded = [...filled(plan, views)];
      const atOnce = elementsOf(FamilyPlan.of(4, views));
      t.deepEqual(
        inOrder(new Map(yielded.map((element) => [nftElementKey(element), element]))),
        inOrder(atOnce),
      );
      t.is(yielded.length, atOnce.size);
      t.deepEqual(elementsOf(plan), atOnce);
      t.deepEqual(plan.drain(), []);
    }),
    { numRuns: 50 },
  );
});

test('a plan made in slices is the one made at once', async (t) => {
  await fc.assert(
    fc.asyncProperty(quarrels, async (batches) => {
      const views = new Map(batches.flat().map(({ service, ports }) => [service, ports]));
      t.deepEqual(
        elementsOf(await FamilyPlan.inSlices(4, views, new Map())),
        elementsOf(FamilyPlan.of(4, views)),
      );
    }),
    { numRuns: 50 },
  );
});

test('a restart writes nothing, whatever way led to the state', (t) => {
  fc.assert(
    fc.property(peace, (batches) => {
      follow(batches, (kernel, before, _changes, batch) => {
        const views = new Map([...before, ...batch.map(({ service, ports }) => [service, ports] as const)]);
        const again = FamilyPlan.of(4, views, kernel.elements);
        const changes = diff(elementsOf(again), kernel.elements, same);
        if (changes.length > 0) throw new Error(JSON.stringify(changes));
      });
    }),
    { numRuns: 200 },
  );
  t.pass();
});

test('a change writes no more elements than its endpoints and frontends', (t) => {
  fc.assert(
    fc.property(plainness, (batches) => {
      follow(batches, (_kernel, before, changes, batch) => {
        if (batch.length !== 1) return;
        const [step] = batch as [Step];
        const bound = largestCost(before.get(step.service)?.[0], step.ports[0]);
        if (changes.length > bound)
          throw new Error(`${changes.length} elements written, ${bound} expected at most`);
      });
    }),
    { numRuns: 200 },
  );
  t.pass();
});

/** Two elements for each endpoint that goes (its slot, the last slot) or one that comes, hairpins, the frontends, and the cluster IP. */
function largestCost(before: ServicePortView | undefined, after: ServicePortView | undefined): number {
  const key = ({ ip }: Endpoint) => ip;
  const [old, now] = [before?.clusterEndpoints.map(key) ?? [], after?.clusterEndpoints.map(key) ?? []];
  const moved = before?.protocol !== after?.protocol;
  const came = moved ? now.length : now.filter((ip) => !old.includes(ip)).length;
  const gone = moved ? old.length : old.filter((ip) => !now.includes(ip)).length;
  const slots = moved ? came + gone : came + 2 * Math.max(0, gone - came);
  const ends = (port: ServicePortView | undefined) => port?.frontends.length ?? 0;
  return slots + came + gone + ends(before) + ends(after) + 1;
}

test('one endpoint of a thousand replaced is one slot', (t) => {
  const ports = (numbers: readonly number[]): ServicePortView[] => [
    {
      ...plain,
      name: 'default/web:',
      family: 4,
      protocol: 'tcp',
      frontends: [{ kind: 'clusterIP', ip: '10.96.0.1' as Ip, port: 80 }],
      clusterEndpoints: numbers.map((number) => endpoint(number, false)),
      hasAnyEndpoints: true,
    },
  ];
  const numbers = Array.from({ length: 1000 }, (_, index) => index + 1);
  const plan = FamilyPlan.of(4, new Map([['default/web', ports(numbers)]]));
  plan.put('default/web', ports(numbers.with(500, 2000)));
  t.deepEqual(
    plan.drain().map(({ kind }) => kind),
    ['update'],
  );
});

test('a list of more endpoints than slots uses as many as there are slots, and says so', (t) => {
  const endpoints = Array.from({ length: MAX_SLOTS + 5 }, (_, index) => endpoint(index, false));
  const frontends: Frontend[] = [{ kind: 'clusterIP', ip: '10.96.0.1' as Ip, port: 80 }];
  const port = {
    ...plain,
    name: 'default/web:',
    family: 4,
    protocol: 'tcp',
    frontends,
    clusterEndpoints: endpoints,
    hasAnyEndpoints: true,
  } as const;
  const plan = FamilyPlan.of(4, new Map([['default/web', [port]]]));
  t.is(plan.size().slots, MAX_SLOTS);
  t.is(plan.problems.get('default/web'), `${MAX_SLOTS + 5} endpoints: only ${MAX_SLOTS} are used`);
  plan.put('default/web', [{ ...port, clusterEndpoints: endpoints.slice(0, 3) }]);
  t.is(plan.problems.size, 0);
});

test('when all lists are taken, the next service is refused and named; one that goes makes room', (t) => {
  const ports = (name: string): ServicePortView[] => [
    {
      ...plain,
      name: `default/${name}:`,
      family: 4,
      protocol: 'tcp',
      frontends: [{ kind: 'nodePort', port: Number(name) }],
      clusterEndpoints: [endpoint(1, false)],
      hasAnyEndpoints: true,
    },
  ];
  const names = Array.from({ length: MAX_IDS }, (_, index) => `${index + 1}`);
  const plan = FamilyPlan.of(4, new Map(names.map((name) => [`default/${name}`, ports(name)])));
  plan.put('default/0', ports('0'));
  t.is(plan.problems.get('default/0'), 'too many services: no endpoint list is left for it');
  t.deepEqual(
    plan.drain().map(({ kind, key }) => [kind, key.split(' ')[0]]),
    [['create', 'no-endpoint-nodeports']],
  );
  plan.put('default/7', []);
  plan.put('default/0', ports('0'));
  t.is(plan.problems.size, 0);
});

test('whoever has a slot keeps it, unless a slot before it is left empty', (t) => {
  const someNames = fc.uniqueArray(fc.integer({ min: 1, max: 40 }).map(String), { maxLength: 12 });
  fc.assert(
    fc.property(someNames, someNames, (before, after) => {
      const placed = placeEndpoints(before, after, String);
      t.deepEqual([...placed].sort(), [...after].sort());
      const moved = placed.filter((name, slot) => before.includes(name) && before.indexOf(name) !== slot);
      t.true(moved.length <= Math.max(0, before.length - after.length));
    }),
  );
});
