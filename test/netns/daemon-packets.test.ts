import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { until } from '../daemon/etcd-server.ts';
import { type Agent, inside, Nodes, type Pod } from './daemon-nodes.ts';
import { OUTSIDE_ADDRESSES } from './lab.ts';

const DATAGRAM = fileURLToPath(new URL('./daemon-datagram.ts', import.meta.url));
const nft = '/usr/sbin/nft';
const config = (type: string) =>
  JSON.stringify({
    Network: '10.244.0.0/16',
    EnableIPv6: true,
    IPv6Network: 'fd00:10:244::/48',
    Backend: { Type: type },
  });
const urlOf = (ip: string) => `http://${ip.includes(':') ? `[${ip}]` : ip}:8080/`;

/** Packets that were cut in this namespace, either family. */
function cut(namespace: string): number {
  const text = inside(namespace, 'nstat', '-asz', 'IpFragCreates', 'Ip6FragCreates');
  return [...text.matchAll(/FragCreates\s+(\d+)/g)].reduce((sum, [, count]) => sum + Number(count), 0);
}

function datagram(from: Pod, host: string, bytes: number): void {
  inside(from.namespace, process.execPath, DATAGRAM, host, '8080', String(bytes));
}

test.serial('the largest packet of a pod crosses the tunnel in one piece', async (t) => {
  const nodes = await Nodes.open(t, 2);
  const agents = await nodes.startAll(2, config('vxlan'));
  const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
  const { mtuBytes = 0 } = (await agents[0]?.status()) ?? {};
  t.is(mtuBytes, 1430);
  const machines = agents.map(({ machine }) => machine.namespace);
  for (const [place, headers] of [28, 48].entries()) {
    const host = b.ips[place] ?? '';
    await until(`${host} answers`, async () => (await a.workload.get(urlOf(host), 5_000)).ok);
    const all = [a.namespace, ...machines, b.namespace];
    const before = all.map(cut);
    datagram(a, host, mtuBytes - headers);
    t.deepEqual(all.map(cut), before, `${mtuBytes} bytes to ${host} in one piece`);
    datagram(a, host, mtuBytes - headers + 1);
    t.true(cut(a.namespace) > (before[0] ?? 0), 'one byte more is cut where it begins');
  }
});

for (const backend of ['vxlan', 'host-gw']) {
  test.serial(
    `over ${backend}, pods leave the cluster with their node's address and see each other's`,
    async (t) => {
      const nodes = await Nodes.open(t, 2);
      const [first, second] = (await nodes.startAll(2, config(backend))) as [Agent, Agent];
      const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
      const outside = nodes.lab.workload(nodes.lab.outside.namespace, 'outside');
      const host = nodes.lab.workload(first.machine.namespace, 'host');
      await outside.serve('outside', 8080);
      for (const place of [0, 1] as const) {
        await until(
          'the outside answers',
          async () => (await a.workload.get(urlOf(OUTSIDE_ADDRESSES[place]), 5_000)).ok,
        );
        const left = await a.workload.get(urlOf(OUTSIDE_ADDRESSES[place]));
        t.is(left.ok && left.answer?.peer, first.machine.addresses[place], 'pod to outside');

        const remote = b.ips[place] ?? '';
        await until('the other pod answers', async () => (await host.get(urlOf(remote), 5_000)).ok);
        const crossed = await a.workload.get(urlOf(remote));
        t.is(crossed.ok && crossed.answer?.peer, a.ips[place], 'pod to pod');
        const fromNode = await host.get(urlOf(remote));
        const own = backend === 'vxlan' ? tunnelEnd(a.ips[place] ?? '') : first.machine.addresses[place];
        t.is(fromNode.ok && fromNode.answer?.peer, own, 'node to pod elsewhere');
      }
      t.deepEqual((await second.status()).problems, []);
    },
  );
}

