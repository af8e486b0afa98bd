import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import type { Outcome } from '../../cli/cluster/workload.ts';
import type { Workload } from '../../cli/cluster/workload-client.ts';
import { CniError } from '../../cni/error.ts';
import { type Fields, foldKeys } from '../../cni/fields.ts';
import { hostPortsOf, staleFlows } from '../../cni/types/hostport.ts';
import { planMasquerade } from '../../cni/types/masquerade.ts';
import { type PortmapRows, parsePortmap, planPortmap } from '../../cni/types/portmap.ts';
import { deleteFlows, readFlows } from '../../kernel/conntrack.ts';
import { heldBy } from '../cni/host-port-holders.ts';
import { type FilterLab, type FilterPod, openFilterLab } from './cni-filter-lab.ts';

const run = promisify(execFile);
const NFT = '/usr/sbin/nft';
const gateway4 = '10.244.1.1';
const gateway6 = 'fd00:10:244:1::1';

function orThrow<T>(value: T | CniError): T {
  if (value instanceof CniError) throw value;
  return value;
}

function portmap(mappings: readonly object[], options: object = {}): Fields {
  return foldKeys({ type: 'portmap', ...options, runtimeConfig: { portMappings: mappings } });
}

/** TCP and UDP 8080 to the pod's 80, unless told otherwise. */
function rowsOf(pod: FilterPod, mappings: readonly object[] = both, options: object = {}): PortmapRows {
  const config = orThrow(parsePortmap(portmap(mappings, options)));
  return orThrow(planPortmap(config, { 4: pod.addresses[0], 6: pod.addresses[1] }));
}

const both = [
  { hostPort: 8080, containerPort: 80, protocol: 'tcp' },
  { hostPort: 8080, containerPort: 80, protocol: 'UDP' },
];

function url(address: string, port: number): string {
  return `http://${address.includes(':') ? `[${address}]` : address}:${port}/`;
}

/** Who answered and whom it saw, or the error. */
function told(outcome: Outcome): string {
  return outcome.ok ? `${outcome.answer?.name} saw ${outcome.answer?.peer}` : 'no answer';
}

/** What must come is waited for, whatever else the processors do; what must not come would come soon. */
const ANSWER_LIMIT_MS = 30_000;
const SILENCE_MS = 1_500;

async function ask(
  from: Workload,
  address: string,
  port: number,
  limitMs = ANSWER_LIMIT_MS,
): Promise<string> {
  return told(await from.get(url(address, port), limitMs));
}

async function askUdp(from: Workload, address: string, port: number): Promise<string> {
  return told(await from.datagram(address, port, ANSWER_LIMIT_MS));
}

/** An answer by TCP and one by UDP. */
async function reaches(t: ExecutionContext, from: Workload, address: string, expected: string, port = 8080) {
  t.is(await ask(from, address, port), expected, `TCP ${address}:${port}`);
  t.is(await askUdp(from, address, port), expected, `UDP ${address}:${port}`);
}

async function oneHost(
  t: ExecutionContext,
): Promise<{ lab: FilterLab; pod: FilterPod; node: readonly string[] }> {
  const lab = await openFilterLab(t);
  const pod = await lab.addPod(5);
  return { lab, pod, node: lab.node.addresses };
}

test('a host port is reached from outside, both families, TCP and UDP, and the pod sees who calls', async (t) => {
  const { lab, pod, node } = await oneHost(t);
  const [node4 = '', node6 = ''] = node;
  const [outside4, outside6] = lab.lab.outside.addresses;
  const outside = lab.client('outside');
  t.is(await ask(outside, node4, 8080, SILENCE_MS), 'no answer');
  await lab.filter(rowsOf(pod));
  await reaches(t, outside, node4, `pod5 saw ${outside4}`);
  await reaches(t, outside, node6, `pod5 saw ${outside6}`);
  t.is(await ask(outside, node4, 8081, SILENCE_MS), 'no answer', 'another port');
});

test('the node reaches the pod by its host port, at its own addresses and at 127.0.0.1', async (t) => {
  const { lab, pod, node } = await oneHost(t);
  await lab.filter(rowsOf(pod));
  const client = lab.client('node');
  await reaches(t, client, '127.0.0.1', `pod5 saw ${gateway4}`);
  t.regex(await ask(client, node[0] ?? '', 8080), /^pod5 saw/);
  t.regex(await ask(client, node[1] ?? '', 8080), /^pod5 saw/);
  const refused = await client.get(url('::1', 8080), 1500);
  t.true(!refused.ok && refused.error.includes('ECONNREFUSED'), JSON.stringify(refused));
});

