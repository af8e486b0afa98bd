import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { ENDPOINT_SLICES, SERVICES } from '../../kube/types.ts';
import { parseService, parseSlice } from '../proxy/objects.ts';
import { labName } from './lab.ts';
import { nft, ProxyLab, podAddresses, url } from './proxy-lab.ts';

// What stands in the kernel: that it stays, that it is small, that others can read it, and what a change costs.

let lab: ProxyLab;

test.before(async () => {
  lab = await ProxyLab.open(labName());
});

test.after.always(async () => {
  await lab?.[Symbol.asyncDispose]();
});

test.serial.beforeEach(async () => {
  await lab.startProxy();
  await lab.serve('web', { number: 10, nodePort: 30_010, pods: ['one', 'three'] });
  await lab.serve('empty', { number: 9, pods: [] });
});

test.serial.afterEach.always(async () => {
  await lab.stopProxy();
});

const families = ['ip', 'ip6'] as const;

async function countOf(kind: 'chain' | 'rule'): Promise<number> {
  const list = JSON.parse(await lab.nft('-j', 'list', 'ruleset')) as { nftables: object[] };
  return list.nftables.filter((entry) => kind in entry).length;
}

async function answers(): Promise<string[]> {
  const outcomes = ['10.96.0.10', '[fd00:10:96::10]'].map((host) =>
    lab.from('client').get(`http://${host}/`, 500),
  );
  return (await Promise.all(outcomes)).map((outcome) => (outcome.ok ? 'ok' : outcome.error));
}

test.serial('a restart writes nothing when nothing has changed', async (t) => {
  const before = await lab.nft('list', 'ruleset');
  await lab.stopProxy();
  const proxy = await lab.startProxy();
  t.like(proxy.status(), { writes: 0, services: 2, fullSyncs: 1 });
  t.is(await lab.nft('list', 'ruleset'), before);
});

test.serial('a restart writes what has changed meanwhile, and only that', async (t) => {
  await lab.stopProxy();
  lab.endpoints('web', ['one', 'two']);
  const proxy = await lab.startProxy();
  // For each family and each of three ports the one slot; and the endpoint on this node.
  t.is(proxy.status().writes, 2 * (3 + 1));
  t.deepEqual(await answers(), ['ok', 'ok']);
});

test.serial('the rules stay when the proxy stops', async (t) => {
  await lab.stopProxy();
  t.deepEqual(await answers(), ['ok', 'ok']);
});

test.serial('a packet that draws a slot which has just gone takes the first one', async (t) => {
  await lab.stopProxy();
  const list = await lab.nft('list', 'map', 'ip', 'fairlead-proxy', 'services');
  const [, id] = /10\.96\.0\.10 \. tcp \. 80 : (\w+):1002/.exec(list) ?? [];
  await lab.nft('delete', 'element', 'ip', 'fairlead-proxy', 'endpoints', `{ ${id}:0 . tcp . 1 }`);
  const outcomes = Array.from({ length: 20 }, () => lab.from('client').get('http://10.96.0.10/'));
  for (const outcome of await Promise.all(outcomes)) t.like(outcome, { ok: true, answer: { name: 'one' } });
});

const damages: readonly (readonly [string, readonly string[]])[] = [
  ['flushes all rules', ['flush', 'ruleset']],
  ['deletes a table', ['delete', 'table', 'ip6', 'fairlead-proxy']],
  [
    'deletes an element',
    ['delete', 'element', 'ip', 'fairlead-proxy', 'services', '{ 10.96.0.10 . tcp . 80 }'],
  ],
  ['flushes a map', ['flush', 'map', 'ip6', 'fairlead-proxy', 'endpoints']],
  ['flushes a chain', ['flush', 'chain', 'ip', 'fairlead-proxy', 'dispatch']],
];

