import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { until } from '../daemon/etcd-server.ts';
import { assertRepairs, commonBreaks, deviceBreaks, routeBreaks, settingsOf } from './daemon-breaks.ts';
import { type Agent, cni, inside, Nodes, steady } from './daemon-nodes.ts';

const config = JSON.stringify({
  Network: '10.244.0.0/16',
  EnableIPv6: true,
  IPv6Network: 'fd00:10:244::/48',
  Backend: { Type: 'vxlan' },
});
const nft = '/usr/sbin/nft';

test.serial('kill -9 and restart write nothing to the kernel, and no connection notices', async (t) => {
  const nodes = await Nodes.open(t, 2);
  const [agent] = (await nodes.startAll(2, config)) as [Agent, Agent];
  const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
  const held = await a.workload.hold(b.ips[0] ?? '', 8081, 10);
  t.true(held.ok, JSON.stringify(held));
  const before = agent.kernel();
  const files = [agent.file('subnet.env'), agent.file('state/lease.json')];

  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    await nodes.agents.get('node-1')?.end(signal);
    t.is(agent.kernel(), before, `after ${signal} the data plane stays`);
    const again = nodes.start(0, config);
    const status = await again.ready();
    t.is(status.writes, 0);
    t.is(status.peers, 1);
    await sleep(500); // its own notifications, if there were any, would make more passes
    t.is((await again.status()).writes, 0);
    t.is(again.kernel(), before);
    t.deepEqual([again.file('subnet.env'), again.file('state/lease.json')], files);
  }
  const report = await a.workload.report();
  t.deepEqual(report.failures, []);
  t.true(report.requests > 50, `${report.requests} exchanges on the one connection`);
});

test.serial(
  'without its store a node keeps its data plane and attaches pods from its last lease',
  async (t) => {
    const nodes = await Nodes.open(t, 2);
    const [first] = (await nodes.startAll(2, config)) as [Agent, Agent];
    const b = await nodes.pod(1, 'b');
    await nodes.etcd.stop();
    await first.until('the loss is told', ({ problems }) => problems.length > 0);
    const before = first.kernel();
    await first.end('SIGKILL');

    const again = nodes.start(0, config);
    await until('the last lease is in use', () =>
      again.log.some(({ message }) => message === 'pods can be attached'),
    );
    await until('the problem is told', () =>
      again.log.some(({ problem }) => /ECONNREFUSED/.test(problem ?? '')),
    );
    const a = await nodes.pod(0, 'a');
    await until('the new pod reaches the other node', async () => {
      return (await a.workload.get(`http://${b.ips[0]}:8080/`, 5_000)).ok;
    });
    const status = await again.status();
    t.false(status.synced);
    t.false(status.ready);
    t.is(status.writes, 0);
    for (const line of before.split('\n')) t.true(again.kernel().includes(line), `still there: ${line}`);
    const told = again.log.filter(({ problem }) => /no lease/.test(problem ?? ''));
    t.is(told.length, 1, 'however often it is tried');

    await nodes.etcd.run();
    const well = await again.until('all is well', ({ ready, problems }) => ready && problems.length === 0);
    t.is(well.writes, 0);
    t.is(well.peers, 1);
  },
);

test.serial('a first start without the store leaves nothing behind and says why', async (t) => {
  const nodes = await Nodes.open(t, 1);
  await nodes.etcd.stop();
  const state = () => [nodes.machine(0).namespace].map((name) => nodeKernel(name)).join();
  const before = state();
  const agent = nodes.start(0, config);
  await until('the problem is told', () =>
    agent.log.some(({ problem }) => /ECONNREFUSED/.test(problem ?? '')),
  );
  const namespace = await nodes.lab.podNamespace('early');
  const socket = `${agent.options.directory}/cni.sock`;
  const answer = t.throws(() => cni('ADD', nodes.machine(0), socket, 'early', namespace)) as Error & {
    stdout: string;
  };
  t.is(JSON.parse(answer.stdout).code, 11, 'try again later');
  await agent.end('SIGTERM');
  t.is(state(), before);
});

test.serial('what others break is whole again', async (t) => {
  const nodes = await Nodes.open(t, 2);
  const [agent] = (await nodes.startAll(2, config)) as [Agent, Agent];
  await assertRepairs(t, agent, {
    ...routeBreaks(agent),
    'a neighbour deleted': () => agent.run('ip', 'neigh', 'flush', 'dev', 'fl.1', 'nud', 'permanent'),
    'an FDB entry deleted': () => {
      const [mac = ''] = agent.run('bridge', 'fdb', 'show', 'dev', 'fl.1').split(' ');
      agent.run('bridge', 'fdb', 'del', mac, 'dev', 'fl.1');
    },
    ...deviceBreaks(agent, 'fl.1'),
    ...commonBreaks(agent),
  });
  t.regex(settingsOf(agent), /ip_forward = 1\n.*forwarding = 1\n.*iptables = 1\n.*accept_ra = 2/);
});

for (const [type, device] of [
  ['host-gw', undefined],
  ['udp', 'fl-udp'],
] as const) {
  test.serial(`what others break is whole again over ${type}`, async (t) => {
    const nodes = await Nodes.open(t, 2);
    const [agent, peer] = (await nodes.startAll(2, config.replace('vxlan', type))) as [Agent, Agent];
    const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
    const subnet = (await peer.status()).subnets[0] ?? '';
    await assertRepairs(t, agent, {
      ...routeBreaks(agent),
      'a route that leads elsewhere': () =>
        agent.run('ip', 'route', 'replace', subnet, 'via', '172.30.0.254', 'proto', '88'),
      ...(device && deviceBreaks(agent, device)),
    });
    for (const url of [`http://${b.ips[0]}:8080/`, `http://[${b.ips[1]}]:8080/`])
      await until(`${url} answers`, async () => (await a.workload.get(url, 5_000)).ok);
  });
}

