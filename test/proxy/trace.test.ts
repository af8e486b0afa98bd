import test from 'ava';
import { families, type Ip } from '../../core/address.ts';
import type { Views } from '../../proxy/backend.ts';
import { type DetectLocal, defaultPolicy, type ProxyPolicy } from '../../proxy/policy.ts';
import { type TraceFacts, type TracePacket, traceFrontend } from '../../proxy/trace.ts';
import { type Case, factsOf, outcome, packetOf, podsOf, policyOf, viewsOf, worlds } from './trace-world.ts';

/** kube-proxy's matrix: the rows by policy Cluster, externalTrafficPolicy: Local, internalTrafficPolicy: Local. */
const matrix = [
  ['pod', 'clusterIP', 'L+R', 'L+R', 'L'],
  ['pod', 'nodePort', 'L+R M', 'L+R', 'L+R M'],
  ['pod', 'LB', 'L+R M', 'L+R', 'L+R M'],
  ['pod', 'externalIP', 'L+R M', 'L+R', 'L+R M'],
  ['node', 'clusterIP', 'L+R M', 'L+R M', 'L M'],
  ['node', 'nodePort', 'L+R M', 'L+R M', 'L+R M'],
  ['node', 'LB', 'L+R M', 'L+R M', 'L+R M'],
  ['outside', 'clusterIP', 'L+R M', 'L+R M', 'L M'],
  ['outside', 'nodePort', 'L+R M', 'L', 'L+R M'],
  ['outside', 'LB', 'L+R M', 'L', 'L+R M'],
] as const;
const policies = ['', 'outside=Local', 'inside=Local'];

