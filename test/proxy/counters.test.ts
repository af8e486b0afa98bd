import { readFileSync } from 'node:fs';
import test from 'ava';
import fc from 'fast-check';
import type { Ip } from '../../core/address.ts';
import { Slices } from '../../kernel/nftables-slices.ts';
import { type Counted, renderCounters, ServiceCounters } from '../../proxy/counters.ts';
import { MovedBytes } from '../../proxy/counters-bytes.ts';
import { ProxyMetrics } from '../../proxy/metrics.ts';
import { KeptPackets } from '../../proxy/nftables/kept-packets.ts';
import type { Frontend, ServicePortView } from '../../proxy/view.ts';

/** An element that packets find, as the kernel has it. */
function simulate(kept: KeptPackets) {
  let count = 0;
  const there = () => new Map(count === 0 ? [] : [['a', count]]);
  return {
    packets: (more: number) => {
      count += more;
    },
    replace: () => {
      kept.takenAway(there());
      count = 0;
    },
    read: () => kept.take(async () => there()),
  };
}

test('connections are counted over every new value, and whenever one reads', async (t) => {
  const step = fc.oneof(
    fc.integer({ min: 1, max: 9 }),
    fc.constant('replace' as const),
    fc.constant('read' as const),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step), async (steps) => {
      const kept = new KeptPackets();
      const element = simulate(kept);
      let sum = 0;
      for (const each of steps) {
        if (typeof each === 'number') {
          element.packets(each);
          sum += each;
        } else await element[each]();
      }
      await element.read();
      t.is(kept.sum('a'), sum);
    }),
  );
});

test('what is read of an element that is replaced meanwhile does not count twice', async (t) => {
  const kept = new KeptPackets();
  await kept.take(async () => {
    kept.takenAway(new Map([['a', 7]]));
    return new Map([['a', 7]]);
  });
  t.is(kept.sum('a'), 7);
  await kept.take(async () => new Map([['a', 2]]));
  t.is(kept.sum('a'), 9);
});

test('a read that came before a table was replaced by what an earlier one says does not count twice', async (t) => {
  const kept = new KeptPackets();
  await kept.take(async () => new Map([['a', 9]]));
  kept.takenAway(new Map([['a', 8]]));
  t.is(kept.sum('a'), 9);
});

test('an element that somebody else made anew goes on from what was seen', async (t) => {
  const kept = new KeptPackets();
  for (const count of [5, 2, 3]) await kept.take(async () => new Map([['a', count]]));
  t.is(kept.sum('a'), 8);
});

test('a reading that fails changes nothing, and the next one counts', async (t) => {
  const kept = new KeptPackets();
  await kept.take(async () => new Map([['a', 5]]));
  await t.throwsAsync(kept.take(() => Promise.reject(new Error('no answer'))));
  t.is(kept.sum('a'), 5);
  await kept.take(async () => new Map([['a', 6]]));
  t.is(kept.sum('a'), 6);
});

test('what nobody asks for is forgotten', async (t) => {
  const kept = new KeptPackets();
  await kept.take(
    async () =>
      new Map([
        ['a', 5],
        ['b', 6],
      ]),
  );
  kept.forgetUnwanted();
  t.is(kept.sum('a'), 5);
  kept.forgetUnwanted();
  t.deepEqual([kept.sum('a'), kept.sum('b')], [5, 0]);
});

test('bytes are added up over the flows that come and go', (t) => {
  const moved = new MovedBytes();
  const reading = (...flows: readonly (readonly [string, number, number])[]) => {
    for (const [flow, original, reply] of flows) moved.add(flow, 'web', { original, reply });
    moved.endReading(() => true);
    return moved.sum('web');
  };
  t.deepEqual(reading(['1', 100, 1000]), { original: 100, reply: 1000 });
  t.deepEqual(reading(['1', 150, 1000], ['2', 60, 0]), { original: 210, reply: 1000 });
  t.deepEqual(reading(['2', 60, 50]), { original: 210, reply: 1050 });
  // The kernel may say the same flow twice.
  t.deepEqual(reading(['2', 60, 50], ['2', 60, 50]), { original: 210, reply: 1050 });
  // Another flow between the same ports.
  t.deepEqual(reading(['2', 40, 10]), { original: 250, reply: 1060 });
  moved.endReading(() => false);
  t.is(moved.sum('web'), undefined);
});

