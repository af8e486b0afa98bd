import { spawn } from 'node:child_process';
import { once } from 'node:events';
import test, { type ExecutionContext } from 'ava';
import { CniNode, execIn, type Pod, testConfig } from '../cni/node.ts';

/* Several networks on one container, as podman and nerdctl attach them: each call has all of its published ports. */

const server = `require('node:net').createServer((socket) => socket.end(socket.localAddress))
  .listen(80, '0.0.0.0', () => console.log('ready'));`;

async function serve(t: ExecutionContext, { netns }: Pod): Promise<void> {
  const child = spawn('nsenter', [`--net=${netns}`, process.execPath, '-e', server], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
}

const client = `require('node:net').connect(8080, '192.0.2.1')
  .on('error', ({ code }) => console.log(code)).on('data', (data) => console.log(String(data)));`;

/** The address by which the node reaches whoever has its port 8080. */
async function called(node: CniNode): Promise<string> {
  return (await node.exec(process.execPath, '-e', client)).trim();
}

const networks = ['10.55.0.0/24', '10.56.0.0/24'].map((subnet, index) => (backend: string) => ({
  ifname: `eth${index}`,
  config: testConfig({
    name: `net${index}`,
    bridge: `cni${index}`,
    backend,
    ipam: { ranges: [[{ subnet }]] },
    runtimeConfig: { portMappings: [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }] },
  }),
}));

for (const backend of ['nftables', 'iptables']) {
  test(`both networks of a container have its host port, by ${backend}: the first serves, then the second`, async (t) => {
    const node = CniNode.open(t);
    await node.start();
    await node.exec('ip', 'link', 'set', 'lo', 'up');
    await node.exec('ip', 'addr', 'add', '192.0.2.1/32', 'dev', 'lo');
    const [pod, other] = [node.pod(), node.pod()];
    const [first, second] = networks.map((network) => ({ ...network(backend), ...pod }));
    if (first === undefined || second === undefined) return t.fail();
    const results: object[] = [];
    for (const network of [first, second]) {
      const { exitCode, stdout } = await node.call('ADD', network);
      t.is(exitCode, 0, stdout);
      results.push(JSON.parse(stdout));
    }
    // Of another container it stays refused.
    t.regex(
      (await node.call('ADD', { ...second, ...other })).stdout,
      /hostPort 8080.tcp is already taken by/,
    );
    await execIn(pod.netns, 'ip', 'link', 'set', 'lo', 'up');
    await serve(t, pod);
    t.is(await called(node), '10.55.0.2');
    for (const [index, network] of [first, second].entries()) {
      const config = { ...network.config, prevResult: results[index] };
      t.like(await node.call('CHECK', { ...network, config }), { exitCode: 0, stdout: '' });
    }
    await node.kill('SIGKILL');
    await node.start();
    t.is(await called(node), '10.55.0.2');
    t.is((await node.call('DEL', first)).exitCode, 0);
    t.is(await called(node), '10.56.0.2');
    const again = await node.call('ADD', first);
    t.is(again.exitCode, 0, again.stdout);
    t.is(await called(node), '10.56.0.2');
    t.is((await node.call('DEL', second)).exitCode, 0);
    t.is(await called(node), '10.55.0.3');
    t.is((await node.call('DEL', first)).exitCode, 0);
    t.deepEqual(node.leases(), []);
    t.notRegex(await node.exec('/usr/sbin/nft', 'list', 'ruleset'), /8080/);
  });
}

test('two networks with one range give no address twice, and say who has the one that is asked for', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const ipam = { ranges: [[{ subnet: '10.55.0.0/24' }]] };
  const attach = (name: string, options: object = {}) => {
    const pod = node.pod();
    const config = testConfig({ name, bridge: name, ipam, ...options });
    return node.call('ADD', { ...pod, config }).then(({ stdout }) => ({ pod, answer: JSON.parse(stdout) }));
  };
  const first = await attach('red');
  const second = await attach('blue');
  t.deepEqual(
    [first, second].map(({ answer }) => answer.ips[0].address),
    ['10.55.0.2/24', '10.55.0.3/24'],
  );
  const { answer } = await attach('blue', { runtimeConfig: { ips: ['10.55.0.2'] } });
  t.like(answer, { code: 11, details: `10.55.0.2 is held by red/${first.pod.containerId}/eth0` });
});
