import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import type { AgentArguments } from '../daemon/agent-process.ts';
import { until } from '../daemon/etcd-server.ts';
import { LabApi } from './daemon-api.ts';
import { type Agent, Nodes, type Pod } from './daemon-nodes.ts';

// One TCP connection from pod to pod, with a byte each 10 ms, stays open whatever becomes of agents and store. Agents
// that are killed and started again: daemon-restart.test.ts.

const config = (type: string) => JSON.stringify({ Network: '10.244.0.0/16', Backend: { Type: type } });
const IP = '/usr/sbin/ip';
const prefix = '/coreos.com/network/subnets/';

interface Flow {
  readonly nodes: Nodes;
  readonly agents: readonly [Agent, Agent];
  readonly a: Pod;
  readonly assertFlows: AssertFlows;
}

/** Fails when the connection ended or stood still for good. */
type AssertFlows = (what: string) => Promise<void>;

async function openFlow(
  t: ExecutionContext,
  type = 'vxlan',
  more: Partial<AgentArguments> = {},
): Promise<Flow> {
  const nodes = await Nodes.open(t, 2);
  return await startFlow(t, nodes, type, more);
}

async function startFlow(
  t: ExecutionContext,
  nodes: Nodes,
  type: string,
  more: Partial<AgentArguments>,
): Promise<Flow> {
  const agents = [nodes.start(0, config(type), more), nodes.start(1, config(type), more)] as const;
  for (const agent of agents) await agent.until('the other node', ({ ready, peers }) => ready && peers === 1);
  const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
  return { nodes, agents, a, assertFlows: await hold(t, a, b) };
}

async function hold(t: ExecutionContext, a: Pod, b: Pod): Promise<AssertFlows> {
  const held = await a.workload.hold(b.ips[0] ?? '', 8081, 10);
  t.true(held.ok, JSON.stringify(held));
  return async (what) => {
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

/** All that a node has of ours is gone, as after a reboot: its own interface, and nothing else, is there again. */
async function reboot(agent: Agent): Promise<void> {
  await agent.end('SIGKILL');
  const links = JSON.parse(agent.run('ip', '-j', 'link')) as { ifname: string }[];
  for (const { ifname } of links) {
    if (!['lo', 'eth0'].includes(ifname))
      spawnSync(IP, ['-n', agent.machine.namespace, 'link', 'del', ifname]);
  }
  for (const family of ['-4', '-6']) agent.run('ip', family, 'route', 'flush', 'proto', '88');
  agent.run('ip', 'neigh', 'flush', 'all');
  agent.run('/usr/sbin/nft', 'flush', 'ruleset');
  agent.run('sysctl', '-qw', 'net.ipv4.ip_forward=0', 'net.bridge.bridge-nf-call-iptables=0');
  rmSync(agent.options.directory, { recursive: true });
}

test.serial(
  'a node that reboots has its subnet, its MAC address and all its rows again; others feel nothing',
  async (t) => {
    const nodes = await Nodes.open(t, 3);
    const [agent, ...others] = (await nodes.startAll(3, config('vxlan'))) as [Agent, Agent, Agent];
    const [b, c] = [await nodes.pod(1, 'b'), await nodes.pod(2, 'c')];
    const assertFlows = await hold(t, b, c);
    const [{ lease, subnets }, before] = [await agent.status(), agent.kernel()];
    t.regex(before, /fl\.1.* link\/ether/);
    const rowsOfOthers = others.map((other) => other.kernel());
    await reboot(agent);
    t.notRegex(agent.kernel(), /fl\.1|10\.244|fairlead/);
    const again = nodes.start(0, config('vxlan'));
    const status = await again.ready();
    t.deepEqual([status.lease, status.subnets], [lease, subnets]);
    t.is(again.kernel(), before);
    t.is(agent.run('sysctl', '-n', 'net.ipv4.ip_forward').trim(), '1');
    const a = await nodes.pod(0, 'a');
    const url = `http://${c.ips[0]}:8080/`;
    await until('a new pod reaches the others', async () => (await a.workload.get(url, 5_000)).ok);
    await assertFlows('after the reboot');
    t.deepEqual(
      others.map((other) => other.kernel()),
      rowsOfOthers,
    );
  },
);

for (const type of ['host-gw', 'udp']) {
  test.serial(`over ${type} an agent that is killed and started again is not felt`, async (t) => {
    const { nodes, agents, assertFlows } = await openFlow(t, type);
    const before = agents[0].kernel();
    await agents[0].end('SIGKILL');
    // With udp packets go through the agent: they wait.
    if (type === 'host-gw') await assertFlows('without an agent');
    const again = nodes.start(0, config(type));
    await again.ready();
    await assertFlows('with the new agent');
    t.is(again.kernel(), before);
  });
}

test.serial(
  'an API server that is killed, that hangs, and that has forgotten what was watched is not felt',
  async (t) => {
    const nodes = await Nodes.open(t, 2);
    const api = await LabApi.start(t, nodes);
    const { agents, assertFlows } = await startFlow(t, nodes, 'vxlan', { api: api.server });
    const [agent] = agents;
    const before = agent.kernel();
    await api.stop();
    await agent.until('the loss is told', ({ problems }) => problems.length > 0);
    await assertFlows('without an API server');
    const annotation = (name: string) => `flannel.alpha.coreos.com/${name}`;
    await api.joinUnseen('node-9', {
      [annotation('kube-subnet-manager')]: 'true',
      [annotation('backend-type')]: 'vxlan',
      [annotation('public-ip')]: '172.30.0.99',
      [annotation('backend-data')]: '{"VNI":1,"VtepMAC":"02:00:00:00:09:09"}',
    });
    t.is(agent.kernel(), before);
    await api.start();
    await agent.until('all is read again', ({ peers, problems }) => peers === 2 && problems.length === 0);
    t.regex(agent.kernel(), /02:00:00:00:09:09 dev fl\.1 dst 172\.30\.0\.99/);
    await assertFlows('with the API server again');
    api.pause();
    await sleep(3_000);
    await assertFlows('while nothing answers');
    api.resume();
    await agent.until('all is well', ({ problems }) => problems.length === 0);
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