test('flows without an owner are not counted, nor what they had moved when they got one', (t) => {
  const moved = new MovedBytes();
  moved.add('1', undefined, { original: 500, reply: 500 });
  moved.endReading(() => true);
  moved.add('1', 'web', { original: 510, reply: 520 });
  moved.endReading(() => true);
  t.deepEqual(moved.sum('web'), { original: 10, reply: 20 });
});

function port(more: Partial<ServicePortView>): ServicePortView {
  return {
    name: 'shop/web:http',
    family: 4,
    protocol: 'tcp',
    frontends: [],
    clusterEndpoints: [],
    localEndpoints: [],
    internalPolicy: 'Cluster',
    externalPolicy: 'Cluster',
    hasAnyEndpoints: true,
    balancing: 'random',
    ...more,
  };
}

const external = (ip: string): Frontend => ({ kind: 'externalIP', ip: ip as Ip, port: 80 });
const views = new Map<string, ServicePortView[]>([
  [
    'shop/web',
    [
      port({
        frontends: [
          { kind: 'clusterIP', ip: '10.96.0.1' as Ip, port: 80 },
          external('192.0.2.1'),
          external('192.0.2.2'),
          // The same address: it is counted as what it was first.
          { kind: 'loadBalancerIP', ip: '192.0.2.1' as Ip, port: 80 },
          { kind: 'nodePort', port: 30080 },
        ],
      }),
      port({ family: 6, frontends: [{ kind: 'clusterIP', ip: 'fd00::1' as Ip, port: 80 }] }),
    ],
  ],
  [
    'dns/dns',
    [
      port({
        name: 'dns/dns:',
        protocol: 'udp',
        frontends: [{ kind: 'clusterIP', ip: '10.96.0.10' as Ip, port: 53 }],
      }),
    ],
  ],
  ['idle/idle', [port({ name: 'idle/idle:', frontends: [external('192.0.2.9')] })]],
]);
const connections: Readonly<Record<string, number>> = {
  '10.96.0.1': 5,
  'fd00::1': 2,
  '192.0.2.1': 3,
  '192.0.2.2': 4,
  '30080': 6,
  '10.96.0.10': 7,
};
const counted: Counted = {
  connections: {
    read: async () => {},
    to: (_, frontend) => connections[frontend.kind === 'nodePort' ? frontend.port : frontend.ip] ?? 0,
    forgetUnwanted: () => {},
  },
  bytes: {
    read: async () => {},
    of: ({ protocol }, kind) =>
      kind === 'clusterIP' ? { original: 100, reply: protocol === 'udp' ? 0 : 2000 } : undefined,
  },
};

test('the text of the counters', (t) => {
  const golden = new URL('counters.txt', import.meta.url);
  t.is(Slices.runAtOnce(renderCounters(views, counted)), readFileSync(golden, 'utf8'));
  t.is(Slices.runAtOnce(renderCounters(views, {})), '');
});

test('nothing in a name breaks a line', (t) => {
  const odd = new Map([['a/b"\\\n', [port({ name: 'a/b:p', frontends: [external('192.0.2.1')] })]]]);
  const text = Slices.runAtOnce(renderCounters(odd, { connections: counted.connections }));
  t.regex(text, /\{namespace="a",name="b\\"\\\\\\n",port="p",/);
});

test('the counters follow the proxy’s own metrics; scrapes close together ask the kernel once', async (t) => {
  let asked = 0;
  const once = {
    ...counted.connections,
    read: async () => {
      asked += 1;
    },
  } as Counted['connections'];
  const counters = new ServiceCounters({
    connections: once,
    views: () => views,
    onFailure: ({ message }) => t.fail(message),
  });
  const metrics = new ProxyMetrics({ backend: 'nftables', families: [4], version: '0', startedAtMs: 0 });
  metrics.count(counters);
  const [first, second] = await Promise.all([metrics.text(), metrics.text()]);
  t.is(first.match(/^fairlead_proxy_service_connections_total\{/gm)?.length, 4);
  t.regex(first, /^kubeproxy_/m);
  t.regex(second, /^fairlead_/m);
  await metrics.text();
  t.is(asked, 1);
});

test('a kernel that does not answer leaves what it said before', async (t) => {
  const failures: string[] = [];
  const broken = {
    ...counted.connections,
    read: () => Promise.reject(new Error('no')),
  } as Counted['connections'];
  const onFailure = ({ message }: Error) => void failures.push(message);
  await using counters = new ServiceCounters({ connections: broken, views: () => views, onFailure });
  t.regex(await counters.text(), /frontend_kind="nodePort"\} 6\n/);
  t.deepEqual(failures, ['no']);
});
