import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { createNamespace, deleteNamespace } from '../../kernel/netns.ts';
import { CniNode, eventually, execIn, type Pod, testConfig } from '../cni/node.ts';

//  the agent's namespace: cni0 10.55.0.1      the runtime's own: cni0 10.55.0.1, 192.0.2.1 on lo
//            └ pods of runtimes there                   └ pods of that runtime

/** Another namespace of the machine, with a runtime in it. */
class Elsewhere {
  readonly path: string;

  constructor(t: ExecutionContext, node: CniNode) {
    this.path = `${node.namespace}-other`;
    createNamespace(this.path);
    t.teardown(() => deleteNamespace(this.path));
  }

  exec(...command: string[]): Promise<string> {
    return execIn(this.path, ...command);
  }

  async pairs(): Promise<string[]> {
    const links: { ifname: string }[] = JSON.parse(await this.exec('ip', '-json', 'link'));
    return links.map(({ ifname }) => ifname).filter((name) => name.startsWith('fl'));
  }

  reaches(ip: string): Promise<boolean> {
    return this.exec('ping', '-c', '1', '-W', '5', ip).then(
      () => true,
      () => false,
    );
  }
}

const portMappings = [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }];
const config = testConfig({ ipMasq: true, runtimeConfig: { portMappings } });

async function setUp(t: ExecutionContext): Promise<{ node: CniNode; other: Elsewhere }> {
  const node = CniNode.open(t);
  await node.start();
  return { node, other: new Elsewhere(t, node) };
}

async function add(t: ExecutionContext, node: CniNode, pod: Pod, from?: string): Promise<string> {
  const { exitCode, stdout } = await node.call('ADD', { ...pod, config, ...(from && { from }) });
  t.is(exitCode, 0, stdout);
  return JSON.parse(stdout).ips[0].address.split('/')[0];
}

const ruleset = ['/usr/sbin/nft', 'list', 'ruleset'] as const;

test("a runtime in a namespace of its own gets the host's side there, and nothing is elsewhere", async (t) => {
  const { node, other } = await setUp(t);
  const [pod, second, own] = [node.pod(), node.pod(), node.pod()];
  const ip = await add(t, node, pod, other.path);
  t.deepEqual([await node.links(), await node.exec(...ruleset)], [[], '']);
  t.regex(await other.exec('ip', '-o', 'addr', 'show', 'cni0'), /10\.55\.0\.1\/24/);
  t.regex(await other.exec(...ruleset), new RegExp(`8080 : ${ip} \\. 80`));
  t.is((await other.exec('sysctl', '-n', 'net.ipv4.ip_forward')).trim(), '1');
  t.true(await other.reaches(ip));
  // Host ports are each namespace's own.
  const ownIp = await add(t, node, own);
  t.not(ownIp, ip);
  await node.exec('ping', '-c', '1', '-W', '5', ownIp);
  t.false(await other.reaches(ownIp));
  const refused = await node.call('ADD', { ...second, config, from: other.path });
  t.regex(refused.stdout, new RegExp(`already taken by ${pod.containerId}`));
  t.is((await other.pairs()).length, 1);

  const plain = testConfig();
  t.is((await node.call('ADD', { ...second, config: plain, from: other.path })).exitCode, 0);
  await execIn(second.netns, 'ping', '-c', '1', '-W', '5', ip);
  for (const one of [pod, second])
    t.is((await node.call('DEL', { ...one, config, from: other.path })).exitCode, 0);
  t.true(await eventually(async () => (await other.pairs()).length === 0));
  t.notRegex(await other.exec(...ruleset), /8080/);
  t.regex(await node.exec(...ruleset), new RegExp(`8080 : ${ownIp} \\. 80`));
  t.is(node.leases().length, 1);
});

