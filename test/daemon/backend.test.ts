import test from 'ava';
import fc from 'fast-check';
import { vtepMac } from '../../daemon/lease.ts';
import { golden, planOf, planText, type TestNode } from './golden.ts';

const v4 = (backend: object) => JSON.stringify({ Network: '10.244.0.0/16', Backend: backend });
const v6 = (backend: object) =>
  JSON.stringify({ EnableIPv4: false, EnableIPv6: true, IPv6Network: 'fd00:10:244::/48', Backend: backend });
const dual = (backend: object) =>
  JSON.stringify({
    Network: '10.244.0.0/16',
    EnableIPv6: true,
    IPv6Network: 'fd00:10:244::/48',
    Backend: backend,
  });
const nodes = (families: (4 | 6)[]): TestNode[] => [1, 2, 3].map((n) => ({ n, families }));

for (const type of ['vxlan', 'host-gw'] as const) {
  test(`${type} connects IPv4 nodes`, (t) => {
    golden(t, `${type}-v4`, planText(planOf(v4({ Type: type }), nodes([4]))));
  });
  test(`${type} connects IPv6-only nodes`, (t) => {
    golden(t, `${type}-v6`, planText(planOf(v6({ Type: type }), nodes([6]))));
  });
  test(`${type} connects dual-stack nodes`, (t) => {
    golden(t, `${type}-dual`, planText(planOf(dual({ Type: type }), nodes([4, 6]))));
  });
}

test('vxlan takes VNI, port, MTU and learning from the configuration', (t) => {
  const config = v4({ Type: 'vxlan', VNI: 4097, Port: 4789, MTU: 9001, Learning: true });
  const plan = planOf(config, [{ n: 1 }, { n: 2, data: { VNI: 4097, VtepMAC: '02:00:00:00:04:02' } }]);
  golden(t, 'vxlan-options', planText(plan));
});

test('DirectRouting sends packets for neighbours in the same network past the tunnel', (t) => {
  const far = { n: 3, publicIps: { 4: '198.51.100.3' } };
  const plan = planOf(v4({ Type: 'vxlan', DirectRouting: true }), [{ n: 1 }, { n: 2 }, far]);
  golden(t, 'vxlan-direct', planText(plan));
});

test('host-gw reports peers that a router lies before', (t) => {
  const far = { n: 3, publicIps: { 4: '198.51.100.3' } };
  const plan = planOf(v4({ Type: 'host-gw' }), [{ n: 1 }, { n: 2 }, far]);
  golden(t, 'host-gw-far', planText(plan));
});

test('what other machines wrote is believed only as far as it can be true', (t) => {
  const mac = (text: unknown) => ({ VNI: 1, VtepMAC: text });
  const plan = planOf(v4({ Type: 'vxlan' }), [
    { n: 1 },
    { n: 2 },
    { n: 3, backendType: 'host-gw' },
    { n: 4, data: mac('01:00:5e:00:00:01') },
    { n: 5, data: mac('ff') },
    { n: 6, data: null },
    { n: 7, data: { VNI: 9, VtepMAC: '02:00:00:00:04:07' } },
    { n: 8, subnets: { 4: '192.0.2.0/24' } },
    { n: 9, subnets: { 4: '10.244.1.128/25' } },
    { n: 10, subnets: { 4: '10.244.2.0/24' } },
    { n: 11, subnets: { 4: '10.244.2.64/26' } },
    { n: 12, families: [6] },
  ]);
  golden(t, 'vxlan-untrue', planText(plan));
});

test('a node that announces this node’s address gets no rows, and is told by name', (t) => {
  for (const type of ['vxlan', 'host-gw', 'ipip', 'udp']) {
    const gone = { n: 2, publicIps: { 4: '192.0.2.1' }, backendType: type };
    const plan = planOf(v4({ Type: type }), [{ n: 1 }, gone, { n: 3 }]);
    t.deepEqual(
      [...plan.routes.values()].map(({ destination }) => destination as string),
      ['10.244.3.0/24'],
    );
    t.deepEqual(
      plan.problems.filter((text) => text.startsWith('node-')),
      ["node-2: it announces 192.0.2.1, which is this node's address: is it gone?"],
    );
  }
});

test('the same facts give the same rows in the same order, however the leases came in', (t) => {
  const all: TestNode[] = Array.from({ length: 9 }, (_, i) => ({ n: i + 1, families: [4, 6] }));
  const [self = { n: 1 }, ...peers] = all;
  const expected = planText(planOf(dual({ Type: 'vxlan' }), all));
  const shuffled = fc.shuffledSubarray(peers, { minLength: peers.length });
  fc.assert(
    fc.property(
      shuffled,
      (order) => planText(planOf(dual({ Type: 'vxlan' }), [self, ...order])) === expected,
    ),
    { numRuns: 50 },
  );
  t.pass();
});

test('the tunnel end of a node keeps its MAC address, and each node and family has another', (t) => {
  t.is(vtepMac('node-1', 4), vtepMac('node-1', 4));
  const macs = ['node-1', 'node-2'].flatMap((name) => [vtepMac(name, 4), vtepMac(name, 6)]);
  t.is(new Set(macs).size, 4);
  for (const mac of macs) t.regex(mac, /^.[26ae]:/, 'locally administered, unicast');
});