test.serial('another backend after a restart leaves nothing of the first one, and pods stay', async (t) => {
  const nodes = await Nodes.open(t, 2);
  const agents = await nodes.startAll(2, config);
  const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
  const { subnets } = (await agents[0]?.status()) ?? {};
  for (const agent of agents) await agent.end('SIGTERM');
  const [agent] = (await nodes.startAll(2, config.replace('vxlan', 'host-gw'))) as [Agent];
  t.deepEqual((await agent.status()).subnets, subnets);
  t.is(agent.run('ip', 'link', 'show', 'type', 'vxlan'), '');
  t.regex(agent.run('ip', 'route'), /10\.244\.\d+\.0\/24 via 172\.30\.0\.12 dev eth0 proto 88/);
  for (const url of [`http://${b.ips[0]}:8080/`, `http://[${b.ips[1]}]:8080/`]) {
    await until(`${url} answers`, async () => (await a.workload.get(url, 5_000)).ok);
  }
});

test.serial(
  'a foreign route to a peer is told by name and left alone, and ours comes when it goes',
  async (t) => {
    const nodes = await Nodes.open(t, 2);
    const [agent, peer] = (await nodes.startAll(2, config)) as [Agent, Agent];
    const before = agent.kernel();
    const { subnets, lease } = await peer.status();
    const [subnet = ''] = subnets;
    agent.run('ip', 'route', 'replace', subnet, 'dev', 'eth0');
    const told = await agent.until('the problem', ({ problems }) => problems.length > 0);
    t.deepEqual(told.problems, [`${lease}: route 254 ${subnet}: RTM_NEWROUTE ${subnet}: EEXIST`]);
    t.true(agent.run('ip', 'route').includes(`${subnet} dev eth0 scope link`));
    agent.run('ip', 'route', 'del', subnet, 'dev', 'eth0');
    await agent.until('no problem', ({ problems }) => problems.length === 0);
    t.is(agent.kernel(), before);
  },
);

test.serial('pods that come and go are no work for the agent', async (t) => {
  const nodes = await Nodes.open(t, 1);
  const [agent] = (await nodes.startAll(1, config)) as [Agent];
  await nodes.pod(0, 'first');
  let passes = 0;
  await until('the agent is at rest', async () => {
    const before = passes;
    await sleep(1_000);
    ({ passes } = await agent.status());
    return passes === before;
  });
  for (const name of ['a', 'b', 'c']) await nodes.pod(0, name);
  await sleep(500);
  t.is((await agent.status()).passes, passes);
});

test.serial('a MAC address or MTU that udev or a user changed is set back', async (t) => {
  const nodes = await Nodes.open(t, 2);
  const [agent] = (await nodes.startAll(2, config)) as [Agent, Agent];
  const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
  const link = () => /mtu \d+|ether \S+/g[Symbol.match](agent.run('ip', 'link', 'show', 'fl.1'));
  const before = link();
  agent.run('ip', 'link', 'set', 'fl.1', 'address', '02:11:22:33:44:55');
  await until('the MAC address is back', () => JSON.stringify(link()) === JSON.stringify(before));
  agent.run('ip', 'link', 'set', 'fl.1', 'mtu', '1300');
  await until('the MTU is back', () => JSON.stringify(link()) === JSON.stringify(before));
  // The kernel forgets a link's neighbours with its MAC address; they are made again.
  await until('packets cross', async () => (await a.workload.get(`http://${b.ips[0]}:8080/`, 2_000)).ok);
  t.pass();
});

test.serial(
  'a node that leaves takes its rows along, and one that changes its address moves them',
  async (t) => {
    const nodes = await Nodes.open(t, 3);
    const [agent, , third] = (await nodes.startAll(3, config)) as [Agent, Agent, Agent];
    const lease = (await third.status()).lease ?? '';
    await third.end('SIGKILL');
    nodes.etcd.ctl('del', `/coreos.com/network/subnets/${lease}`);
    await agent.until('one peer less', ({ peers }) => peers === 1);
    await until('no row of it is left', () => !agent.kernel().includes('172.30.0.13'));

    const moved = nodes.machine(1).namespace;
    const commands = [
      'addr del 172.30.0.12/24',
      'addr add 172.30.0.77/24',
      'route add default via 172.30.0.254',
    ];
    for (const command of commands) inside(moved, 'ip', ...command.split(' '), 'dev', 'eth0');
    await until('the new address is in the FDB', () =>
      agent.run('bridge', 'fdb', 'show').includes('172.30.0.77'),
    );
    t.false(agent.kernel().includes('172.30.0.12'), 'and the old one is not');
  },
);

/** Everything iproute2 and nft know of a namespace. */
function nodeKernel(namespace: string): string {
  const parts = [
    ['ip', '-o', 'link'],
    ['ip', '-o', 'addr'],
    ['ip', 'route'],
    ['ip', '-6', 'route'],
    [nft, 'list', 'ruleset'],
  ];
  return steady(parts.map((command) => inside(namespace, ...command)).join());
}