test('what listens on the loopback of the node is not reached by pods, in spite of route_localnet', async (t) => {
  const { lab, pod } = await oneHost(t);
  const client = lab.client('node');
  await client.serve('node', 9090);
  lab.run(pod.namespace, '/usr/sbin/ip route add 127.0.0.2/32 via 10.244.1.1');
  lab.run(pod.namespace, '/usr/sbin/sysctl -qw net.ipv4.conf.eth0.route_localnet=1');
  lab.run(pod.namespace, '/usr/sbin/ip route flush table local 127.0.0.0/8');
  t.regex(await ask(pod.workload, '127.0.0.2', 9090), /^node saw/, 'the hole is there');
  await lab.filter(rowsOf(pod));
  t.is(await ask(pod.workload, '127.0.0.2', 9090, SILENCE_MS), 'no answer');
});

for (const bridgeNetfilter of [0, 1]) {
  const filtering = bridgeNetfilter === 0 ? 'without' : 'with';
  test(`a pod reaches its own host port and that of its neighbour, ${filtering} br_netfilter`, async (t) => {
    const { lab, pod, node } = await oneHost(t);
    const neighbour = await lab.addPod(6);
    for (const kind of ['iptables', 'ip6tables']) {
      lab.run(
        lab.node.namespace,
        `/usr/sbin/sysctl -qw net.bridge.bridge-nf-call-${kind}=${bridgeNetfilter}`,
      );
    }
    await lab.filter(rowsOf(pod));
    for (const { workload } of [pod, neighbour]) {
      await reaches(t, workload, node[0] ?? '', `pod5 saw ${gateway4}`);
      await reaches(t, workload, node[1] ?? '', `pod5 saw ${gateway6}`);
    }
    t.is(
      await ask(neighbour.workload, pod.ips[0], 80),
      `pod5 saw ${neighbour.ips[0]}`,
      'not by the host port',
    );
  });
}

test('a host port on one address is only there; two pods share a port on two addresses', async (t) => {
  const { lab, pod, node } = await oneHost(t);
  const other = await lab.addPod(6);
  lab.run(lab.node.namespace, '/usr/sbin/ip addr add 172.30.0.77/24 dev eth0');
  const at = (hostIP: string) => [{ hostPort: 8080, containerPort: 80, protocol: 'tcp', hostIP }];
  const rows = [rowsOf(pod, at('172.30.0.77')), rowsOf(other, at(node[0] ?? ''))];
  await lab.filter({ elements: rows.flatMap(({ elements }) => elements) });
  const outside = lab.client('outside');
  const [outside4] = lab.lab.outside.addresses;
  t.is(await ask(outside, '172.30.0.77', 8080), `pod5 saw ${outside4}`);
  t.is(await ask(outside, node[0] ?? '', 8080), `pod6 saw ${outside4}`);
  t.is(await ask(outside, node[1] ?? '', 8080, SILENCE_MS), 'no answer', 'IPv6');
  const conflict = heldBy('abc', rows[1] ?? {}).conflict('next', rowsOf(pod));
  t.is(conflict?.message, 'hostPort 8080/tcp is already taken by abc');
});

/** Counts what leaves the node after all our chains, and what of it has a priority. */
function countPriorities({
  node,
  run: runIn,
}: FilterLab): () => { readonly all: number; readonly set: number } {
  const nft = (words: string) => runIn(node.namespace, `${NFT} ${words}`);
  nft('add table inet watch');
  nft('add chain inet watch last { type filter hook postrouting priority 200 ; }');
  nft('add rule inet watch last meta l4proto { tcp, udp } counter comment "all"');
  nft('add rule inet watch last meta l4proto { tcp, udp } meta priority != 0 counter comment "set"');
  return () => {
    const listing = nft('list chain inet watch last');
    const counted = (comment: string) =>
      Number(new RegExp(`packets (\\d+) bytes \\d+ comment "${comment}"`).exec(listing)?.[1]);
    return { all: counted('all'), set: counted('set') };
  };
}

