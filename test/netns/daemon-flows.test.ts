import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import type { AgentArguments } from '../daemon/agent-process.ts';
import { until } from '../daemon/etcd-server.ts';
import { type Agent, Nodes, type Pod } from './daemon-nodes.ts';

// One TCP connection from pod to pod, with a byte each 10 ms, stays open whatever becomes of agents and store. Agents
// that are killed and started again: daemon-restart.test.ts.

const config = (type: string) => JSON.stringify({ Network: '10.244.0.0/16', Backend: { Type: type } });
const prefix = '/coreos.com/network/subnets/';

interface Flow {
  readonly nodes: Nodes;
  readonly agents: readonly [Agent, Agent];
  readonly a: Pod;
  /** Fails when the connection ended or stood still for good. */
  assertFlows(what: string): Promise<void>;
}

async function openFlow(
  t: ExecutionContext,
  type = 'vxlan',
  more: Partial<AgentArguments> = {},
): Promise<Flow> {
  const nodes = await Nodes.open(t, 2);
  const agents = [nodes.start(0, config(type), more), nodes.start(1, config(type), more)] as const;
  for (const agent of agents) await agent.until('the other node', ({ ready, peers }) => ready && peers === 1);
  const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
  const held = await a.workload.hold(b.ips[0] ?? '', 8081, 10);
  t.true(held.ok, JSON.stringify(held));
  const assertFlows = async (what: string) => {
    await a.workload.report();
    let back = 0;
    for (const end = performance.now() + 60_000; back <= 10 && performance.now() < end; ) {
      await sleep(1_000);
      const { failures, byServer } = await a.workload.report();
      t.deepEqual(failures, [], what);
      back += byServer.held ?? 0;
    }
    t.true(back > 10, `${what}: ${back} bytes came back in a minute`);
  };
  return { nodes, agents, a, assertFlows };
}

for (const type of ['vxlan', 'host-gw']) {
  test.serial(`over ${type} a restart of the store, and its loss with all leases, is not felt`, async (t) => {
    const { nodes, agents, assertFlows } = await openFlow(t, type);
    const before = agents[0].kernel();
    await nodes.etcd.stop('SIGKILL');
    await agents[0].until('the loss is told', ({ problems }) => problems.length > 0);
    await assertFlows('without a store');
    await nodes.etcd.run();
    await agents[0].until('all is well', ({ problems }) => problems.length === 0);
    await assertFlows('with the store again');
    t.is(agents[0].kernel(), before);

    const keys = await Promise.all(agents.map(async (agent) => (await agent.status()).lease ?? ''));
    await nodes.etcd.ctl('del', '--prefix', prefix);
    await until('both leases are back', async () => {
      const found = await nodes.etcd.ctl('get', '--prefix', '--keys-only', prefix);
      return keys.every((key) => found.includes(key));
    });
    await agents[0].until('its peer', ({ peers, problems }) => peers === 1 && problems.length === 0);
    await agents[1].until('its peer', ({ peers, problems }) => peers === 1 && problems.length === 0);
    await assertFlows('with leases made anew');
  });
}

test.serial(
  'a state directory that is gone, as after a reboot, costs neither the subnet nor a connection',
  async (t) => {
    const { nodes, agents, assertFlows } = await openFlow(t);
    const [{ lease }, before] = [await agents[0].status(), agents[0].kernel()];
    await agents[0].end('SIGKILL');
    for (const name of ['state/lease.json', 'subnet.env', 'cni.sock'])
      rmSync(`${agents[0].options.directory}/${name}`, { force: true });
    const again = nodes.start(0, config('vxlan'));
    const status = await again.ready();
    t.is(status.lease, lease);
    t.is(status.writes, 0);
    t.is(again.kernel(), before);
    await assertFlows('with the new agent');
  },
);

test.serial(
  'a store that is away for longer than leases live, and comes back compacted, is not felt',
  async (t) => {
    const { nodes, agents, assertFlows } = await openFlow(t, 'vxlan', { ttlSeconds: 3 });
    const leases = await Promise.all(agents.map(async (agent) => (await agent.status()).lease));
    nodes.etcd.pause();
    await sleep(6_000);
    await assertFlows('while nothing answers');
    nodes.etcd.resume();
    // In etcd the leases run out in this moment, and take their keys along.
    await until('both leases are there', async () => {
      const found = await nodes.etcd.ctl('get', '--prefix', '--keys-only', prefix);
      return leases.every((lease) => found.includes(lease ?? '?'));
    });
    const revision = /"revision":(\d+)/.exec(await nodes.etcd.ctl('get', 'x', '-w', 'json'))?.[1] ?? '';
    await nodes.etcd.ctl('compact', revision);
    for (const agent of agents)
      await agent.until('all is well', ({ peers, problems }) => peers === 1 && problems.length === 0);
    t.deepEqual(await Promise.all(agents.map(async (agent) => (await agent.status()).lease)), leases);
    await assertFlows('with the store again');
  },
);

test.serial('a clock that jumps costs neither the lease nor a connection', async (t) => {
  const { agents, assertFlows, nodes } = await openFlow(t, 'vxlan', { ttlSeconds: 10 });
  const { lease = '' } = await agents[0].status();
  for (const jump of ['+86400', '-172800']) {
    agents[0].say(`clock ${jump}`);
    await sleep(12_000); // longer than the lease lives unless it is renewed
    t.true((await nodes.etcd.ctl('get', prefix + lease)).includes('vxlan'), jump);
    t.deepEqual((await agents[0].status()).problems, []);
    await assertFlows(`clock ${jump}`);
  }
});
