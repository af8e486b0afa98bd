import { existsSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type CallOptions, CniNode, eventually, execIn, type Pod, testConfig } from '../cni/node.ts';

/** After a refused call: no link on the node or in the pod, no lease, no descriptor more than before. */
async function refuses(
  t: ExecutionContext,
  node: CniNode,
  options: CallOptions,
  expected: { code: number; msg: RegExp },
): Promise<void> {
  // Pairs that were detached a moment ago are still being deleted.
  await eventually(async () => (await node.pairs()).length === node.leases().length);
  const before = { pairs: await node.pairs(), leases: node.leases() };
  const { exitCode, stdout } = await node.call('ADD', options);
  t.is(exitCode, 1);
  const error = JSON.parse(stdout);
  t.is(error.code, expected.code, stdout);
  t.regex(error.msg, expected.msg);
  t.is(typeof error.cniVersion, 'string');
  t.deepEqual(await node.pairs(), before.pairs);
  t.deepEqual(node.leases(), before.leases);
  t.true(await eventually(async () => node.descriptors() <= shared.descriptors), `${node.descriptors()}`);
}

const shared = { node: undefined as CniNode | undefined, descriptors: 0 };

/** One node for all tests: what a refused call leaves behind is left for the next test to trip over. */
async function ready(): Promise<{ node: CniNode; pod: Pod }> {
  const node = shared.node ?? CniNode.create();
  if (shared.node === undefined) {
    shared.node = node;
    await node.start();
    // The first pod makes the bridge.
    const first = node.pod();
    await node.call('ADD', first);
    await node.call('DEL', first);
    await eventually(async () => (await node.pairs()).length === 0);
    shared.descriptors = await node.descriptorsAtRest();
  }
  return { node, pod: node.pod() };
}

test.after.always(() => shared.node?.[Symbol.asyncDispose]());

test.serial('input that is no JSON is code 6', async (t) => {
  const { node, pod } = await ready();
  await refuses(t, node, { ...pod, config: '{"name":' }, { code: 6, msg: /error unmarshall network config/ });
});

test.serial('a version that nobody knows is code 1', async (t) => {
  const { node, pod } = await ready();
  const config = testConfig({ cniVersion: '7.0.0' });
  await refuses(t, node, { ...pod, config }, { code: 1, msg: /incompatible CNI versions/ });
});

test.serial(
  'a host port that another pod has is code 7, and the pair that was begun with is gone',
  async (t) => {
    const { node, pod } = await ready();
    const portMappings = [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }];
    const config = testConfig({ runtimeConfig: { portMappings } });
    t.is((await node.call('ADD', { ...pod, config })).exitCode, 0);
    const next = node.pod();
    await refuses(t, node, { ...next, config }, { code: 7, msg: /hostPort 8080\/tcp is already taken by/ });
    t.notRegex(await execIn(next.netns, 'ip', 'link'), /eth0/);
    t.is((await node.call('DEL', { ...pod, config })).exitCode, 0);
  },
);

test.serial('missing variables are code 4 and named', async (t) => {
  const { node } = await ready();
  const env = { CNI_IFNAME: '' };
  await refuses(t, node, { containerId: 'x', env }, { code: 4, msg: /\[CNI_NETNS,CNI_IFNAME\] missing/ });
});

test.serial('a namespace that is not there is code 8', async (t) => {
  const { node } = await ready();
  const options = { containerId: 'x', netns: '/run/netns/no-such-namespace' };
  await refuses(t, node, options, { code: 8, msg: /failed to open netns "\/run\/netns\/no-such-namespace"/ });
});

test.serial('a file that is no namespace is code 8', async (t) => {
  const { node } = await ready();
  const path = join(node.directory, 'file');
  writeFileSync(path, '');
  await refuses(t, node, { containerId: 'x', netns: path }, { code: 8, msg: /not a network namespace/ });
});

test.serial('a namespace of another kind is refused and leaves nothing', async (t) => {
  const { node } = await ready();
  await refuses(
    t,
    node,
    { containerId: 'x', netns: '/proc/self/ns/uts' },
    { code: 999, msg: /failed to attach eth0/ },
  );
});

test.serial("the node's own namespace is code 8, before anything is done to it", async (t) => {
  const { node } = await ready();
  const options = { containerId: 'x', netns: node.namespace };
  await refuses(t, node, options, { code: 8, msg: /should not be the same/ });
});