test('masqAll hides every caller, and without snat the pod has to find its own way', async (t) => {
  const { lab, pod, node } = await oneHost(t);
  const outside = lab.client('outside');
  const priorities = countPriorities(lab);
  await lab.filter(rowsOf(pod, both, { masqAll: true }));
  await reaches(t, outside, node[0] ?? '', `pod5 saw ${gateway4}`);
  await reaches(t, outside, node[1] ?? '', `pod5 saw ${gateway6}`);
  t.true(priorities().all > 0);
  t.is(priorities().set, 0, 'the scope does not leave with the packet');
  await lab.filter(rowsOf(pod, both, { snat: false }));
  t.is(await ask(outside, node[0] ?? '', 8080), `pod5 saw ${lab.lab.outside.addresses[0]}`);
  t.is(await ask(pod.workload, node[0] ?? '', 8080, SILENCE_MS), 'no answer');
});

test('host ports come back when somebody flushed the ruleset', async (t) => {
  const { lab, pod, node } = await oneHost(t);
  const outside = lab.client('outside');
  const rows = rowsOf(pod);
  await lab.filter(rows);
  lab.run(lab.node.namespace, `${NFT} flush ruleset`);
  t.is(await ask(outside, node[0] ?? '', 8080, SILENCE_MS), 'no answer');
  await lab.filter(rows);
  t.regex(await ask(outside, node[0] ?? '', 8080), /^pod5/);
});

test('translation by somebody else wins over a host port', async (t) => {
  const { lab, pod, node } = await oneHost(t);
  const other = await lab.addPod(6);
  await lab.filter(rowsOf(pod));
  lab.run(lab.node.namespace, `${NFT} add table ip x`);
  const hook = '{ type nat hook prerouting priority dstnat ; }';
  lab.run(lab.node.namespace, `${NFT} add chain ip x c ${hook}`);
  lab.run(lab.node.namespace, `${NFT} add rule ip x c tcp dport 8080 dnat to ${other.ips[0]}:80`);
  t.regex(await ask(lab.client('outside'), node[0] ?? '', 8080), /^pod6/);
});

/** Runs a program of Node in a namespace; gives what it prints. */
async function program(namespace: string, text: string, ...args: readonly string[]): Promise<string> {
  const words = [`--net=/run/netns/${namespace}`, process.execPath, '-e', text, '--', ...args];
  return (await run('/usr/bin/nsenter', words)).stdout.trim();
}

const sendFrom5555 = `
  const [, address] = process.argv;
  const socket = require('node:dgram').createSocket(address.includes(':') ? 'udp6' : 'udp4');
  const end = (text) => { console.log(text); process.exit(); };
  socket.bind(5555, () => socket.send('x', 8080, address));
  socket.on('message', (answer) => end(JSON.parse(answer).name));
  setTimeout(end, Number(process.argv[2]), 'nobody');`;

test("a UDP client that goes on sending reaches the port's new pod", async (t) => {
  const { lab, pod, node } = await oneHost(t);
  const next = await lab.addPod(6);
  const [node4 = '', node6 = ''] = node;
  const from5555 = (address: string, limitMs = ANSWER_LIMIT_MS) =>
    program(lab.lab.outside.namespace, sendFrom5555, address, `${limitMs}`);
  for (const address of [node4, node6]) {
    await lab.filter({});
    t.is(
      await from5555(address, SILENCE_MS),
      'nobody',
      'and the kernel remembers that the node itself was meant',
    );
    await lab.filter(rowsOf(pod));
    const first = staleFlows(hostPortsOf(rowsOf(pod)));
    await deleteFlows(lab.conntrack, first);
    t.is(await from5555(address), 'pod5');
    await lab.filter(rowsOf(next));
    t.is(await from5555(address), 'pod5', 'the flow is remembered');
    t.is((await deleteFlows(lab.conntrack, first)).length, 1);
    t.is(await from5555(address), 'pod6');
    t.is((await readFlows(lab.conntrack, first)).length, 1);
    await deleteFlows(lab.conntrack, first);
  }
});

test('ipMasq: outside sees the node, the own subnet sees the pod', async (t) => {
  const { lab, pod } = await oneHost(t);
  const neighbour = await lab.addPod(6);
  const outside = lab.client('outside');
  await outside.serve('outside', 80);
  const [outside4, outside6] = lab.lab.outside.addresses;
  const [node4, node6] = lab.node.addresses;
  const priorities = countPriorities(lab);
  await lab.filter({ elements: planMasquerade(pod.addresses) });
  await reaches(t, pod.workload, outside4, `outside saw ${node4}`, 80);
  await reaches(t, pod.workload, outside6, `outside saw ${node6}`, 80);
  await reaches(t, pod.workload, neighbour.ips[0], `pod6 saw ${pod.ips[0]}`, 80);
  await reaches(t, pod.workload, neighbour.ips[1], `pod6 saw ${pod.ips[1]}`, 80);
  t.true(priorities().all > 0);
  t.is(priorities().set, 0, 'the scope does not leave with the packet');
  t.is(
    await ask(neighbour.workload, outside4, 80, SILENCE_MS),
    'no answer',
    'who is not masqueraded has no way back',
  );
});

