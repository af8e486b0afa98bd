import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { pino } from 'pino';
import type { Cidr } from '../../core/address.ts';
import type { Backend } from '../../proxy/backend.ts';
import type { NodeFacts } from '../../proxy/policy.ts';
import { defaultPolicy } from '../../proxy/policy.ts';
import { startProxy } from '../../proxy/proxy.ts';
import { FakeApi } from '../proxy/fake-api.ts';
import { addLinks, openSpace } from './kernel-space.ts';

// Addresses come and go on a node whose node ports are open on networks.

const nodePortAddresses = ['10.0.0.0/8', 'fd00::/16'] as readonly string[] as readonly Cidr[];
const done = async () => ({ writes: 0, failures: [] });

test('node ports follow the addresses of the node', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  space.ip('address add 10.0.0.1/24 dev one\naddress add 192.0.2.1/24 dev one');
  const told: { facts: NodeFacts; atMs: number }[] = [];
  const backend: Backend = {
    name: 'nftables',
    replace: done,
    update: done,
    updateNode: async (facts) => {
      told.push({ facts, atMs: performance.now() });
      return await done();
    },
    isDisturbed: async () => false,
    isDamaged: async () => false,
    problems: () => new Map(),
    [Symbol.dispose]: () => {},
  };
  await using proxy = startProxy({
    client: new FakeApi(),
    nodeName: 'here',
    nodeAddresses: [],
    policy: { ...defaultPolicy, nodePortAddresses },
    namespaceFd: space.fd,
    log: pino({ level: 'silent' }),
    backend,
  });
  await proxy.synced;
  const ips = (family: 4 | 6) => told.at(-1)?.facts.nodePortIps[family] as unknown;
  const next = async (lines: string) => {
    const before = told.length;
    const startMs = performance.now();
    space.ip(lines);
    while (told.length === before && performance.now() - startMs < 60_000) await sleep(2);
    t.log(`${lines}: ${Math.round((told.at(-1)?.atMs ?? 0) - startMs)} ms`);
  };
  t.deepEqual(ips(4), ['10.0.0.1']);
  await next('address add 10.9.0.1/16 dev two');
  t.deepEqual(ips(4), ['10.0.0.1', '10.9.0.1']);
  await next('address add fd00::9/64 dev two nodad');
  t.deepEqual(ips(6), ['fd00::9']);
  await next('address del 10.0.0.1/24 dev one');
  t.deepEqual(ips(4), ['10.9.0.1']);
  await next('link del two');
  t.deepEqual([ips(4), ips(6)], [[], []]);
  const before = told.length;
  space.ip('address add 198.51.100.1/24 dev one');
  await sleep(50);
  t.is(told.length, before);
});