for (const family of families) {
  const world = worlds[family];
  for (const backend of ['nftables', 'iptables'] as const) {
    const run = (viewsCase: Omit<Case, 'world'>, packet: TracePacket, policy = policyOf(world)) =>
      traceFrontend(viewsOf({ world, ...viewsCase }), policy, factsOf(world, backend), packet);

    for (const [from, to, ...wanted] of matrix) {
      test(`IPv${family} ${backend}: ${from} → ${to} is kube-proxy's matrix`, (t) => {
        const got = policies.map((options) => outcome(run({ options }, packetOf(world, from, to))));
        t.deepEqual(got, [...wanted]);
      });
    }

    test(`IPv${family} ${backend}: without a detector nobody at a cluster IP is masqueraded, and pods are outside`, (t) => {
      const none = policyOf(world, { detectLocal: { mode: 'none' } });
      for (const from of ['pod', 'node', 'outside'] as const)
        t.is(outcome(run({}, packetOf(world, from, 'clusterIP'), none)), 'L+R');
      const options = 'outside=Local';
      t.is(outcome(run({ options }, packetOf(world, 'pod', 'nodePort'), none)), 'L');
      t.is(outcome(run({ options }, packetOf(world, 'node', 'nodePort'), none)), 'L+R M');
    });

    test(`IPv${family} ${backend}: masqueradeAll is for pods at cluster IPs, too`, (t) => {
      for (const detectLocal of [podsOf(world), { mode: 'none' } as const]) {
        const all = policyOf(world, { masqueradeAll: true, detectLocal });
        for (const from of ['pod', 'node', 'outside'] as const)
          t.is(outcome(run({}, packetOf(world, from, 'clusterIP'), all)), 'L+R M');
      }
    });

    test(`IPv${family} ${backend}: a pod that may meet itself is masqueraded only there`, (t) => {
      const packet = { ...packetOf(world, 'pod', 'clusterIP'), source: world.local as Ip };
      const { endpoints, masquerade } = run({}, packet);
      t.false(masquerade?.wanted);
      t.deepEqual(
        endpoints.map(({ ip, masqueraded, hairpin }) => [ip, masqueraded, hairpin]),
        [
          [world.local as Ip, true, true],
          [world.remote as Ip, false, false],
        ],
      );
    });

    test(`IPv${family} ${backend}: without endpoints all frontends refuse`, (t) => {
      for (const to of ['clusterIP', 'nodePort', 'LB', 'externalIP'] as const) {
        const trace = run({ endpoints: [] }, packetOf(world, 'outside', to));
        t.like(trace, { verdict: 'refused', reason: 'no endpoints' });
      }
    });

    test(`IPv${family} ${backend}: a policy Local without an endpoint here drops, but for those it exempts`, (t) => {
      const inside = { options: 'inside=Local', endpoints: ['remote'] } as const;
      for (const from of ['pod', 'node', 'outside'] as const) {
        const trace = run(inside, packetOf(world, from, 'clusterIP'));
        t.like(trace, { verdict: 'dropped', reason: 'internalTrafficPolicy: Local and none here' });
      }
      t.is(outcome(run(inside, packetOf(world, 'outside', 'nodePort'))), 'R M');
      const outside = { options: 'outside=Local', endpoints: ['remote'] } as const;
      const dropped = run(outside, packetOf(world, 'outside', 'LB'));
      t.like(dropped, { verdict: 'dropped', reason: 'externalTrafficPolicy: Local and none here' });
      t.is(outcome(run(outside, packetOf(world, 'pod', 'LB'))), 'R');
      t.is(outcome(run(outside, packetOf(world, 'node', 'LB'))), 'R M');
    });

    test(`IPv${family} ${backend}: source ranges are for the load balancer's addresses only, pods too`, (t) => {
      const options = `ranges=${world.allowed}`;
      t.is(outcome(run({ options }, packetOf(world, 'outside', 'LB'))), 'L+R M');
      const pod = run({ options }, packetOf(world, 'pod', 'LB'));
      t.like(pod, { verdict: 'dropped', reason: `${world.pod} is not in loadBalancerSourceRanges` });
      for (const to of ['clusterIP', 'nodePort', 'externalIP'] as const)
        t.is(run({ options }, packetOf(world, 'pod', to)).verdict, 'balanced');
      const empty = run({ options, endpoints: [] }, packetOf(world, 'pod', 'LB'));
      t.is(empty.verdict, backend === 'nftables' ? 'dropped' : 'refused');
    });

    test(`IPv${family} ${backend}: the node reaches its own load balancer when a range holds the node`, (t) => {
      const options = `ranges=${world.node}/${family === 4 ? 32 : 128}`;
      const packet = { ...packetOf(world, 'node', 'LB'), source: world.lb as Ip };
      t.is(run({ options }, packet).verdict, 'balanced');
      t.is(run({ options }, packetOf(world, 'outside', 'LB')).verdict, 'dropped');
    });

    test(`IPv${family} ${backend}: ports that a cluster IP has not, and addresses that no Service has`, (t) => {
      const isOurs = backend === 'nftables';
      const port = run({}, { ...packetOf(world, 'pod', 'clusterIP'), port: 81 });
      t.is(port.verdict, isOurs ? 'refused' : 'untouched');
      t.regex(port.reason, /is the cluster IP of default\/web, which has no port 81\/tcp/);
      const address = run({}, { ...packetOf(world, 'pod', 'clusterIP'), destination: world.unusedVip as Ip });
      t.is(address.verdict, isOurs ? 'dropped' : 'untouched');
      const node = run({}, { ...packetOf(world, 'pod', 'nodePort'), port: 30_081 });
      t.like(node, { verdict: 'untouched', reason: 'no Service has it; it is for this node itself' });
      t.is(run({}, { ...packetOf(world, 'pod', 'LB'), port: 81 }).verdict, 'untouched');
      t.is(run({}, { ...packetOf(world, 'pod', 'clusterIP'), protocol: 'udp' }).frontend, undefined);
    });
  }
}

const world = worlds[4];
const percents = (views: Views, backend: TraceFacts['backend'] = 'nftables') => {
  const packet = packetOf(world, 'pod', 'clusterIP');
  const { endpoints } = traceFrontend(views, policyOf(world), factsOf(world, backend), packet);
  return endpoints.map(({ percent }) => percent);
};

