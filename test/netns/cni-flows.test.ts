import { spawn } from 'node:child_process';
import { once } from 'node:events';
import test, { type ExecutionContext } from 'ava';
import { openConntrackSocket, readFlows } from '../../kernel/conntrack.ts';
import { openNamespace } from '../../kernel/netns.ts';
import { CniNode, execIn, type Pod, testConfig } from '../cni/node.ts';

const port = 8080;
/** What must come is waited for; what must not come would come soon. */
const answerLimitMs = 30_000;
const silenceMs = 1_500;
const nodeAddresses = ['192.0.2.1', '2001:db8::1'];

/** Answers every datagram with its name, in both families. */
const server = `
  for (const type of ['udp4', 'udp6']) {
    const socket = require('node:dgram').createSocket({ type, ipv6Only: type === 'udp6' });
    socket.on('message', (_, from) => socket.send(process.argv[1], from.port, from.address));
    socket.bind(80, () => console.log('ready'));
  }`;
/** Says who answers; always from the same port, as a client that goes on. */
const client = `
  const [, address, limitMs] = process.argv;
  const socket = require('node:dgram').createSocket(address.includes(':') ? 'udp6' : 'udp4');
  const end = (text) => { console.log(text); process.exit(); };
  socket.on('message', (answer) => end(String(answer)));
  socket.bind(5555, () => setInterval(() => socket.send('x', ${port}, address), 50));
  setTimeout(end, Number(limitMs), 'nobody');`;

async function serve(t: ExecutionContext, { netns }: Pod, name: string): Promise<void> {
  const child = spawn('nsenter', [`--net=${netns}`, process.execPath, '-e', server, '--', name], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
}

/** A machine on the node's wire. */
async function openOutside(node: CniNode) {
  const { netns } = node.pod();
  const name = netns.replace('/run/netns/', '');
  await node.exec('ip', 'link', 'add', 'wire', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name);
  const [node4 = '', node6 = ''] = nodeAddresses;
  await node.exec('ip', 'address', 'add', `${node4}/24`, 'dev', 'wire');
  await node.exec('ip', 'address', 'add', `${node6}/64`, 'dev', 'wire', 'nodad');
  await node.exec('ip', 'link', 'set', 'wire', 'up');
  await execIn(netns, 'ip', 'address', 'add', '192.0.2.9/24', 'dev', 'eth0');
  await execIn(netns, 'ip', 'address', 'add', '2001:db8::9/64', 'dev', 'eth0', 'nodad');
  await execIn(netns, 'ip', 'link', 'set', 'eth0', 'up');
  return async (address: string, limitMs = answerLimitMs) =>
    (await execIn(netns, process.execPath, '-e', client, '--', address, `${limitMs}`)).trim();
}

for (const backend of ['nftables', 'iptables']) {
  test(`a UDP client that goes on reaches who has the host port now, by ${backend}: flows are forgotten at ADD and DEL`, async (t) => {
    const node = CniNode.open(t);
    await node.start();
    const publish = (hostPort: number) =>
      testConfig({
        backend,
        runtimeConfig: { portMappings: [{ hostPort, containerPort: 80, protocol: 'udp' }] },
      });
    // Without any rule the kernel keeps no flows.
    t.is((await node.call('ADD', { ...node.pod(), config: publish(9090) })).exitCode, 0);
    const ask = await openOutside(node);
    using namespace = openNamespace(node.namespace);
    using conntrack = openConntrackSocket({ namespaceFd: namespace.fd });
    const flows = () =>
      readFlows(
        conntrack,
        ([4, 6] as const).map((family) => ({ family, protocol: 17, original: { dport: port } })),
      );
    for (const address of nodeAddresses) t.is(await ask(address, silenceMs), 'nobody');
    t.is((await flows()).length, 2, 'the kernel remembers that the node itself was meant');
    for (const name of ['first', 'second']) {
      const pod = node.pod();
      t.is((await node.call('ADD', { ...pod, config: publish(port) })).exitCode, 0);
      await serve(t, pod, name);
      for (const address of nodeAddresses) t.is(await ask(address), name, address);
      t.is((await flows()).length, 2);
      t.is((await node.call('DEL', { ...pod, config: publish(port) })).exitCode, 0);
      t.deepEqual(await flows(), []);
    }
  });
}
