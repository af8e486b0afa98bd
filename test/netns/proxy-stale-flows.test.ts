import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import readline from 'node:readline';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { inNamespace } from '../../cli/cluster/workload-client.ts';
import type { Cidr, Family, Ip } from '../../core/address.ts';
import { openConntrackSocket, readFlows } from '../../kernel/conntrack.ts';
import { openNamespace } from '../../kernel/netns.ts';
import { SysctlTable } from '../../kernel/sysctl.ts';
import { StaleFlows } from '../../proxy/stale-flows.ts';
import type { Frontend, ServicePortView } from '../../proxy/view.ts';
import { openLab } from './lab.ts';

/*
 * Two servers on one machine; the rules of node-1 send a Service's connections to one or the other of them. Clients
 * keep their port, so that what they send is one flow whatever happens:
 *
 *     client on node-1 ── 10.96.0.5:53, fd00:10:96::5:53 ──┐
 *                                                          ├─ node-1 ── outside:8080 "one", :8090 "two"
 *     client on node-2 ── node-1's addresses:30053 ────────┘
 */
const NFT = '/usr/sbin/nft';
const VIPS = { 4: '10.96.0.5' as Ip, 6: 'fd00:10:96::5' as Ip } as const;
const SERVICE_CIDRS = ['10.96.0.0/16', 'fd00:10:96::/112'] as readonly string[] as readonly Cidr[];
const servers = { one: 8080, two: 8090 } as const;
/** What must come is waited for, whatever else the processors do; what must not come would come soon. */
const ANSWER_LIMIT_MS = 30_000;
const SILENCE_MS = 250;
type Server = keyof typeof servers;

/** A client with one UDP socket of each family and one TCP connection: a line in, a line out. */
const client = `
  const dgram = require('node:dgram'), net = require('node:net');
  const say = (text) => console.log(text);
  let connection;
  const sockets = { 4: dgram.createSocket('udp4'), 6: dgram.createSocket({ type: 'udp6', ipv6Only: true }) };
  for (const socket of Object.values(sockets)) socket.on('error', () => {}).bind(4000);
  require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
    const [what, family, host, port, patienceMs] = line.split(' ');
    if (what === 'udp') {
      const timer = setTimeout(() => finish('nothing'), Number(patienceMs ?? 30_000));
      const heard = (data) => finish(JSON.parse(data).name);
      const finish = (text) => { clearTimeout(timer); sockets[family].off('message', heard); say(text); };
      sockets[family].on('message', heard).send('?', Number(port), host);
    } else if (what === 'connect') {
      connection = net.connect(Number(port), host, () => say('connected'));
      connection.once('error', ({ code }) => say(code));
    } else connection.once('data', () => say('echo')).write('x');
  });`;