test('each endpoint has its share of the connections by its weight', (t) => {
  t.deepEqual(percents(viewsOf({ world })), [50, 50]);
  const weighted = viewsOf({ world, options: `weights={"${world.local}":3}` });
  t.deepEqual(percents(weighted), [75, 25]);
  t.deepEqual(percents(weighted, 'iptables'), [75, 25]);
  const idle = viewsOf({ world, options: `weights={"${world.local}":0}` });
  t.deepEqual(percents(idle), [0, 100]);
  const [first = 0, second = 0] = percents(viewsOf({ world, options: 'balancing=maglev' }));
  t.true(Math.abs(first - 50) < 1);
  t.is(first + second, 100);
});

test('affinity and source ranges are told with the frontend', (t) => {
  const views = viewsOf({ world, options: `affinity=600 ranges=${world.allowed}` });
  const trace = traceFrontend(views, policyOf(world), factsOf(world), packetOf(world, 'outside', 'LB'));
  t.deepEqual(trace.frontend, {
    service: 'default/web',
    portName: 'http',
    kind: 'loadBalancerIP',
    policy: 'Cluster',
    balancing: 'random',
    affinitySeconds: 600,
    sourceRanges: [world.allowed],
  });
});

test('node ports are open where the node has them open', (t) => {
  const packet = packetOf(world, 'outside', 'nodePort');
  const at = (facts: Partial<TraceFacts>, to: Partial<TracePacket> = {}, policy: Partial<ProxyPolicy> = {}) =>
    traceFrontend(
      viewsOf({ world }),
      policyOf(world, policy),
      { ...factsOf(world), ...facts },
      { ...packet, ...to },
    ).verdict;
  const all = { nodePortIps: { 4: 'all', 6: 'all' } } as const;
  const other = { destination: '192.0.2.7' as Ip };
  const localhost = { source: '127.0.0.1' as Ip, destination: '127.0.0.1' as Ip };
  t.is(at({}), 'balanced');
  t.is(at({}, other), 'untouched');
  t.is(at(all, other), 'untouched');
  t.is(at({ ...all, localIps: new Set(['192.0.2.7' as Ip]) }, other), 'balanced');
  const open = { localhostNodePorts: true, nodePortAddresses: [] };
  t.is(at(all, localhost, open), 'untouched');
  t.is(at({ ...all, backend: 'iptables' }, localhost, open), 'balanced');
  t.is(at({ ...all, backend: 'iptables' }, localhost), 'untouched');
});

test('127.0.0.1 → node port in iptables reaches both endpoints, masqueraded, whatever the policy', (t) => {
  const packet = {
    source: '127.0.0.1',
    destination: '127.0.0.1',
    port: 30_080,
    protocol: 'tcp',
  } as TracePacket;
  const policy = policyOf(world, { localhostNodePorts: true, nodePortAddresses: [] });
  const facts = { ...factsOf(world, 'iptables'), nodePortIps: { 4: 'all', 6: 'all' } } as const;
  for (const options of policies)
    t.is(outcome(traceFrontend(viewsOf({ world, options }), policy, facts, packet)), 'L+R M');
});

test('a source is a pod by its network or by the interface it comes in by', (t) => {
  const classOf = (detectLocal: DetectLocal, packet: Partial<TracePacket>) =>
    traceFrontend(new Map(), { ...defaultPolicy, detectLocal }, factsOf(world), {
      ...packetOf(world, 'outside', 'clusterIP'),
      ...packet,
    }).source.class;
  t.is(classOf(podsOf(world), { source: world.pod as Ip }), 'pod');
  t.is(classOf(podsOf(world), {}), 'outside');
  t.is(classOf({ mode: 'bridge', name: 'cni0' }, { interfaceName: 'cni0' }), 'pod');
  t.is(classOf({ mode: 'bridge', name: 'cni0' }, { interfaceName: 'eth0' }), 'outside');
  t.is(classOf({ mode: 'bridge', name: 'cni0' }, { source: world.node as Ip }), 'node');
  t.is(classOf({ mode: 'interfacePrefix', prefix: 'veth' }, { interfaceName: 'veth7' }), 'pod');
  t.is(classOf({ mode: 'none' }, { interfaceName: 'veth7', source: world.pod as Ip }), 'outside');
});
