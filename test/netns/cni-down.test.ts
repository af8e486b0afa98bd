import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { frameMagic } from '../../cni/frame.ts';
import { CniNode, eventually, execIn, type Pod, testConfig } from '../cni/node.ts';

/** Far above what a call takes without a daemon (a millisecond) or with one that is stuck (two seconds). */
const generousMs = 25_000;

const queueOf = (node: CniNode) => join(node.directory, 'cni-queue');
const queued = (node: CniNode) => readdirSync(queueOf(node)).filter((name) => name !== 'refused');

async function attach(t: ExecutionContext, node: CniNode, pod = node.pod()): Promise<Pod> {
  const { exitCode, stdout } = await node.call('ADD', pod);
  t.is(exitCode, 0, stdout);
  return pod;
}

async function detach(t: ExecutionContext, node: CniNode, pod: Pod): Promise<void> {
  const began = performance.now();
  t.deepEqual(await node.call('DEL', pod), { exitCode: 0, stdout: '', stderr: '' });
  t.true(performance.now() - began < generousMs);
}

/** No link, no lease, nothing queued. */
async function nothingIsLeft(t: ExecutionContext, node: CniNode): Promise<void> {
  t.deepEqual(queued(node), []);
  t.deepEqual(node.leases(), []);
  t.true(await eventually(async () => (await node.pairs()).length === 0));
}

function frame(env: Record<string, string>, config: object): Buffer {
  const variables = Buffer.from(
    Object.entries(env)
      .map(([name, value]) => `${name}=${value}\0`)
      .join(''),
  );
  const stdin = Buffer.from(JSON.stringify(config));
  const header = Buffer.alloc(12);
  for (const [at, value] of [frameMagic, variables.length, stdin.length].entries()) {
    header.writeUInt32LE(value, at * 4);
  }
  return Buffer.concat([header, variables, stdin]);
}

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  test(`after ${signal} of the daemon DEL succeeds at once, and the next daemon does it`, async (t) => {
    const node = CniNode.open(t);
    await node.start();
    const [pod, gone] = [await attach(t, node), await attach(t, node)];
    await node.kill(signal);
    await detach(t, node, pod);
    node.removeNamespace(gone);
    await detach(t, node, { containerId: gone.containerId, netns: '' });
    await detach(t, node, pod);
    t.is(queued(node).length, 2);
    await node.start();
    await nothingIsLeft(t, node);
    t.notRegex(await execIn(pod.netns, 'ip', 'link'), /eth0/);
    await detach(t, node, pod);
  });
}

test('without the daemon every other verb is an error of its code', async (t) => {
  const node = CniNode.open(t);
  const pod = node.pod();
  for (const [verb, code] of [
    ['ADD', 11],
    ['CHECK', 11],
    ['GC', 11],
    ['STATUS', 50],
  ] as const) {
    const { exitCode, stdout } = await node.call(verb, pod);
    t.is(exitCode, 1);
    t.is(JSON.parse(stdout).code, code);
  }
});

test('a DEL that the daemon died of is done by the next one', async (t) => {
  const node = CniNode.open(t);
  await node.start({ killAt: { point: 'del:begin', times: 1 } });
  const pod = await attach(t, node);
  await detach(t, node, pod);
  await node.ended();
  t.is(queued(node).length, 1);
  await node.start();
  await nothingIsLeft(t, node);
});

test('a daemon that is stopped holds up no DEL, and an ADD after it gets a new interface that stays', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const config = testConfig({ ipam: { subnet: '10.55.0.0/30' } });
  const pod = node.pod();
  t.is((await node.call('ADD', { ...pod, config })).exitCode, 0);
  process.kill(node.serverPid, 'SIGSTOP');
  const began = performance.now();
  t.is((await node.call('DEL', { ...pod, config })).exitCode, 0);
  t.true(performance.now() - began < generousMs);
  t.is(queued(node).length, 1);
  const again = node.call('ADD', { ...pod, config });
  await new Promise((resolve) => setTimeout(resolve, 50));
  process.kill(node.serverPid, 'SIGCONT');
  const { exitCode, stdout } = await again;
  t.is(exitCode, 0, stdout);
  t.deepEqual(queued(node), []);
  t.is(node.leases().length, 1);
  t.regex(await execIn(pod.netns, 'ip', 'addr', 'show', 'eth0'), /state UP/);
});