test.serial('the container has an interface of that name already: code 4', async (t) => {
  const { node, pod } = await ready();
  await execIn(pod.netns, 'ip', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth9');
  await refuses(t, node, pod, { code: 4, msg: /interface "eth0" already exists in "\/run\/netns\// });
});

test.serial('ADD of what is attached is refused, and the attachment stays', async (t) => {
  const { node, pod } = await ready();
  t.is((await node.call('ADD', pod)).exitCode, 0);
  await refuses(t, node, pod, { code: 4, msg: /interface "eth0" already exists/ });
  t.regex(await execIn(pod.netns, 'ip', 'addr', 'show', 'eth0'), /state UP/);
  await node.call('DEL', pod);
});

test.serial('a pool with nothing left is code 11 and names the range', async (t) => {
  const { node, pod } = await ready();
  const config = testConfig({ name: 'tiny', bridge: 'tiny0', ipam: { subnet: '10.77.0.0/30' } });
  t.is((await node.call('ADD', { ...pod, config })).exitCode, 0);
  const second = { ...node.pod(), config };
  await refuses(t, node, second, {
    code: 11,
    msg: /no IP addresses available in range set: 10\.77\.0\.1-10\.77\.0\.2$/,
  });
  t.is((await node.call('DEL', { ...pod, config })).exitCode, 0);
  t.is((await node.call('ADD', second)).exitCode, 0);
  t.is((await node.call('DEL', second)).exitCode, 0);
});

test.serial('with one family exhausted the other keeps nothing', async (t) => {
  const { node } = await ready();
  const ipam = { ranges: [[{ subnet: '10.78.0.0/24' }], [{ subnet: 'fd78::/126' }]] };
  const config = testConfig({ name: 'small6', bridge: 'small60', ipam });
  const [a, b] = [node.pod(), node.pod()];
  t.is((await node.call('ADD', { ...a, config })).exitCode, 0);
  t.is((await node.call('ADD', { ...b, config })).exitCode, 0);
  await refuses(t, node, { ...node.pod(), config }, { code: 11, msg: /range set: fd78::1-fd78::3/ });
  for (const pod of [a, b]) await node.call('DEL', { ...pod, config });
});

test.serial('a configuration with bad values is code 7 with every path', async (t) => {
  const { node, pod } = await ready();
  const config = testConfig({ mtu: 'x', ipam: { ranges: [[{ subnet: '10.0.0.0/31' }]] } });
  await refuses(
    t,
    node,
    { ...pod, config },
    { code: 7, msg: /mtu: .*ipam\.ranges\[0\]\[0\]\.subnet: Network/ },
  );
});

test.serial('a link that is no bridge in place of the bridge is code 7', async (t) => {
  const { node, pod } = await ready();
  await node.exec('ip', 'link', 'add', 'dum0', 'type', 'veth', 'peer', 'name', 'dum1');
  const config = testConfig({ bridge: 'dum0' });
  await refuses(t, node, { ...pod, config }, { code: 7, msg: /"dum0" already exists but is not a bridge/ });
});

test.serial('a route that cannot be leaves nothing of the interface', async (t) => {
  const { node, pod } = await ready();
  const ipam = { subnet: '10.55.0.0/24', routes: [{ dst: '10.9.0.0/16', gw: '10.200.0.1' }] };
  await refuses(
    t,
    node,
    { ...pod, config: testConfig({ ipam }) },
    { code: 999, msg: /RTM_NEWROUTE 10\.9\.0\.0\/16/ },
  );
  t.notRegex(await execIn(pod.netns, 'ip', 'link'), /eth0/);
});

test.serial('a daemon that has no subnet yet says try again', async (t) => {
  const { node, pod } = await ready();
  const config = { cniVersion: '1.0.0', name: 'cluster', type: 'fairlead' };
  await refuses(t, node, { ...pod, config }, { code: 11, msg: /the node has no pod subnet yet/ });
});

test.serial('no daemon is code 11 for ADD, said by the shim', async (t) => {
  const node = CniNode.open(t);
  const { exitCode, stdout } = await node.call('ADD', node.pod());
  t.is(exitCode, 1);
  t.is(JSON.parse(stdout).code, 11);
});

test.serial('DEL succeeds twice, without ADD, and with the namespace gone', async (t) => {
  const { node, pod } = await ready();
  t.deepEqual(await node.call('DEL', node.pod()), { exitCode: 0, stdout: '', stderr: '' });
  t.is((await node.call('ADD', pod)).exitCode, 0);
  node.removeNamespace(pod);
  t.is((await node.call('DEL', pod)).exitCode, 0);
  t.is((await node.call('DEL', { containerId: pod.containerId })).exitCode, 0);
  t.deepEqual(node.leases(), []);
  t.true(await eventually(async () => (await node.pairs()).length === 0));
});

test.serial('DEL works when the configuration has become useless meanwhile', async (t) => {
  const { node, pod } = await ready();
  t.is((await node.call('ADD', pod)).exitCode, 0);
  const config = { cniVersion: '1.0.0', name: 'testnet', type: 'fairlead', ipam: { ranges: 'x' } };
  t.is((await node.call('DEL', { ...pod, config })).exitCode, 0);
  t.deepEqual(node.leases(), []);
});

test.serial('ADD right after DEL of the same interface does not meet the old one', async (t) => {
  const { node, pod } = await ready();
  for (let round = 0; round < 3; round += 1) {
    t.is((await node.call('ADD', pod)).exitCode, 0);
    t.is((await node.call('DEL', pod)).exitCode, 0);
  }
  const other = { ...pod, containerId: `${pod.containerId}x` };
  t.is((await node.call('ADD', other)).exitCode, 0);
  t.is((await node.call('DEL', other)).exitCode, 0);
});

test.serial('clients that send rubbish or nothing disturb nobody', async (t) => {
  const { node, pod } = await ready();
  const sockets = Array.from({ length: 20 }, () => connect(node.socketPath));
  for (const socket of sockets) socket.on('error', () => {});
  sockets[0]?.write('GET / HTTP/1.0\r\n\r\n');
  sockets[1]?.end();
  t.is((await node.call('ADD', pod)).exitCode, 0);
  for (const socket of sockets) socket.destroy();
  t.is((await node.call('DEL', pod)).exitCode, 0);
});

test.serial('a second daemon on the same directory is refused', async (t) => {
  const { node } = await ready();
  const second = CniNode.open(t);
  await t.throwsAsync(second.start({ stateDir: node.stateDir }), {
    message: /process \d+ uses this directory/,
  });
});

test.serial('a daemon that is told to end ends orderly and leaves the pods', async (t) => {
  const { node, pod } = await ready();
  t.is((await node.call('ADD', pod)).exitCode, 0);
  await node.kill('SIGTERM');
  t.false(existsSync(node.socketPath));
  t.is((await node.pairs()).length, 1);
  t.is(JSON.parse((await node.call('ADD', node.pod())).stdout).code, 11);
  await node.start();
  t.is((await node.call('DEL', pod)).exitCode, 0);
  t.deepEqual(node.leases(), []);
  t.true(await eventually(async () => (await node.pairs()).length === 0));
});
