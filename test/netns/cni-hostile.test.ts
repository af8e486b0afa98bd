import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import test from 'ava';
import { type CallResult, CniNode, eventually, execIn, testConfig } from '../cni/node.ts';

const codeOf = ({ exitCode, stdout }: CallResult): number => (exitCode === 0 ? 0 : JSON.parse(stdout).code);

async function isClean(node: CniNode): Promise<boolean> {
  return (await node.pairs()).length + node.leases().length === 0;
}

test('a pipe or a device in the place of a file is refused at once, and holds up nobody', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const pipe = join(node.directory, 'pipe');
  execFileSync('mkfifo', [pipe]);
  const startedMs = performance.now();
  for (const path of [pipe, '/dev/zero', node.directory]) {
    const ipam = { type: 'host-local', ranges: [[{ subnet: '10.55.0.0/24' }]], resolvConf: path };
    const pod = node.pod();
    for (const [code, options] of [
      [5, { type: 'bridge', ipam }],
      [11, { type: 'flannel', subnetFile: path }],
    ] as const) {
      const config = testConfig(options);
      const refused = await node.call('ADD', { ...pod, config });
      t.is(codeOf(refused), code, refused.stdout);
      t.regex(refused.stdout, /is no regular file/);
      t.is(codeOf(await node.call('DEL', { ...pod, config })), 0);
    }
    t.is(codeOf(await node.call('ADD', node.pod())), 0);
  }
  // Far above what it takes, and below the time of one call that is not answered.
  t.true(performance.now() - startedMs < 25_000);
});

test('names of bridges that the kernel would take for something else are refused', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  for (const bridge of ['br%d', 'all', 'default', 'é', 'a/b', '..', 'br0\n']) {
    const refused = await node.call('ADD', { ...node.pod(), config: testConfig({ bridge }) });
    t.is(codeOf(refused), 7, refused.stdout);
  }
  t.deepEqual(await node.links(), []);
});

test('a container may have a name of 100,000 characters and an interface one of four bytes a letter', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const pod = { ...node.pod(), containerId: 'x'.repeat(100_000), ifname: '😀😀😀' };
  const added = await node.call('ADD', pod);
  t.is(codeOf(added), 0, added.stdout);
  t.is(JSON.parse(added.stdout).interfaces[2].name, pod.ifname);
  t.regex(await execIn(pod.netns, 'ip', '-o', 'link'), /😀😀😀/);
  t.is(codeOf(await node.call('DEL', pod)), 0);
  t.true(await eventually(() => isClean(node)));
});

test('what a refusal quotes is cut', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  for (const config of [
    testConfig({ mtu: 'x'.repeat(900_000) }),
    testConfig({ name: `${'x'.repeat(900_000)}/` }),
  ]) {
    const refused = await node.call('ADD', { ...node.pod(), config });
    t.is(codeOf(refused), 7);
    t.true(refused.stdout.length < 20_000);
  }
});

test('ADD and DEL of the same containers at the same time: after a last DEL nothing is left', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const pods = Array.from({ length: 6 }, () => node.pod());
  const config = testConfig({
    ipMasq: true,
    ipam: { ranges: [[{ subnet: '10.55.0.0/24' }], [{ subnet: 'fd55::/64' }]] },
  });
  const calls = pods.flatMap((pod) =>
    ['ADD', 'DEL', 'ADD', 'ADD', 'DEL', 'DEL', 'ADD'].map((verb) => ({ verb, pod })),
  );
  const results = await Promise.all(
    calls.map(async ({ verb, pod }) => ({ verb, code: codeOf(await node.call(verb, { ...pod, config })) })),
  );
  // Of two ADDs one finds the interface of the other.
  t.deepEqual(
    results.filter(({ verb, code }) => code !== 0 && !(verb === 'ADD' && code === 4)),
    [],
  );
  for (const pod of pods) t.is(codeOf(await node.call('DEL', { ...pod, config })), 0);
  t.true(await eventually(() => isClean(node)));
  for (const { netns } of pods) t.notRegex(await execIn(netns, 'ip', '-o', 'link'), /eth0/);
});

test('two networks that want the same interface at the same time: one gets it, and keeps it', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  for (let round = 0; round < 5; round += 1) {
    const pod = node.pod();
    const calls = ['one', 'two'].map((name) => node.call('ADD', { ...pod, config: testConfig({ name }) }));
    t.deepEqual((await Promise.all(calls)).map(codeOf).sort(), [0, 4]);
    t.is(node.leases().length, 1);
    t.regex(await execIn(pod.netns, 'ip', '-o', 'addr'), /10\.55\.0\./);
    for (const name of ['one', 'two']) await node.call('DEL', { ...pod, config: testConfig({ name }) });
  }
  t.true(await eventually(() => isClean(node)));
});

test('of many that want one host port at the same time one gets it', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const runtimeConfig = { portMappings: [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }] };
  const config = testConfig({ runtimeConfig });
  const pods = Array.from({ length: 12 }, () => node.pod());
  const codes = (await Promise.all(pods.map((pod) => node.call('ADD', { ...pod, config })))).map(codeOf);
  t.is(codes.filter((code) => code === 0).length, 1);
  t.is(node.leases().length, 1);
  for (const pod of pods) t.is(codeOf(await node.call('DEL', { ...pod, config })), 0);
  t.true(await eventually(() => isClean(node)));
});

test('GC while containers are attached and detached: those attached stay if the runtime names them', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const pods = Array.from({ length: 20 }, () => node.pod());
  const named = pods.map(({ containerId }) => ({ containerID: containerId, ifname: 'eth0' }));
  const config = testConfig({ cniVersion: '1.1.0' });
  const gc = (list: object[]) =>
    node.call('GC', { containerId: '', config: { ...config, 'cni.dev/valid-attachments': list } });
  const calls = pods.flatMap((pod) => [
    node.call('ADD', { ...pod, config }),
    gc(named),
    node.call('DEL', { ...node.pod(), config }),
  ]);
  t.deepEqual(
    (await Promise.all(calls)).map(codeOf).filter((code) => code !== 0),
    [],
  );
  t.is(node.leases().length, pods.length);
  const all = await Promise.all([gc([]), ...pods.map((pod) => node.call('DEL', { ...pod, config }))]);
  t.deepEqual(
    all.map(codeOf).filter((code) => code !== 0),
    [],
  );
  t.true(await eventually(() => isClean(node)));
});
