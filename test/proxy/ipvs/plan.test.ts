import test from 'ava';
import type { Ip } from '../../../core/address.ts';
import type { Change } from '../../../core/rows.ts';
import { IpvsPlan, type PlanChanges } from '../../../proxy/ipvs/plan.ts';
import type { ServicePortView } from '../../../proxy/view.ts';

const ip = (text: string) => text as Ip;
const none: readonly never[] = [];

function portOf(endpoints: readonly string[], changes: Partial<ServicePortView> = {}): ServicePortView {
  const list = endpoints.map((text) => ({ ip: ip(text), port: 8080, local: false, weight: 1 }));
  return {
    name: 'default/web:http',
    family: 4,
    protocol: 'tcp',
    frontends: [
      { kind: 'clusterIP', ip: ip('10.96.0.1'), port: 80 },
      { kind: 'nodePort', port: 30_001 },
    ],
    clusterEndpoints: list,
    localEndpoints: [],
    internalPolicy: 'Cluster',
    externalPolicy: 'Cluster',
    hasAnyEndpoints: list.length > 0,
    balancing: 'random',
    ...changes,
  };
}

function openPlan({ schedulers = ['rr', 'wrr', 'mh'], drainMs = 1_000 } = {}) {
  const clock = { nowMs: 0 };
  const plan = new IpvsPlan({ scheduler: 'rr', drainMs, now: () => clock.nowMs });
  const tell = (nodePortIps: readonly string[], foreignIps = nodePortIps) =>
    plan.setNode(
      {
        schedulers: new Set(schedulers),
        nodePortIps: { 4: nodePortIps.map(ip), 6: [] },
        foreignIps: new Set(foreignIps.map(ip)),
      },
      { 4: none, 6: none },
    );
  tell(['192.0.2.1']);
  return { plan, clock, tell };
}

/** `+` made, `-` removed, `~` changed; servers with their scheduler, destinations with their weight. */
function text({ addresses, servers, destinations }: PlanChanges): string[] {
  const signs = { create: '+', update: '~', delete: '-' } as const;
  const lines = <V>(changes: readonly Change<string, V>[], say: (row: V) => string) =>
    changes.map((change) => {
      const row = change.kind === 'delete' ? change.actual : change.wanted;
      return `${signs[change.kind]} ${change.key}${say(row)}`;
    });
  return [
    ...lines(addresses, () => ''),
    ...lines(servers, ({ scheduler, persistenceSeconds = 0 }) =>
      persistenceSeconds === 0 ? ` ${scheduler}` : ` ${scheduler} ${persistenceSeconds}s`,
    ),
    ...lines(destinations, ({ weight }) => ` ${weight}`),
  ];
}

test('a service is an address, a server for each frontend and node address, and destinations of each', (t) => {
  const { plan } = openPlan();
  plan.put('default/web', [portOf(['10.244.1.5', '10.244.2.5'])]);
  t.deepEqual(text(plan.drain()), [
    '+ 10.96.0.1',
    '+ tcp 10.96.0.1:80 rr',
    '+ tcp 192.0.2.1:30001 rr',
    '+ tcp 10.96.0.1:80 > 10.244.1.5:8080 1',
    '+ tcp 10.96.0.1:80 > 10.244.2.5:8080 1',
    '+ tcp 192.0.2.1:30001 > 10.244.1.5:8080 1',
    '+ tcp 192.0.2.1:30001 > 10.244.2.5:8080 1',
  ]);
});

test('another endpoint touches the destinations that come and go, and no server', (t) => {
  const { plan } = openPlan();
  const web = (endpoints: string[]) =>
    portOf(endpoints, { frontends: [{ kind: 'clusterIP', ip: ip('10.96.0.1'), port: 80 }] });
  plan.put('default/web', [web(['10.244.1.5', '10.244.2.5'])]);
  plan.put('default/other', [
    portOf(['10.244.1.6'], { frontends: [{ kind: 'clusterIP', ip: ip('10.96.0.2'), port: 80 }] }),
  ]);
  plan.drain();
  plan.put('default/web', [web(['10.244.2.5', '10.244.3.5'])]);
  const changes = plan.drain();
  t.deepEqual(text(changes), [
    '~ tcp 10.96.0.1:80 > 10.244.1.5:8080 0',
    '+ tcp 10.96.0.1:80 > 10.244.3.5:8080 1',
  ]);
  t.deepEqual(changes.elements, { 4: [], 6: [] });
  plan.put('default/web', [web(['10.244.2.5', '10.244.3.5'])]);
  t.deepEqual(text(plan.drain()), []);
});

test('a TCP endpoint that goes is drained, with its server and address, and comes back from there', (t) => {
  const { plan, clock } = openPlan();
  const key = 'tcp 10.96.0.1:80 > 10.244.1.5:8080';
  plan.put('default/web', [portOf(['10.244.1.5'])]);
  plan.drain();
  clock.nowMs = 5;
  plan.put('default/web', []);
  t.deepEqual(text(plan.drain()), [`~ ${key} 0`, '~ tcp 192.0.2.1:30001 > 10.244.1.5:8080 0']);
  t.is(plan.draining.get(key)?.untilMs, 1_005);
  t.is(plan.drainingServers().length, 2);
  plan.put('default/web', [portOf(['10.244.1.5'])]);
  t.deepEqual(text(plan.drain()), [`~ ${key} 1`, '~ tcp 192.0.2.1:30001 > 10.244.1.5:8080 1']);
  t.is(plan.draining.size, 0);
  plan.put('default/web', []);
  plan.drain();
  plan.endDrain(key);
  t.deepEqual(text(plan.drain()), ['- 10.96.0.1', '- tcp 10.96.0.1:80 rr', `- ${key} 0`]);
});