test.serial('networks that know the ways to pods see their addresses, all others the node’s', async (t) => {
  const nodes = await Nodes.open(t, 1);
  // One inside of another, which the kernel would not have in one set.
  const nonMasqueradeCidrs = OUTSIDE_ADDRESSES.flatMap((ip) => [
    `${ip}/${ip.includes(':') ? 128 : 32}`,
    ip.includes(':') ? `${ip.split('::')[0]}::/64` : ip.replace(/\d+$/, '0/24'),
  ]);
  const agent = nodes.start(0, config('host-gw'), { nonMasqueradeCidrs });
  await agent.ready();
  const pod = await nodes.pod(0, 'a');
  const outside = nodes.lab.workload(nodes.lab.outside.namespace, 'outside');
  await outside.serve('outside', 8080);
  for (const [place, ip] of OUTSIDE_ADDRESSES.entries()) {
    const [own = '', node = ''] = [pod.ips[place], agent.machine.addresses[place]];
    inside(nodes.lab.outside.namespace, 'ip', 'route', 'add', own, 'via', node);
    await until('the outside answers', async () => (await pod.workload.get(urlOf(ip), 5_000)).ok);
    const got = await pod.workload.get(urlOf(ip));
    t.is(got.ok && got.answer?.peer, own);
  }
  await agent.end('SIGTERM');
  const without = nodes.start(0, config('host-gw'));
  await without.ready();
  for (const [place, ip] of OUTSIDE_ADDRESSES.entries()) {
    const got = await pod.workload.get(urlOf(ip));
    t.is(got.ok && got.answer?.peer, agent.machine.addresses[place]);
  }
});

test.serial('a strict reverse path filter does not drop what a peer sends through the tunnel', async (t) => {
  const nodes = await Nodes.open(t, 2);
  const vxlan = (more: object) =>
    JSON.stringify({ Network: '10.244.0.0/16', Backend: { Type: 'vxlan', ...more } });
  const strict = nodes.machine(0).namespace;
  inside(strict, 'sysctl', '-qw', 'net.ipv4.conf.all.rp_filter=1', 'net.ipv4.conf.default.rp_filter=1');
  // The one sends past the tunnel, the other through it.
  const first = nodes.start(0, vxlan({ DirectRouting: true }));
  const second = nodes.start(1, vxlan({}));
  for (const agent of [first, second])
    await agent.until('the peer', ({ ready, peers }) => ready && peers === 1);
  const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
  t.true(first.run('ip', 'route').includes('via 172.30.0.12 dev eth0'));
  await until('packets cross', async () => (await a.workload.get(urlOf(b.ips[0] ?? ''), 2_000)).ok);
  const filter = () => first.run('sysctl', '-n', 'net.ipv4.conf.fl/1.rp_filter').trim();
  t.is(filter(), '2');
  first.run('sysctl', '-qw', 'net.ipv4.conf.fl/1.rp_filter=1');
  await until('it is loose again', () => filter() === '2', 5_000);
  t.is(
    first.run('sysctl', '-n', 'net.ipv4.conf.eth0.rp_filter').trim(),
    '0',
    "the node's own is its operator's",
  );
});

test.serial('the ruleset that nft lists loads again, and the agent takes it for its own', async (t) => {
  const nodes = await Nodes.open(t, 1);
  const [agent] = (await nodes.startAll(1, config('host-gw'))) as [Agent];
  const { writes } = await agent.status();
  const listed = agent.run(nft, 'list', 'ruleset');
  const file = `${agent.options.directory}/ruleset.nft`;
  writeFileSync(file, `flush ruleset\n${listed}`);
  agent.run(nft, '-f', file);
  await sleep(1_000); // it looks twice a second
  t.is(agent.run(nft, 'list', 'ruleset'), listed);
  t.is((await agent.status()).writes, writes);
});

/** The first address of the node's subnet: 10.244.7.2 is in 10.244.7.0/24, fd00:10:244:7::2 in fd00:10:244:7::/64. */
function tunnelEnd(podIp: string): string {
  return podIp.includes(':') ? podIp.replace(/::2$/, '::') : podIp.replace(/\.2$/, '.0');
}
