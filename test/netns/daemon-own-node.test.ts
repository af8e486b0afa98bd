import { rmSync } from 'node:fs';
import test from 'ava';
import { until } from '../daemon/etcd-server.ts';
import { type Agent, inside, Nodes } from './daemon-nodes.ts';

// What the agent makes of its own node: its interface, its subnet, its settings.

const config = (type: string) =>
  JSON.stringify({
    ...{ Network: '10.244.0.0/16', EnableIPv6: true, IPv6Network: 'fd00:10:244::/48' },
    Backend: { Type: type },
  });

test.serial(
  'another MTU of the interface is that of the tunnel and of new pods, less the headers',
  async (t) => {
    const nodes = await Nodes.open(t, 1);
    const [agent] = (await nodes.startAll(1, config('vxlan'))) as [Agent];
    const mtus = () => /mtu \d+/g[Symbol.match](agent.run('ip', 'link', 'show', 'type', 'vxlan'));
    t.deepEqual(mtus(), ['mtu 1450', 'mtu 1430']);
    agent.run('ip', 'link', 'set', 'eth0', 'mtu', '1400');
    await until('the tunnel follows', () => JSON.stringify(mtus()) === '["mtu 1350","mtu 1330"]', 5_000);
    await until('subnet.env follows', () => agent.file('subnet.env').includes('FLANNEL_MTU=1330'), 5_000);
    const pod = await nodes.pod(0, 'a');
    t.regex(inside(pod.namespace, 'ip', 'link', 'show', 'eth0'), /mtu 1330/);
    agent.run('ip', 'link', 'set', 'eth0', 'mtu', '1500');
    await until('and back', () => agent.file('subnet.env').includes('FLANNEL_MTU=1430'), 5_000);
  },
);

test.serial('another address of the node is announced, and is where its tunnel begins', async (t) => {
  const nodes = await Nodes.open(t, 2);
  const [agent, peer] = (await nodes.startAll(2, config('vxlan'))) as [Agent, Agent];
  const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
  const held = await a.workload.hold(b.ips[0] ?? '', 8081, 10);
  t.true(held.ok);
  const { lease } = await agent.status();
  agent.run('sysctl', '-qw', 'net.ipv4.conf.eth0.promote_secondaries=1');
  agent.run('ip', 'addr', 'add', '172.30.0.99/24', 'dev', 'eth0');
  agent.run('ip', 'addr', 'del', '172.30.0.11/24', 'dev', 'eth0');
  const entries = () => peer.run('bridge', 'fdb', 'show', 'dev', 'fl.1');
  await until('the peer sends there', () => entries().includes('dst 172.30.0.99'));
  t.false(entries().includes('172.30.0.11'));
  t.regex(agent.run('ip', '-d', 'link', 'show', 'fl.1'), /local 172\.30\.0\.99/);
  t.is((await agent.status()).lease, lease, 'the subnet stays');
  const got = () => a.workload.get(`http://${b.ips[0]}:8080/`, 1000);
  await until('packets cross', async () => (await got()).ok);
  const { failures } = await a.workload.report();
  t.deepEqual(failures, [], 'the open connection goes on');
});

for (const type of ['vxlan', 'host-gw']) {
  test.serial(
    `with ${type}, a node that reboots and has another address then keeps its subnet and its one lease`,
    async (t) => {
      const nodes = await Nodes.open(t, 1);
      const keptDirectory = `${nodes.lab.directory}/kept`;
      const first = nodes.start(0, config(type), { keptDirectory });
      const { lease } = await first.ready();
      await first.end('SIGKILL');
      const { namespace } = nodes.machine(0);
      const ip = (words: string) => inside(namespace, 'ip', ...words.split(' '));
      // What a reboot takes: all of /run and of the kernel.
      rmSync(first.options.directory, { recursive: true });
      for (const family of ['-4', '-6']) ip(`${family} route flush proto 88`);
      if (type === 'vxlan') for (const device of ['fl.1', 'fl6.1']) ip(`link del ${device}`);
      for (const words of ['addr del 172.30.0.11/24', 'addr add 172.30.0.99/24', 'addr del fd30::b/64'])
        ip(`${words} dev eth0`);
      ip('addr add fd30::99/64 dev eth0 nodad');
      ip('route add default via 172.30.0.254');
      const again = nodes.start(0, config(type), { keptDirectory });
      t.is((await again.ready()).lease, lease);
      const keys = nodes.etcd.ctl('get', '--prefix', '--keys-only', '/coreos.com/network/subnets/');
      t.deepEqual(keys.split('\n').filter(Boolean), [`/coreos.com/network/subnets/${lease}`]);
      t.regex(nodes.etcd.ctl('get', `/coreos.com/network/subnets/${lease}`), /"172\.30\.0\.99"/);
    },
  );
}