test('a UDP endpoint goes at once', (t) => {
  const { plan } = openPlan();
  plan.put('default/dns', [portOf(['10.244.1.5'], { protocol: 'udp' })]);
  plan.drain();
  plan.put('default/dns', []);
  t.is(text(plan.drain()).filter((line) => line.startsWith('-')).length, 5);
  t.is(plan.draining.size, 0);
});

test('servers of a new owner of an address have its scheduler, and keep what drains of the old one', (t) => {
  const { plan } = openPlan();
  plan.put('default/b', [portOf(['10.244.1.5'])]);
  plan.drain();
  plan.put('default/a', [portOf(['10.244.2.5'], { affinitySeconds: 7 })]);
  plan.put('default/b', []);
  t.deepEqual(text(plan.drain()), [
    '~ tcp 10.96.0.1:80 rr 7s',
    '~ tcp 192.0.2.1:30001 rr 7s',
    '+ tcp 10.96.0.1:80 > 10.244.2.5:8080 1',
    '+ tcp 192.0.2.1:30001 > 10.244.2.5:8080 1',
    '~ tcp 10.96.0.1:80 > 10.244.1.5:8080 0',
    '~ tcp 192.0.2.1:30001 > 10.244.1.5:8080 0',
  ]);
});

test('an address that another device has is not put on ours', (t) => {
  const { plan, tell } = openPlan();
  const frontends = [{ kind: 'externalIP', ip: ip('192.0.2.9'), port: 80 }] as const;
  tell(['192.0.2.1'], ['192.0.2.1', '192.0.2.9']);
  plan.put('default/web', [portOf(['10.244.1.5'], { frontends })]);
  t.deepEqual(text(plan.drain()).slice(0, 1), ['+ tcp 192.0.2.9:80 rr']);
  tell(['192.0.2.1']);
  t.deepEqual(text(plan.drain()), ['+ 192.0.2.9']);
});

test('node ports follow the addresses of the node', (t) => {
  const { plan, tell } = openPlan();
  plan.put('default/web', [portOf(['10.244.1.5'])]);
  plan.drain();
  tell(['192.0.2.1', '192.0.2.2']);
  t.deepEqual(text(plan.drain()), ['+ tcp 192.0.2.2:30001 rr', '+ tcp 192.0.2.2:30001 > 10.244.1.5:8080 1']);
});

test('weights that differ ask for a scheduler that looks at them, Maglev for its own, and one that lacks is a problem', (t) => {
  const weighed = portOf([], {
    hasAnyEndpoints: true,
    clusterEndpoints: [
      { ip: ip('10.244.1.5'), port: 80, local: false, weight: 3 },
      { ip: ip('10.244.2.5'), port: 80, local: false, weight: 1 },
    ],
  });
  const schedulerOf = (schedulers: string[], port: ServicePortView) => {
    const { plan } = openPlan({ schedulers });
    plan.put('default/web', [port]);
    return [plan.servers.get('tcp 10.96.0.1:80')?.scheduler, plan.problems.get('default/web')];
  };
  t.deepEqual(schedulerOf(['rr', 'wrr'], weighed), ['wrr', undefined]);
  const maglev = portOf(['10.244.1.5'], { balancing: 'maglev' });
  t.deepEqual(schedulerOf(['rr', 'mh'], maglev), ['mh', undefined]);
  t.deepEqual(schedulerOf(['rr'], maglev), [
    'rr',
    'this kernel has no IPVS scheduler "mh": its connections are spread by "rr"',
  ]);
});

test('a node without IPv6 has no rows of it', (t) => {
  const plan = new IpvsPlan({ scheduler: 'rr', drainMs: 0, now: () => 0, families: [4] });
  const frontends = [{ kind: 'clusterIP', ip: ip('fd00:10:96::1'), port: 80 }] as const;
  plan.put('default/web', [portOf(['fd00:10:244::5'], { family: 6, frontends })]);
  t.deepEqual(text(plan.drain()), []);
});

test('policies are elements: how connections are marked, and what becomes of them', (t) => {
  const sets = (changes: Partial<ServicePortView>, endpoints: readonly string[] = ['10.244.1.5']) => {
    const { plan } = openPlan();
    plan.put('default/web', [portOf(endpoints, changes)]);
    return Array.from(plan.elements[4].values(), ({ set }) => set).filter((set) => set !== 'addresses');
  };
  t.deepEqual(sets({}), ['cluster-ip', 'served', 'external-nodeports', 'served-nodeports']);
  t.deepEqual(sets({ externalPolicy: 'Local' }), [
    'cluster-ip',
    'served',
    'external-local-nodeports',
    'inside-nodeports',
  ]);
  t.deepEqual(sets({ internalPolicy: 'Local' }), ['dropped', 'external-nodeports', 'served-nodeports']);
  t.deepEqual(sets({}, []), ['refused', 'refused-nodeports']);
  t.deepEqual(sets({ hasAnyEndpoints: true }, []), ['dropped', 'dropped-nodeports']);
});
