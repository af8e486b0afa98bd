import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import test, { type ExecutionContext } from 'ava';
import type { Cidr } from '../../core/address.ts';
import { CniNode, eventually, execIn, type Pod, testConfig } from '../cni/node.ts';

// pod a ── fl… ─┐
//               cni0 (10.55.0.1/24, fd55::1/64) ── the node
// pod b ── fl… ─┘

const server = `require('node:net').createServer((s) => s.end(s.remoteAddress.replace('::ffff:', '')))
  .listen(80, '::', () => console.log('listening'))`;

/** A TCP server on port 80 that answers with the address of whoever connects. */
async function listen(t: ExecutionContext, namespace: string): Promise<void> {
  const child: ChildProcess = spawn('nsenter', [`--net=${namespace}`, process.execPath, '-e', server], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout as NodeJS.ReadableStream, 'data');
}

/** What the server at `ip` saw as the address of a client in the namespace. */
async function connect(namespace: string, ip: string): Promise<string> {
  const script = `exec 3<>/dev/tcp/${ip}/80 && timeout 20 cat <&3`;
  return (await execIn(namespace, 'timeout', '30', 'bash', '-c', script)).trim();
}

interface Attached extends Pod {
  readonly v4: string;
  readonly v6: string;
}

async function attach(t: ExecutionContext, node: CniNode, config = testConfig()): Promise<Attached> {
  const pod = node.pod();
  const { exitCode, stdout } = await node.call('ADD', { ...pod, config });
  t.is(exitCode, 0, stdout);
  const addresses = JSON.parse(stdout).ips.map(({ address }: { address: string }) => address.split('/')[0]);
  return { ...pod, v4: addresses[0], v6: addresses[1] };
}

test('pods reach each other and the node reaches them, without translation, over both families', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const [a, b] = [await attach(t, node), await attach(t, node)];
  await listen(t, b.netns);
  t.is(await connect(a.netns, b.v4), a.v4);
  t.is(await connect(a.netns, b.v6), a.v6);
  t.is(await connect(node.namespace, b.v4), '10.55.0.1');
  t.is(await connect(node.namespace, b.v6), 'fd55::1');
  await listen(t, node.namespace);
  t.is(await connect(a.netns, '10.55.0.1'), a.v4);
  t.is(await connect(a.netns, 'fd55::1'), a.v6);
});

test('a pod has what the node has decided: subnet, MTU, bridge', async (t) => {
  const node = CniNode.open(t);
  const subnets = ['10.66.3.0/24', 'fd66:3::/64'] as Cidr[];
  await node.start({ network: { name: 'pods0', subnets, mtuBytes: 1450, masquerade: true } });
  const pod = await attach(t, node, { cniVersion: '1.1.0', name: 'cluster', type: 'fairlead' });
  t.is(pod.v4, '10.66.3.2');
  t.is(pod.v6, 'fd66:3::2');
  const [link] = JSON.parse(await execIn(pod.netns, 'ip', '-json', 'link', 'show', 'eth0'));
  t.like(link, { mtu: 1450, address: '0a:58:0a:42:03:02', operstate: 'UP' });
  t.regex(await execIn(pod.netns, 'ip', 'route'), /default via 10\.66\.3\.1 dev eth0/);
  t.regex(await execIn(pod.netns, 'ip', '-6', 'route'), /default via fd66:3::1 dev eth0/);
  t.true((await node.links()).includes('pods0'));
  t.is((await node.exec('sysctl', '-n', 'net.ipv4.ip_forward')).trim(), '1');
  t.is((await node.exec('sysctl', '-n', 'net.ipv6.conf.all.forwarding')).trim(), '1');
});

test('the bridge keeps its MAC when pods come and go, so gateway entries in pods stay right', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const macOf = async () => JSON.parse(await node.exec('ip', '-json', 'link', 'show', 'cni0'))[0].address;
  const a = await attach(t, node);
  const before = await macOf();
  await attach(t, node);
  await node.call('DEL', a);
  t.is(await macOf(), before);
  t.is(before, '0a:58:0a:37:00:01');
});

test('a pod keeps its IPv6 address when its interface is set down and up again', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const pod = node.pod();
  t.is((await node.call('ADD', pod)).exitCode, 0);
  const inside = (...words: string[]) => execIn(pod.netns, ...words);
  const setting = () => inside('sysctl', '-n', 'net.ipv6.conf.eth0.keep_addr_on_down');
  t.true(await eventually(async () => (await setting()).trim() === '1'));
  await inside('ip', 'link', 'set', 'eth0', 'down');
  await inside('ip', 'link', 'set', 'eth0', 'up');
  const shown = await inside('ip', 'address', 'show', 'eth0');
  for (const address of ['10.55.0.2/24', 'fd55::2/64']) t.true(shown.includes(` ${address} `), shown);
});

test('promiscMode is a flag of the bridge, and cannot be with hairpinMode', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const both = testConfig({ type: 'bridge', promiscMode: true, hairpinMode: true });
  t.like(JSON.parse((await node.call('ADD', { ...node.pod(), config: both })).stdout), {
    code: 7,
    msg: 'cannot set hairpin mode and promiscuous mode at the same time',
  });
  const config = testConfig({ type: 'bridge', promiscMode: true });
  t.is((await node.call('ADD', { ...node.pod(), config })).exitCode, 0);
  t.regex(await node.exec('ip', 'link', 'show', 'cni0'), /[<,]PROMISC[,>]/);
});