test('pods of another namespace outlive the agent, are kept, and go by DEL from anywhere, also a queued one', async (t) => {
  const { node, other } = await setUp(t);
  const [pod, queued] = [node.pod(), node.pod()];
  const ip = await add(t, node, pod, other.path);
  t.is((await node.call('ADD', { ...queued, from: other.path })).exitCode, 0);
  const before = await other.exec(...ruleset);
  await node.kill('SIGKILL');
  await other.exec('/usr/sbin/nft', 'flush', 'ruleset');
  await other.exec('ip', 'link', 'del', 'cni0');
  t.is((await node.call('DEL', { ...queued, from: other.path })).exitCode, 0);
  await node.start();
  t.is(node.leases().length, 1);
  t.is(await other.exec(...ruleset), before);
  t.true(await other.reaches(ip));
  // While the agent runs, too.
  await other.exec('/usr/sbin/nft', 'flush', 'ruleset');
  t.true(await eventually(async () => (await other.exec(...ruleset)) === before));
  t.is((await node.call('DEL', { ...pod, config })).exitCode, 0);
  t.true(await eventually(async () => (await other.pairs()).length === 0));
  t.deepEqual(node.leases(), []);
});

test('GC is about the pods of the namespace that it comes from', async (t) => {
  const { node, other } = await setUp(t);
  const [pod, own] = [node.pod(), node.pod()];
  await add(t, node, pod, other.path);
  await add(t, node, own);
  const gc = { containerId: '', config: { ...config, cniVersion: '1.1.0', 'cni.dev/valid-attachments': [] } };
  t.is((await node.call('GC', { ...gc, from: other.path })).exitCode, 0);
  t.deepEqual(node.leases(), [`testnet/${own.containerId}/eth0 fairlead`]);
  t.true(await eventually(async () => (await other.pairs()).length === 0));
});

test('a foreign plugin is executed in the namespace that the call comes from', async (t) => {
  const { node, other } = await setUp(t);
  const program = join(node.directory, 'where');
  const result = '{"cniVersion":"1.0.0","ips":[{"address":"10.55.0.9/24"}]}';
  writeFileSync(program, `#!/bin/sh\nreadlink /proc/self/ns/net >> ${program}.log\necho '${result}'\n`, {
    mode: 0o755,
  });
  const env = { CNI_PATH: node.directory };
  const foreign = testConfig({ type: 'bridge', ipam: { type: 'where' } });
  const pod = { ...node.pod(), env, config: foreign, from: other.path };
  const { exitCode, stdout } = await node.call('ADD', pod);
  t.is(exitCode, 0, stdout);
  t.is((await node.call('DEL', pod)).exitCode, 0);
  const there = (await other.exec('readlink', '/proc/self/ns/net')).trim();
  t.deepEqual(readFileSync(`${program}.log`, 'utf8').trim().split('\n'), [there, there]);
});

test('a namespace that goes with its pods while the agent runs frees what they had', async (t) => {
  const node = CniNode.open(t);
  await node.start({ abandonedTimes: { lookMs: 300, missingMs: 1_000 } });
  const other = new Elsewhere(t, node);
  const pod = node.pod();
  await add(t, node, pod, other.path);
  deleteNamespace(other.path);
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  // The pod is still there, and so is its other end.
  t.is(node.leases().length, 1);
  node.removeNamespace(pod);
  t.true(await eventually(async () => node.leases().length === 0));
});

test('a namespace without pods is let go, and served again when a call comes', async (t) => {
  const node = CniNode.open(t);
  await node.start({ hostTimes: { idleMs: 500, sweepMs: 200 } });
  const other = new Elsewhere(t, node);
  const descriptors = await node.descriptorsAtRest();
  const pod = node.pod();
  for (let round = 1; round <= 3; round += 1) {
    await add(t, node, pod, other.path);
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    t.true(node.descriptors() > descriptors);
    t.is((await node.call('DEL', { ...pod, config, from: other.path })).exitCode, 0);
    t.true(
      await eventually(async () => node.descriptors() <= descriptors),
      `${round}: ${node.descriptors()}`,
    );
  }
  t.is(node.log.filter((line) => line.includes('served no longer')).length, 3);
});

test('a namespace that went while no agent ran frees what its pods had, at the latest by DEL', async (t) => {
  const { node, other } = await setUp(t);
  const pod = node.pod();
  await add(t, node, pod, other.path);
  await node.kill('SIGKILL');
  deleteNamespace(other.path);
  await node.start();
  t.is((await node.call('DEL', { ...pod, config })).exitCode, 0);
  t.deepEqual(node.leases(), []);
  await add(t, node, node.pod());
});