const group = '239.1.2.3';
const listen = `
  const socket = require('node:dgram').createSocket('udp4');
  const end = (text) => { console.log(text); process.exit(); };
  socket.bind(7777, () => socket.addMembership('${group}', process.argv[1]));
  socket.on('message', (_, from) => end(from.address));
  setTimeout(end, ${ANSWER_LIMIT_MS}, 'nobody');`;
const shout = `
  const socket = require('node:dgram').createSocket('udp4');
  socket.bind(() => socket.setMulticastInterface(process.argv[1]));
  setInterval(() => socket.send('x', 7777, '${group}'), 50);
  setTimeout(process.exit, 1500);`;

test('ipMasq: multicast keeps its source, even where bridged packets are filtered', async (t) => {
  const { lab, pod } = await oneHost(t);
  const neighbour = await lab.addPod(6);
  lab.run(lab.node.namespace, '/usr/sbin/sysctl -qw net.bridge.bridge-nf-call-iptables=1');
  lab.run(lab.node.namespace, '/usr/sbin/ip link set cni0 type bridge mcast_snooping 0');
  await lab.filter({ elements: planMasquerade(pod.addresses) });
  let isOver = false;
  const heard = program(neighbour.namespace, listen, neighbour.ips[0]).finally(() => {
    isOver = true;
  });
  while (!isOver) await program(pod.namespace, shout, pod.ips[0]);
  t.is(await heard, pod.ips[0]);
});

test('with conditions a host port is reached from where they allow it, in both families, and else is none', async (t) => {
  const { lab, pod, node } = await oneHost(t);
  const neighbour = await lab.addPod(6);
  const [node4 = '', node6 = ''] = node;
  const [outside4, outside6] = lab.lab.outside.addresses;
  const outside = lab.client('outside');
  await lab.client('node').serve('node', 8080);
  const options = {
    conditionsV4: ['ip', 'saddr', '!=', '10.244.0.0/16'],
    conditionsV6: ['ip6 saddr { fd00:10:244:1::/64 } iifname "cni0"'],
  };
  await lab.filter(rowsOf(pod, both, options));
  await reaches(t, outside, node4, `pod5 saw ${outside4}`);
  t.is(await ask(outside, node6, 8080), `node saw ${outside6}`);
  t.is(await ask(neighbour.workload, node4, 8080), `node saw ${neighbour.ips[0]}`);
  await reaches(t, neighbour.workload, node6, `pod5 saw ${gateway6}`);
  await lab.filter(rowsOf(pod));
  await reaches(t, outside, node6, `pod5 saw ${outside6}`);
});

const conditionsOfOutside = [
  ['iifname != cni0', true],
  ['iifname { cni0, lo }', false],
  ['mark 0', true],
  ['mark 7', false],
  ['mark != 7', true],
  ['mark != 0', false],
  ['ip daddr NODE fib daddr type local', true],
  ['ip daddr != NODE', false],
] as const;

test('each kind of condition lets a caller from outside through, or not; ports without any stay as they are', async (t) => {
  const { lab, pod, node } = await oneHost(t);
  const [node4 = ''] = node;
  const other = await lab.addPod(6);
  const open = rowsOf(other, [{ hostPort: 8090, containerPort: 80, protocol: 'tcp' }]);
  const outside = lab.client('outside');
  for (const [words, isReached] of conditionsOfOutside) {
    const rows = rowsOf(pod, both, { conditionsV4: [words.replace('NODE', node4)] });
    await lab.filter({ elements: [...rows.elements, ...open.elements] });
    const limitMs = isReached ? ANSWER_LIMIT_MS : SILENCE_MS;
    t.is((await ask(outside, node4, 8080, limitMs)).startsWith('pod5 saw'), isReached, words);
    t.regex(await ask(outside, node4, 8090), /^pod6 saw/, words);
  }
});