test('a second interface of a pod is an attachment of its own', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const pod = await attach(t, node);
  const second = await node.call('ADD', { ...pod, ifname: 'net1' });
  t.is(second.exitCode, 0, second.stdout);
  t.is((await node.pairs()).length, 2);
  t.is((await node.call('DEL', { ...pod, ifname: 'net1' })).exitCode, 0);
  t.deepEqual(node.leases(), [`testnet/${pod.containerId}/eth0 fairlead`]);
});

test('a container in which IPv6 was switched off gets its IPv6 address all the same', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const pod = node.pod();
  await execIn(
    pod.netns,
    'sysctl',
    '-qw',
    'net.ipv6.conf.default.disable_ipv6=1',
    'net.ipv6.conf.all.disable_ipv6=1',
  );
  const { exitCode, stdout } = await node.call('ADD', pod);
  t.is(exitCode, 0, stdout);
  t.regex(await execIn(pod.netns, 'ip', '-6', 'addr', 'show', 'eth0'), /fd55::2\/64/);
  t.regex(await execIn(pod.netns, 'ip', '-6', 'route'), /default via fd55::1/);
});

test('where nobody speaks IPv6 no link-local address is made, and no other pod hears of it', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const addressesOf = async (namespace: string, device: string) => {
    const [link] = JSON.parse(await execIn(namespace, 'ip', '-json', '-6', 'addr', 'show', device));
    return (link?.addr_info ?? []).map(({ scope }: { scope: string }) => scope);
  };
  const subnets = (...all: string[]) => ({
    type: 'host-local',
    ranges: all.map((subnet) => [{ subnet }]),
  });
  const of = async (name: string, options: object) => {
    const config = { cniVersion: '1.1.0', type: 'bridge', name, bridge: name, ...options };
    return await attach(t, node, config);
  };
  const v4 = await of('v4', { isGateway: true, ipam: subnets('10.71.0.0/24') });
  t.deepEqual(await addressesOf(v4.netns, 'eth0'), []);
  const dual = await of('dual', { isGateway: true, ipam: subnets('10.72.0.0/24', 'fd72::/64') });
  t.deepEqual((await addressesOf(dual.netns, 'eth0')).toSorted(), ['global', 'link']);
  // Whose gateway is elsewhere may get an IPv6 address from there, whatever we gave it.
  const elsewhere = await of('elsewhere', { ipam: subnets('10.73.0.0/24') });
  t.deepEqual(await addressesOf(elsewhere.netns, 'eth0'), ['link']);
  // Below IPv6's smallest MTU the kernel has none on the link, and nothing to switch off.
  const small = await of('small', { isGateway: true, mtu: 1279, ipam: subnets('10.74.0.0/24') });
  t.deepEqual(await addressesOf(small.netns, 'eth0'), []);
  const ports = (await node.links()).filter((name) => /^fl[0-9a-f]/.test(name));
  t.is(ports.length, 4);
  for (const port of ports) t.deepEqual(await addressesOf(node.namespace, port), [], port);
});

test('a container with other links, whose numbers are in the way, is attached', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const pod = node.pod();
  await execIn(pod.netns, 'ip', 'link', 'add', 'other', 'type', 'veth', 'peer', 'name', 'other1');
  t.is((await node.call('ADD', pod)).exitCode, 0);
  t.regex(await execIn(pod.netns, 'ip', 'addr', 'show', 'eth0'), /10\.55\.0\.2\/24/);
});

test('a bridge that vanished is made again for the next pod', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const a = await attach(t, node);
  await node.exec('ip', 'link', 'del', 'cni0');
  const b = await attach(t, node);
  await listen(t, b.netns);
  t.is(await connect(node.namespace, b.v4), '10.55.0.1');
  t.is((await node.call('DEL', a)).exitCode, 0);
  t.is((await node.call('DEL', b)).exitCode, 0);
});

test('a bridge made by another plugin is used with the pods on it', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  await node.exec('ip', 'link', 'add', 'cni0', 'type', 'bridge');
  await node.exec('ip', 'link', 'add', 'theirs', 'master', 'cni0', 'type', 'veth', 'peer', 'name', 'theirs1');
  await attach(t, node);
  t.true((await node.links()).includes('theirs'));
  t.regex(await node.exec('ip', 'addr', 'show', 'cni0'), /10\.55\.0\.1\/24/);
});

test('results come in the version of the configuration', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  for (const cniVersion of ['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0']) {
    const config = testConfig({ cniVersion });
    const pod = node.pod();
    const { exitCode, stdout } = await node.call('ADD', { ...pod, config });
    t.is(exitCode, 0, stdout);
    t.is(JSON.parse(stdout).cniVersion, cniVersion);
    t.is((await node.call('DEL', { ...pod, config })).exitCode, 0);
  }
  t.deepEqual(node.leases(), []);
});

test('VERSION is answered with and without a daemon', async (t) => {
  const node = CniNode.open(t);
  const { exitCode, stdout } = await node.call('VERSION', { containerId: '' });
  t.is(exitCode, 0);
  t.true(JSON.parse(stdout).supportedVersions.includes('1.1.0'));
});

test('the threads that serve calls come before other programs', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const tasks = `/proc/${node.serverPid}/task`;
  // proc_pid_stat(5): the name in brackets, then the third field and on; nice is the nineteenth.
  const threads = readdirSync(tasks).map((id) => {
    const [, name = '', rest = ''] = /\((.*)\) (.*)/.exec(readFileSync(`${tasks}/${id}/stat`, 'utf8')) ?? [];
    return { id: Number(id), name, nice: Number(rest.split(' ')[16]) };
  });
  const serving = threads.filter(({ id, name }) => id === node.serverPid || name === 'fairlead-lane');
  t.true(serving.length > 2, 'the main thread and lanes');
  t.deepEqual(new Set(serving.map(({ nice }) => nice)), new Set([-20]));
});