test.serial('a flushed route table and a lost IPv6 address stop nothing else', async (t) => {
  const nodes = await Nodes.open(t, 2);
  const [agent] = (await nodes.startAll(2, config('vxlan'))) as [Agent, Agent];
  const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
  const before = await agent.status();
  agent.run('ip', 'route', 'flush', 'table', 'main');
  await agent.until('it is told', ({ problems }) =>
    problems.some((text) => /no IPv4 default route/.test(text)),
  );
  // Nobody brings the default route back; with an address comes its own route.
  for (const device of ['eth0', 'cni0']) {
    const [, address = ''] = /inet (\S+)/.exec(agent.run('ip', '-4', 'addr', 'show', device)) ?? [];
    agent.run('ip', 'addr', 'del', address, 'dev', device);
    agent.run('ip', 'addr', 'replace', address, 'dev', device); // that of the bridge may be back already
  }
  const { subnets } = await (nodes.agents.get('node-2') as Agent).status();
  await until('our routes are back', () => agent.run('ip', 'route').includes(`${subnets[0]} via`));
  const url = `http://${b.ips[0]}:8080/`;
  await until('packets cross', async () => (await a.workload.get(url, 1000)).ok);

  agent.run('ip', 'addr', 'del', 'fd30::b/64', 'dev', 'eth0');
  const data = { VNI: 1, VtepMAC: '02:00:00:00:02:00' };
  const value = { PublicIP: '172.30.0.200', BackendType: 'vxlan', BackendData: data };
  nodes.etcd.ctl('put', '/coreos.com/network/subnets/10.244.200.0-24', JSON.stringify(value));
  await until('a node that joins has its rows', () =>
    agent.run('ip', 'route').includes('10.244.200.0/24 via'),
  );
  const after = await agent.status();
  t.true(after.inLine);
  t.is(after.lease, before.lease);
  t.true(
    after.problems.some((text) => text.endsWith('eth0 stays in use as it was')),
    after.problems.join(),
  );
});

test.serial(
  'two nodes of one name have two MAC addresses, say why, and others have rows of both',
  async (t) => {
    const nodes = await Nodes.open(t, 3);
    const v4 = JSON.stringify({ Network: '10.244.0.0/16', Backend: { Type: 'vxlan' } });
    const [first, third] = [nodes.start(0, v4, { nodeName: 'node' }), nodes.start(2, v4)];
    await first.ready();
    const second = nodes.start(1, v4, { nodeName: 'node' });
    await Promise.all(
      [first, second, third].map((agent) => agent.until('both others', ({ peers }) => peers === 2)),
    );
    const mac = (agent: Agent) => /ether (\S+)/.exec(agent.run('ip', 'link', 'show', 'fl.1'))?.[1] ?? '';
    await until('the later one has another', () => mac(first) !== mac(second));
    await third.until('no problem', ({ problems }) => !problems.some((text) => text.includes('VtepMAC')));
    const entries = third.run('bridge', 'fdb', 'show', 'dev', 'fl.1');
    for (const [agent, address] of [
      [first, '172.30.0.11'],
      [second, '172.30.0.12'],
    ] as const)
      t.true(entries.includes(`${mac(agent)} dst ${address} self permanent`), entries);
    await second.until('it says why', ({ problems }) => {
      return problems.some((text) => /^this node: the VtepMAC .* of the name node is that of/.test(text));
    });
    // With another MAC address the kernel forgets the device's neighbours, and the agent hears of it.
    const neighbors = () => second.run('ip', 'neigh', 'show', 'dev', 'fl.1').match(/PERMANENT/g) ?? [];
    await until('its neighbours are back', () => neighbors().length === 2);
    const kept = mac(second);
    await second.end('SIGKILL');
    const again = nodes.start(1, v4, { nodeName: 'node' });
    t.is((await again.ready()).writes, 0);
    t.is(mac(again), kept, 'also after a restart');
  },
);

test.serial('packets to addresses that no pod has end in the blackhole, where one is wished', async (t) => {
  const nodes = await Nodes.open(t, 1);
  // No bridge of pods with a route of its own to the subnet: as where another plugin has a route for each pod.
  const agent = nodes.start(0, config('alloc'), { blackholeRoute: true });
  const { subnets } = await agent.ready();
  const [v4 = '', v6 = ''] = subnets;
  const shown = () => [agent.run('ip', 'route'), agent.run('ip', '-6', 'route')].join('\n');
  t.true(shown().includes(`blackhole ${v4} proto 88 metric 65535`));
  t.true(shown().includes(`blackhole ${v6} dev lo proto 88 metric 65535`));
  agent.run('ip', 'route', 'del', 'blackhole', v4);
  await until('it is back', () => shown().includes(`blackhole ${v4}`), 5_000);

  await nodes.pod(0, 'a');
  t.regex(agent.run('ip', 'route', 'get', v4.replace('.0/24', '.77')), /dev cni0/, 'pods have their way');
  await agent.end('SIGTERM');
  const without = nodes.start(0, config('alloc'));
  await without.ready();
  t.false(shown().includes('blackhole'), 'gone with the wish');
});