test("what is queued while a daemon runs frees its address for another container's ADD", async (t) => {
  const node = CniNode.open(t);
  await node.start();
  // One address for pods.
  const config = testConfig({ ipam: { subnet: '10.55.0.0/30' } });
  const first = node.pod();
  t.is((await node.call('ADD', { ...first, config })).exitCode, 0);
  // As the shim does when a daemon takes too long. The daemon looks now and then, perhaps before the next call.
  const call = { ...first, config, env: { FAIRLEAD_SOCKET: join(node.directory, 'nobody.sock') } };
  t.is((await node.call('DEL', call)).exitCode, 0);
  const { exitCode, stdout } = await node.call('ADD', { ...node.pod(), config });
  t.is(exitCode, 0, stdout);
  t.is(node.leases().length, 1);
});

test('a thousand queued DELs are done before anybody is served', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const pods = await Promise.all(Array.from({ length: 20 }, () => attach(t, node)));
  await node.kill('SIGKILL');
  await Promise.all(pods.map((pod) => detach(t, node, pod)));
  for (let i = 0; i < 980; i += 1) {
    const env = {
      CNI_COMMAND: 'DEL',
      CNI_CONTAINERID: `pod-${i}`,
      CNI_IFNAME: 'eth0',
      CNI_PATH: '/opt/cni/bin',
      FAIRLEAD_PLUGIN: 'fairlead',
    };
    writeFileSync(join(queueOf(node), `pod-${i}.eth0.0`), frame(env, testConfig()));
  }
  await node.start();
  await nothingIsLeft(t, node);
  t.regex(node.log.join('\n'), /"done":1000/);
});

test('what is no request is set aside and said, and the pods beside it are detached', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const pod = await attach(t, node);
  await node.kill('SIGKILL');
  await detach(t, node, pod);
  writeFileSync(join(queueOf(node), 'cut'), frame({ CNI_COMMAND: 'DEL' }, testConfig()).subarray(0, 40));
  writeFileSync(join(queueOf(node), 'unnamed'), frame({ CNI_COMMAND: 'DEL' }, testConfig()));
  await node.start();
  await nothingIsLeft(t, node);
  t.deepEqual(readdirSync(join(queueOf(node), 'refused')).toSorted(), ['cut', 'unnamed']);
  t.is(node.log.filter((line) => line.includes('was set aside')).length, 2);
});

test('with a full file system DEL is an error that says so, and succeeds when there is room', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const pod = await attach(t, node);
  await node.kill('SIGKILL');
  mkdirSync(queueOf(node), { recursive: true });
  execFileSync('/bin/mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', queueOf(node)]);
  try {
    const filler = join(queueOf(node), '.filler');
    writeFileSync(filler, Buffer.alloc(64 << 10));
    const { exitCode, stdout } = await node.call('DEL', pod);
    t.is(exitCode, 1);
    t.like(JSON.parse(stdout), { code: 11 });
    t.regex(JSON.parse(stdout).details, /cni-queue: no file can be \w+ in it: ENOSPC/);
    t.deepEqual(queued(node), ['.filler']);
    writeFileSync(filler, '');
    await detach(t, node, pod);
    await node.start();
    t.deepEqual(queued(node), ['.filler']);
    t.deepEqual(node.leases(), []);
    await node.kill('SIGKILL');
  } finally {
    execFileSync('/bin/umount', [queueOf(node)]);
  }
});