class Client {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(t: ExecutionContext, namespace: string) {
    const [command, args] = inNamespace(namespace, [process.execPath, '-e', client]);
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    t.teardown(() => this.#child.kill('SIGKILL'));
    if (this.#child.stdout === null) throw new Error('no stdout');
    this.#lines = readline.createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  async ask(...words: (string | number)[]): Promise<string> {
    this.#child.stdin?.write(`${words.join(' ')}\n`);
    return (await this.#lines.next()).value ?? 'gone';
  }
}

async function openStage(t: ExecutionContext, { resetTcp = false } = {}) {
  const lab = await openLab(t, 2);
  const [node, otherNode] = lab.nodes;
  if (node === undefined || otherNode === undefined) throw new Error('the lab has no nodes');
  const namespace = openNamespace(`/run/netns/${node.namespace}`);
  t.teardown(() => namespace[Symbol.dispose]());
  await forward(namespace.fd);
  const server = lab.workload(lab.outside.namespace, 'server');
  for (const [name, port] of Object.entries(servers)) await server.serve(name, port);
  const passes: number[] = [];
  const stale = new StaleFlows({
    namespaceFd: namespace.fd,
    resetTcp,
    log: pino({ level: 'silent' }),
    onPass: ({ deleted }) => passes.push(deleted),
  });
  const socket = openConntrackSocket({ namespaceFd: namespace.fd });
  t.teardown(async () => {
    await stale[Symbol.asyncDispose]();
    socket[Symbol.dispose]();
  });
  await stale.updateNode({
    nodePortIps: { 4: [node.addresses[0]], 6: [node.addresses[1]] },
    serviceCidrs: SERVICE_CIDRS,
  });
  const addresses = { 4: lab.outside.addresses[0], 6: lab.outside.addresses[1] };
  return {
    stale,
    passes,
    node: new Client(t, node.namespace),
    otherNode: new Client(t, otherNode.namespace),
    nodeIps: { 4: node.addresses[0], 6: node.addresses[1] },
    outside: addresses,
    /** The rules of a proxy whose Service has this one endpoint, or none. */
    rules: (to?: Server) => loadRules(node.namespace, addresses, to),
    /** The ports of the Service, in both families, as the proxy's view has them. */
    view: (protocol: 'udp' | 'tcp', ...to: Server[]) =>
      ([4, 6] as const).map((family) => portView(family, protocol, addresses[family], to)),
    flows: () => readFlows(socket, [{ protocol: 17 }]),
  };
}

async function forward(namespaceFd: number): Promise<void> {
  const wanted = { 'net/ipv4/ip_forward': '1', 'net/ipv6/conf/all/forwarding': '1' };
  const table = new SysctlTable({ keys: Object.keys(wanted), namespaceFd });
  await table.write(Object.entries(wanted).map(([key, value]) => ({ kind: 'create', key, wanted: value })));
}

function loadRules(namespace: string, outside: Record<Family, Ip>, to: Server | undefined): void {
  const target = (family: Family, shift: number) => {
    const ip = family === 6 ? `[${outside[6]}]` : outside[4];
    return `dnat ${family === 6 ? 'ip6' : 'ip'} to ${ip}:${(to === undefined ? 0 : servers[to]) + shift}`;
  };
  const rules = [
    `ip daddr ${VIPS[4]} udp dport 53 ${target(4, 0)}`,
    `ip6 daddr ${VIPS[6]} udp dport 53 ${target(6, 0)}`,
    `ip daddr ${VIPS[4]} tcp dport 53 ${target(4, 1)}`,
    `ip6 daddr ${VIPS[6]} tcp dport 53 ${target(6, 1)}`,
    `fib daddr type local meta nfproto ipv4 udp dport 30053 ${target(4, 0)}`,
    `fib daddr type local meta nfproto ipv6 udp dport 30053 ${target(6, 0)}`,
  ];
  const own = to === undefined ? '' : rules.join('\n');
  const table = `table inet svc
    delete table inet svc
    table inet svc {
      chain pre { type nat hook prerouting priority -100; ${own}
      }
      chain out { type nat hook output priority -100; ${own}
      }
      chain post { type nat hook postrouting priority 100; masquerade; }
    }`;
  const [command, args] = inNamespace(namespace, [NFT, '-f', '-']);
  execFileSync(command, args, { input: table, stdio: 'pipe' });
}

function portView(family: Family, protocol: 'udp' | 'tcp', ip: Ip, to: readonly Server[]): ServicePortView {
  const frontends: Frontend[] = [{ kind: 'clusterIP', ip: VIPS[family], port: 53 }];
  if (protocol === 'udp') frontends.push({ kind: 'nodePort', port: 30053 });
  const shift = protocol === 'tcp' ? 1 : 0;
  return {
    name: `default/dns:${protocol}`,
    family,
    protocol,
    frontends,
    clusterEndpoints: [],
    localEndpoints: [],
    internalPolicy: 'Cluster',
    externalPolicy: 'Cluster',
    hasAnyEndpoints: to.length > 0,
    balancing: 'random',
    flowEndpoints: to.map((name) => ({ ip, port: servers[name] + shift })),
  };
}

type Stage = Awaited<ReturnType<typeof openStage>>;

/** Who answers, in each family: at the cluster address, and at the node port from outside. */
async function answers({ node, otherNode, nodeIps }: Stage, patienceMs = ANSWER_LIMIT_MS): Promise<string[]> {
  const heard: string[] = [];
  for (const family of [4, 6] as const) {
    heard.push(await node.ask('udp', family, VIPS[family], 53, patienceMs));
    heard.push(await otherNode.ask('udp', family, nodeIps[family], 30053, patienceMs));
  }
  return heard;
}

const all = (name: string) => Array<string>(4).fill(name);

test('UDP flows follow a Service from one endpoint to another, to none, and past its end', async (t) => {
  const stage = await openStage(t);
  const { stale, rules, view, passes } = stage;
  const update = (...ports: ServicePortView[]) => stale.update(new Map([['default/dns', ports]]));
  rules('one');
  await update(...view('udp', 'one'));
  t.deepEqual(await answers(stage), all('one'));

  rules('two');
  t.deepEqual(
    await answers(stage),
    all('one'),
    'the kernel goes on as before: this is what flows are forgotten for',
  );
  await update(...view('udp', 'two'));
  t.deepEqual(await answers(stage), all('two'));

  rules();
  t.deepEqual(await answers(stage), all('two'));
  await update(...view('udp'));
  t.deepEqual(await answers(stage, SILENCE_MS), all('nothing'));

  // Their packets went nowhere, and would go on to do so.
  rules('one');
  t.deepEqual(await answers(stage, SILENCE_MS), all('nothing'));
  await update(...view('udp', 'one'));
  t.deepEqual(await answers(stage), all('one'));

  rules();
  await update();
  t.deepEqual(await answers(stage, SILENCE_MS), all('nothing'), 'of a Service that is gone');

  const count = passes.length;
  await update();
  t.is(passes.length, count, 'what did not change is not looked for');
});

test('flows of other Services, and to no Service at all, stay', async (t) => {
  const stage = await openStage(t);
  const { stale, rules, view, node, otherNode, outside, flows } = stage;
  rules('one');
  await stale.update(new Map([['default/dns', view('udp', 'one')]]));
  await answers(stage);
  // Through node-1, to the port number of the Service's node port, on a machine that is not node-1.
  for (const family of [4, 6] as const) {
    t.is(await node.ask('udp', family, outside[family], servers.two), 'two');
    t.is(await node.ask('udp', family, outside[family], 30053, SILENCE_MS), 'nothing');
  }
  const before = (await flows()).length;
  const other = view('udp', 'two').map((port) => ({
    ...port,
    name: 'default/other:udp',
    frontends: [{ kind: 'clusterIP', ip: VIPS[port.family], port: 54 } as const],
  }));
  await stale.update(new Map([['default/other', other]]));
  await stale.update(new Map([['default/other', []]]));
  t.is((await flows()).length, before);
  await stale.update(new Map([['default/dns', view('udp', 'two')]]));
  const left = await flows();
  t.is(left.length, before - 4);
  t.true(left.every(({ original }) => original.dport === servers.two || original.dport === 30053));
  t.is(await otherNode.ask('udp', 4, stage.nodeIps[4], 30053), 'one');
});

test('flows of a Service that went while no proxy ran are forgotten by the next', async (t) => {
  const { stale, rules, node, otherNode, outside, flows } = await openStage(t);
  rules('one');
  for (const family of [4, 6] as const) {
    t.is(await node.ask('udp', family, VIPS[family], 53), 'one');
    t.is(await otherNode.ask('udp', family, outside[family], servers.two), 'two');
    t.is(await node.ask('udp', family, outside[family], servers.two), 'two');
  }
  rules();
  await stale.update(new Map());
  t.deepEqual(
    await Promise.all(
      [4, 6].map((family) => node.ask('udp', family, VIPS[family as Family], 53, SILENCE_MS)),
    ),
    ['nothing', 'nothing'],
  );
  t.is((await flows()).filter(({ original }) => original.dport === servers.two).length, 2);
});

for (const family of [4, 6] as const) {
  test(`IPv${family}: a TCP connection to an endpoint that is gone is reset, where that is wanted`, async (t) => {
    const { stale, rules, view, node } = await openStage(t, { resetTcp: true });
    const update = (...to: Server[]) => stale.update(new Map([['default/dns', view('tcp', ...to)]]));
    rules('one');
    await update('one', 'two');
    t.is(await node.ask('connect', family, VIPS[family], 53), 'connected');
    t.is(await node.ask('say'), 'echo');
    rules('two');
    await update('one', 'two');
    t.is(await node.ask('say'), 'echo', 'its endpoint is there');
    await update('two');
    t.is(await node.ask('say'), 'ECONNRESET');
  });

  test(`IPv${family}: a TCP connection to an endpoint that went while no proxy ran is reset by the next`, async (t) => {
    const { stale, rules, view, node, outside } = await openStage(t, { resetTcp: true });
    rules('one');
    t.is(await node.ask('connect', family, VIPS[family], 53), 'connected');
    t.is(await node.ask('say'), 'echo');
    rules('two');
    await stale.update(new Map([['default/dns', view('tcp', 'two')]]));
    t.is(await node.ask('say'), 'ECONNRESET');
    // To no Service.
    t.is(await node.ask('connect', family, outside[family], servers.one + 1), 'connected');
    await stale.update(new Map([['default/dns', view('tcp', 'one')]]));
    t.is(await node.ask('say'), 'echo');
  });

  test(`IPv${family}: TCP connections outlive the Service that they went to`, async (t) => {
    const { stale, rules, view, node } = await openStage(t, { resetTcp: true });
    rules('one');
    await stale.update(new Map([['default/dns', view('tcp', 'one')]]));
    t.is(await node.ask('connect', family, VIPS[family], 53), 'connected');
    rules();
    await stale.update(new Map([['default/dns', []]]));
    t.is(await node.ask('say'), 'echo');
  });
}
