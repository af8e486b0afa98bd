import { readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { FaultPoint } from '../../cni/attacher.ts';
import { CniNode, eventually, execIn, testConfig } from '../cni/node.ts';
import { ForeignIpam } from './foreign-ipam.ts';

async function setUp(t: ExecutionContext, options: Parameters<CniNode['start']>[0] = {}) {
  const node = CniNode.open(t);
  await node.start(options);
  const others = new ForeignIpam(node);
  /** Nothing of ours, and no address of theirs. */
  const nothingIsLeft = async () => {
    t.deepEqual(others.held(), []);
    t.deepEqual(node.leases(), []);
    t.true(await eventually(async () => (await node.pairs()).length === 0));
  };
  return { node, others, nothingIsLeft };
}

test.serial(
  'DEL of a pod that others attached tells the foreign plugin, and so does DEL without ADD',
  async (t) => {
    const { node, others, nothingIsLeft } = await setUp(t);
    const pod = node.pod();
    others.hold(pod.containerId);
    for (const type of ['bridge', 'ptp', 'fairlead']) {
      const config = testConfig({ type, ipam: { type: 'others' }, mtu: 'useless' });
      others.hold(pod.containerId);
      t.is((await others.call('DEL', pod, config)).stdout, '');
      t.is((await others.call('DEL', pod, config)).stdout, '');
      await nothingIsLeft();
    }
  },
);

test.serial(
  "flannel's note of a pod from before tells which foreign plugin, and with which configuration",
  async (t) => {
    const { node, others, nothingIsLeft } = await setUp(t);
    const { containerId } = node.pod();
    others.hold(containerId);
    const note = testConfig({ type: 'bridge', ipam: { type: 'others' } });
    writeFileSync(join(node.directory, containerId), JSON.stringify(note));
    const config = { cniVersion: '0.3.1', name: 'testnet', type: 'flannel', dataDir: node.directory };
    t.is((await others.call('DEL', { containerId }, config)).stdout, '');
    await nothingIsLeft();
    t.false(readdirSync(node.directory).includes(containerId));
  },
);

test.serial(
  'after a reboot and while no daemon runs: DEL tells the foreign plugin all the same',
  async (t) => {
    const { node, others, nothingIsLeft } = await setUp(t);
    const [gone, rebooted] = [node.pod(), node.pod()];
    for (const pod of [gone, rebooted]) t.is((await others.call('ADD', pod)).exitCode, 0);
    await node.kill('SIGKILL');
    node.removeNamespace(gone);
    t.true(await eventually(async () => (await node.pairs()).length === 1));
    t.is((await others.call('DEL', gone)).exitCode, 0);
    await node.start();
    t.true(await eventually(async () => !others.held().includes(gone.containerId)));
    await node.kill('SIGKILL');
    // Of another boot.
    rmSync(join(node.stateDir, 'leases.journal'));
    await node.start();
    t.deepEqual(others.held(), [rebooted.containerId]);
    t.is((await others.call('DEL', rebooted)).exitCode, 0);
    await nothingIsLeft();
  },
);

test.serial('what the kernel lost while no daemon ran is kept in mind for the foreign plugin', async (t) => {
  const { node, others, nothingIsLeft } = await setUp(t);
  const pod = node.pod();
  await others.call('ADD', pod);
  await node.kill('SIGKILL');
  node.removeNamespace(pod);
  t.true(await eventually(async () => (await node.pairs()).length === 0));
  await node.start();
  t.is(node.leases().length, 1);
  // The configuration has another address management by now.
  t.is((await others.call('DEL', pod, testConfig())).exitCode, 0);
  await nothingIsLeft();
});

test.serial('a foreign plugin that fails keeps nothing of ours, and is told again', async (t) => {
  const { node, others, nothingIsLeft } = await setUp(t);
  const portMappings = [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }];
  const config = { ...others.config, runtimeConfig: { portMappings } };
  const pod = node.pod();
  t.is((await others.call('ADD', pod, config)).exitCode, 0);
  others.break(true);
  for (let time = 0; time < 2; time += 1) {
    t.like(JSON.parse((await others.call('DEL', pod, config)).stdout), { code: 7, msg: 'others is broken' });
    t.true(await eventually(async () => (await node.pairs()).length === 0));
    t.notRegex(await execIn(pod.netns, 'ip', 'link'), /eth0/);
    t.notRegex(await node.exec('/usr/sbin/nft', 'list', 'ruleset'), /8080/);
  }
  const prevResult = { cniVersion: '1.0.0', interfaces: [], ips: [] };
  t.regex((await others.call('CHECK', pod, { ...config, prevResult })).stdout, /has made nothing/);
  t.deepEqual(others.held(), [pod.containerId]);
  others.break(false);
  t.is((await others.call('DEL', pod, config)).exitCode, 0);
  await nothingIsLeft();
});

test.serial('a queued DEL that a foreign plugin refuses for good takes away what is ours', async (t) => {
  const { node, others } = await setUp(t);
  const pod = node.pod();
  await others.call('ADD', pod);
  await node.kill('SIGKILL');
  others.break(true);
  t.is((await others.call('DEL', pod)).exitCode, 0);
  await node.start();
  t.true(await eventually(async () => (await node.pairs()).length === 0));
  t.notRegex(await execIn(pod.netns, 'ip', 'link'), /eth0/);
  t.is(readdirSync(join(node.directory, 'cni-queue', 'refused')).length, 1);
  others.break(false);
  t.is((await others.call('DEL', pod)).exitCode, 0);
  t.deepEqual([others.held(), node.leases()], [[], []]);
});

const killedAt: readonly FaultPoint[] = [
  'add:asking',
  'add:allocated',
  'add:recorded',
  'add:attachment',
  'del:attachment',
  'del:quiesced',
  'del:released',
  'del:told',
];
for (const point of killedAt) {
  test.serial(
    `killed at ${point} with a foreign plugin: its address comes back, whatever DEL is told`,
    async (t) => {
      const { node, others, nothingIsLeft } = await setUp(t, { killAt: { point, times: 1 } });
      const pod = node.pod();
      await others.call('ADD', pod);
      if (point.startsWith('del:')) await others.call('DEL', pod);
      await node.ended();
      await node.start();
      t.is((await others.call('DEL', pod, testConfig())).exitCode, 0);
      await nothingIsLeft();
      t.is((await others.call('ADD', node.pod())).exitCode, 0);
    },
  );
}
