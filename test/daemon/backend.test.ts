import test from 'ava';
import fc from 'fast-check';
import { chooseMac, vtepMac } from '../../daemon/backend/vtep.ts';
import type { Lease } from '../../daemon/lease.ts';
import { golden, leaseOf, planOf, planText, type TestNode } from './golden.ts';

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

test('of two nodes with one MAC address the older one has it, and the other is told by name', (t) => {
  const data = { VNI: 1, VtepMAC: '02:00:00:00:04:99' };
  const told = (...nodes: TestNode[]) => {
    const plan = planOf(v4({ Type: 'vxlan' }), [{ n: 1 }, ...nodes]);
    t.is(plan.fdb.size, 1);
    t.is(plan.peers, 1);
    return [
      [...plan.fdb.values()][0]?.destination as string,
      ...plan.problems.filter((text) => /^node-/.test(text)),
    ];
  };
  const advice = '; does another node have its name? Each needs one of its own (--node-name, NODE_NAME)';
  t.deepEqual(told({ n: 2, data, since: 7 }, { n: 3, data, since: 5 }), [
    '192.0.2.3',
    `node-2: its VtepMAC 02:00:00:00:04:99 is that of node-3${advice}`,
  ]);
  t.deepEqual(told({ n: 2, data }, { n: 3, data }), [
    '192.0.2.2',
    `node-3: its VtepMAC 02:00:00:00:04:99 is that of node-2${advice}`,
  ]);
  const ours = { VNI: 1, VtepMAC: '02:00:00:00:04:01' };
  t.deepEqual(told({ n: 2, data: ours }, { n: 3 }), [
    '192.0.2.3',
    `node-2: its VtepMAC 02:00:00:00:04:01 is that of this node${advice}`,
  ]);
});

test('a node whose name gives the MAC address of an older lease makes one of its lease, and keeps that', (t) => {
  const usual = vtepMac('node', 4);
  const lease = (n: number, since: number, mac = usual) => {
    return { ...leaseOf({ n, data: { VNI: 1, VtepMAC: mac } }, 'vxlan'), since };
  };
  const chosen = (...all: Lease[]) => {
    const [{ backendData } = {}] = all;
    return chooseMac('node', 4, {
      key: 'node-1',
      backendData,
      leases: new Map(all.map((one) => [one.key, one])),
    });
  };
  const own = vtepMac('node node-1', 4);
  t.is(chosen(), usual);
  t.is(chosen(lease(1, 5)), usual);
  t.is(chosen(lease(1, 5), lease(2, 7)), usual, 'the other one is later');
  t.is(chosen(lease(1, 5), lease(2, 3)), own);
  t.is(chosen(lease(1, 5, own), lease(2, 3)), own);
  t.is(chosen(lease(1, 5, own)), own, 'though the other has gone');
  t.is(chosen(lease(2, 3)), usual, 'no lease yet');
  const plan = planOf(v4({ Type: 'vxlan' }), [
    { n: 1, data: { VNI: 1, VtepMAC: vtepMac('node-1 node-1', 4) } },
    { n: 2, data: { VNI: 1, VtepMAC: vtepMac('node-1', 4) } },
  ]);
  t.is(plan.links.get('fl.1')?.mac, vtepMac('node-1 node-1', 4), 'what is announced is what the device has');
  t.true(
    plan.problems.some((text) =>
      text.startsWith(`this node: the VtepMAC ${vtepMac('node-1', 4)} of the name`),
    ),
  );
});

test('a node that announces what cannot be one machine’s address gets no rows, and is told by name', (t) => {
  const wrong: [number, 4 | 6, string, string][] = [
    [2, 4, '0.0.0.7', 'of no network'],
    [3, 4, '127.0.0.1', 'a loopback address'],
    [4, 4, '239.1.2.3', 'a multicast address'],
    [5, 4, '255.255.255.255', 'reserved'],
    [6, 6, '::1', 'a loopback address'],
    [7, 6, 'ff02::1', 'a multicast address'],
  ];
  for (const type of ['vxlan', 'host-gw', 'ipip', 'udp']) {
    const nodes = wrong.map(([n, family, text]): TestNode => {
      return { n, families: [4, 6], publicIps: { [family]: text }, backendType: type };
    });
    const plan = planOf(dual({ Type: type }), [{ n: 1, families: [4, 6] }, ...nodes]);
    for (const [n, family, text, what] of wrong) {
      t.true(
        plan.problems.includes(`node-${n}: it announces ${text}, which is ${what}`),
        plan.problems.join('\n'),
      );
      t.false(plan.routes.has(family === 4 ? `254 10.244.${n}.0/24` : `254 fd00:10:244:${n}::/64`));
    }
  }
});

test('a node in another network on the same link is reached directly', (t) => {
  const near = { n: 2, publicIps: { 4: '198.51.100.2' } };
  const far = { n: 3, publicIps: { 4: '203.0.113.3' } };
  for (const [type, more] of [
    ['host-gw', {}],
    ['vxlan', { DirectRouting: true }],
    ['ipip', { DirectRouting: true }],
  ] as const) {
    const plan = planOf(
      v4({ Type: type, ...more }),
      [{ n: 1 }, near, far],
      ['198.51.100.0/24', '2001:db8:2::/64'],
    );
    t.like(plan.routes.get('254 10.244.2.0/24'), { device: 'eth0', gateway: '198.51.100.2' }, type);
    t.not(plan.routes.get('254 10.244.3.0/24')?.device, 'eth0', type);
  }
});

test('a node is reached when there is a way to it in every family that both have', (t) => {
  for (const type of ['vxlan', 'host-gw', 'ipip', 'udp']) {
    const families = [4, 6] as const;
    const plan = planOf(dual({ Type: type }), [
      { n: 1, families },
      { n: 2, families },
      { n: 3 },
      { n: 4, families, subnets: { 6: 'fd00:99::/64' } },
    ]);
    t.is(plan.peers, 2, `${type}: not the one whose IPv6 subnet is outside of the network`);
  }
  const noted = planOf(dual({ Type: 'alloc' }), [{ n: 1 }, { n: 2 }, { n: 3 }]);
  t.is(noted.peers, 2, 'who carries packets to them is somebody else’s matter');
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
