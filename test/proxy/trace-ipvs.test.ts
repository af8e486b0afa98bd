import test from 'ava';
import { families, type Ip } from '../../core/address.ts';
import type { ProxyPolicy } from '../../proxy/policy.ts';
import { type TraceFacts, type TracePacket, traceFrontend } from '../../proxy/trace.ts';
import { type Case, factsOf, outcome, packetOf, policyOf, viewsOf, worlds } from './trace-world.ts';

for (const family of families) {
  const world = worlds[family];
  const run = (
    viewsCase: Omit<Case, 'world'>,
    packet: TracePacket,
    policy: ProxyPolicy = policyOf(world),
    facts: Partial<TraceFacts> = {},
  ) =>
    traceFrontend(viewsOf({ world, ...viewsCase }), policy, { ...factsOf(world, 'ipvs'), ...facts }, packet);
  const to = (
    ...words: [from: 'pod' | 'node' | 'outside', to: 'clusterIP' | 'nodePort' | 'LB' | 'externalIP']
  ) => packetOf(world, ...words);

  test(`IPv${family} ipvs: all clients of a frontend have the same endpoints`, (t) => {
    const options = 'outside=Local';
    t.is(outcome(run({ options }, to('pod', 'LB'))), 'L');
    t.is(outcome(run({ options }, to('node', 'LB'))), 'L M');
    t.is(outcome(run({ options, endpoints: ['remote'] }, to('pod', 'LB'))), 'R');
    t.is(outcome(run({ options, endpoints: ['remote'] }, to('outside', 'LB'))), 'dropped');
    t.is(outcome(run({}, to('outside', 'nodePort'))), 'L+R M');
    t.is(outcome(run({ options: 'inside=Local', endpoints: ['remote'] }, to('pod', 'clusterIP'))), 'dropped');
    t.is(run({ endpoints: [] }, to('pod', 'clusterIP')).verdict, 'refused');
  });

  test(`IPv${family} ipvs: who connects from a Service’s address is masqueraded at cluster IPs`, (t) => {
    const none = policyOf(world, { detectLocal: { mode: 'none' } });
    const own = { ...to('node', 'clusterIP'), source: world.vip as Ip };
    t.is(outcome(run({}, own)), 'L+R M');
    t.is(outcome(run({}, own, none)), 'L+R M');
    t.is(outcome(run({}, to('node', 'clusterIP'))), 'L+R M');
    t.is(outcome(run({}, to('node', 'clusterIP'), none)), 'L+R');
    t.is(outcome(run({}, to('pod', 'clusterIP'), none)), 'L+R');
  });

  test(`IPv${family} ipvs: ports that no Service has are refused at every address on our device`, (t) => {
    for (const kind of ['clusterIP', 'LB', 'externalIP'] as const) {
      const trace = run({}, { ...to('pod', kind), port: 81 });
      t.is(trace.verdict, 'refused', kind);
      t.regex(trace.reason, /is an address of default\/web, which has no port 81\/tcp/);
    }
    // A node port is one of the node's addresses, and these are not.
    const all = { nodePortIps: { 4: 'all', 6: 'all' } } as const;
    const atService = { ...to('pod', 'nodePort'), destination: world.lb as Ip };
    t.is(run({}, atService, undefined, all).verdict, 'refused');
    t.is(run({}, to('pod', 'nodePort'), undefined, all).verdict, 'balanced');
    // Connections that go on keep an address of a Service that has gone.
    const gone = run({}, { ...to('pod', 'LB'), destination: world.unusedVip as Ip }, undefined, {
      heldIps: new Set([world.unusedVip as Ip]),
    });
    t.like(gone, { verdict: 'refused' });
    t.regex(gone.reason, /is held for connections that go on, and no Service has it/);
  });

  test(`IPv${family} ipvs: addresses of a ServiceCIDR that no Service has are dropped`, (t) => {
    const trace = run({}, { ...to('pod', 'clusterIP'), destination: world.unusedVip as Ip });
    t.like(trace, { verdict: 'dropped' });
    t.regex(trace.reason, /and no Service has it/);
    const node = run({}, { ...to('pod', 'nodePort'), port: 30_081 });
    t.like(node, { verdict: 'untouched', reason: 'no Service has it; it is for this node itself' });
  });

  test(`IPv${family} ipvs: an address that another device has keeps its other ports`, (t) => {
    const facts = { heldIps: new Set<Ip>() };
    t.is(run({}, to('pod', 'LB'), undefined, facts).verdict, 'balanced');
    t.is(run({}, { ...to('pod', 'LB'), port: 81 }, undefined, facts).verdict, 'untouched');
  });

  test(`IPv${family} ipvs: shares are by weight`, (t) => {
    const { endpoints } = run({ options: `weights={"${world.local}":3}` }, to('pod', 'clusterIP'));
    t.deepEqual(
      endpoints.map(({ percent }) => percent),
      [75, 25],
    );
  });
}