for (const [what, args] of damages) {
  test.serial(`when somebody ${what}, it is there again`, async (t) => {
    const before = await lab.nft('list', 'ruleset');
    await sleep(450);
    const { writes } = lab.proxy.status();
    const startMs = performance.now();
    await lab.nft(...args);
    while (lab.proxy.status().writes === writes && performance.now() < startMs + 30_000) await sleep(5);
    t.log(`${Math.round(performance.now() - startMs)} ms`);
    t.true(lab.proxy.status().writes > writes);
    t.deepEqual(await answers(), ['ok', 'ok']);
    t.deepEqual((await lab.nft('list', 'ruleset')).split('\n').sort(), before.split('\n').sort());
  });
}

test.serial("others' rules are left alone, and changing them writes nothing of ours", async (t) => {
  await lab.nft('add table ip someone; add chain ip someone input { type filter hook input priority 0; }');
  const { writes } = lab.proxy.status();
  while (lab.proxy.status().fullSyncs === 1) await sleep(10);
  t.is(lab.proxy.status().writes, writes);
  t.true((await lab.nft('list', 'ruleset')).includes('table ip someone'));
  await lab.nft('delete', 'table', 'ip', 'someone');
});

test.serial('nft lists the tables, and its list loads again in an empty namespace', async (t) => {
  const list = await lab.nft('list', 'ruleset');
  for (const family of families) t.true(list.includes(`table ${family} fairlead-proxy`));
  const elsewhere = lab.otherNode.namespace;
  await nft(elsewhere, ['-f', '-'], list);
  t.is(await nft(elsewhere, ['list', 'ruleset']), list);
  await nft(elsewhere, ['flush', 'ruleset']);
});

test.serial('a thousand services have as many chains and rules as ten', async (t) => {
  const few = [await countOf('chain'), await countOf('rule')];
  await lab.changed(() => {
    for (let number = 0; number < 1_000; number += 1) {
      const [high, low] = [number >>> 8, number & 255];
      const service = `default/many-${number} ips=10.97.${high}.${low},fd00:10:97::${number} ports=http:80@${31_000 + number}`;
      lab.api.put(SERVICES, parseService(service));
      for (const [index, family] of ['IPv4', 'IPv6'].entries()) {
        const slice = `default/many-${number}-${index} service=many-${number} family=${family} ports=http:8080`;
        lab.api.put(
          ENDPOINT_SLICES,
          parseSlice(`${slice} ${podAddresses('one')[index]} ${podAddresses('three')[index]}`),
        );
      }
    }
  });
  t.is(lab.proxy.status().services, 1_002);
  t.deepEqual([await countOf('chain'), await countOf('rule')], few);
  for (const host of ['10.97.3.231', '[fd00:10:97::999]'])
    t.true((await lab.from('client').get(`http://${host}/`)).ok);
  t.true((await lab.from('outside').get(url(lab.node.addresses[0], 31_999))).ok);
  const { writes } = lab.proxy.status();
  await lab.changed(() => lab.endpoints('web', ['two', 'three']));
  t.is(lab.proxy.status().writes - writes, 2 * (3 + 2));
});

test.serial(
  'a list longer than any before gets its rules, and connections to others go on meanwhile',
  async (t) => {
    const [v4] = podAddresses('one');
    const ghosts = Array.from({ length: 99 }, (_, index) => `10.244.1.${100 + index}`);
    const chains = await countOf('chain');
    const client = lab.from('client');
    t.true((await client.hold('10.96.0.10', 81, 5)).ok);
    await lab.changed(() => {
      lab.api.put(SERVICES, parseService('default/long ips=10.96.0.20 ports=http:80'));
      lab.api.put(
        ENDPOINT_SLICES,
        parseSlice(`default/long-1 service=long ports=http:8080 ${v4} ${ghosts.join(' ')}`),
      );
    });
    t.is(await countOf('chain'), chains + 128 - 16);
    t.deepEqual(await answers(), ['ok', 'ok']);
    await lab.changed(() =>
      lab.api.put(ENDPOINT_SLICES, parseSlice(`default/long-1 service=long ports=http:8080 ${v4}`)),
    );
    t.true((await client.get('http://10.96.0.20/')).ok);
    t.deepEqual((await client.report()).failures, []);
  },
);
