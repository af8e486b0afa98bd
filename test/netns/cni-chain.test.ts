import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { CniNode, eventually, execIn, type Pod } from '../cni/node.ts';

/** One plugin of a chain. */
type Plugin = Readonly<Record<string, unknown>> & { readonly type: string };

/** Calls a chain as a runtime does: in order with the result before, DEL backwards. */
class Runtime {
  readonly #node: CniNode;
  readonly #version: string;
  readonly #plugins: readonly Plugin[];
  result: Record<string, unknown> | undefined;

  constructor(node: CniNode, version: string, plugins: readonly Plugin[]) {
    this.#node = node;
    this.#version = version;
    this.#plugins = plugins;
  }

  #call(verb: string, pod: Partial<Pod>, plugin: Plugin, more: object = {}) {
    const config = { cniVersion: this.#version, name: 'chain', ...plugin, ...more };
    return this.#node.call(verb, { containerId: '', ...pod, config });
  }

  /** `before` is the result of a plugin of others. */
  async add(t: ExecutionContext, pod: Pod, before?: Record<string, unknown>): Promise<void> {
    this.result = before;
    for (const plugin of this.#plugins) {
      const more = this.result === undefined ? {} : { prevResult: this.result };
      const { exitCode, stdout } = await this.#call('ADD', pod, plugin, more);
      t.is(exitCode, 0, `${plugin.type}: ${stdout}`);
      this.result = JSON.parse(stdout);
    }
  }

  /** The first error, or "ok". */
  async check(pod: Pod): Promise<string> {
    for (const plugin of this.#plugins) {
      const { exitCode, stdout } = await this.#call('CHECK', pod, plugin, { prevResult: this.result });
      if (exitCode !== 0) return `${plugin.type}: ${JSON.parse(stdout).msg}`;
      if (stdout !== '') return `CHECK printed ${stdout}`;
    }
    return 'ok';
  }

  async del(t: ExecutionContext, pod: Pod): Promise<void> {
    for (const plugin of this.#plugins.toReversed()) {
      const { exitCode, stdout } = await this.#call('DEL', pod, plugin, { prevResult: this.result });
      t.is(exitCode, 0, `${plugin.type}: ${stdout}`);
      t.is(stdout, '');
    }
  }

  async gc(t: ExecutionContext, valid: readonly Pod[]): Promise<void> {
    const list = valid.map(({ containerId }) => ({ containerID: containerId, ifname: 'eth0' }));
    for (const plugin of this.#plugins) {
      const more = { 'cni.dev/valid-attachments': list, 'cni.dev/attachments': list };
      const { exitCode, stdout } = await this.#call('GC', {}, plugin, more);
      t.is(exitCode, 0, `${plugin.type}: ${stdout}`);
    }
  }
}

const ipam = { type: 'host-local', subnet: '10.56.0.0/24', dataDir: '/run/fairlead-test-none' };
const bridge: Plugin = {
  type: 'bridge',
  bridge: 'br0',
  isGateway: true,
  isDefaultGateway: true,
  ipMasq: true,
  ipam,
};
const portmap: Plugin = {
  type: 'portmap',
  runtimeConfig: { portMappings: [{ hostPort: 8080, containerPort: 80, protocol: 'udp' }] },
};
const bandwidth: Plugin = {
  type: 'bandwidth',
  runtimeConfig: {
    bandwidth: { ingressRate: 1e9, ingressBurst: 1e7, egressRate: 1e9, egressBurst: 1e7 },
  },
};
const tuning: Plugin = { type: 'tuning', sysctl: { 'net.ipv4.conf.IFNAME.arp_filter': '1' }, mtu: 1300 };
const firewall: Plugin = { type: 'firewall', backend: 'nftables', ingressPolicy: 'same-bridge' };
const everything = [bridge, tuning, bandwidth, portmap, firewall];

async function started(t: ExecutionContext): Promise<CniNode> {
  const node = CniNode.open(t);
  await node.start();
  return node;
}

async function elements(node: CniNode): Promise<number> {
  const { nftables } = JSON.parse(await node.exec('/usr/sbin/nft', '-j', 'list', 'ruleset'));
  return nftables.reduce((sum: number, { set, map }: Record<string, { elem?: unknown[] }>) => {
    return sum + ((set ?? map)?.elem?.length ?? 0);
  }, 0);
}

/** How many elements each of these sets and maps has. */
async function sizes(node: CniNode, ...names: readonly string[]): Promise<number[]> {
  const { nftables } = JSON.parse(
    await node.exec('/usr/sbin/nft', '-j', 'list', 'table', 'inet', 'fairlead-cni'),
  );
  return names.map((name) => {
    const found = nftables.find(
      ({ set, map }: Record<string, { name: string }>) => (set ?? map)?.name === name,
    );
    return (found.set ?? found.map).elem?.length ?? 0;
  });
}

async function isClean(t: ExecutionContext, node: CniNode): Promise<void> {
  t.deepEqual(node.leases(), []);
  t.true(await eventually(async () => (await node.links()).join() === 'br0'), (await node.links()).join());
  t.is(await elements(node), 0);
}

for (const version of ['0.4.0', '1.0.0', '1.1.0']) {
  test.serial(`a chain of five in ${version}: ADD, CHECK, DEL, and nothing is left`, async (t) => {
    const node = await started(t);
    const runtime = new Runtime(node, version, everything);
    const pod = node.pod();
    await runtime.add(t, pod);
    t.like(runtime.result, { cniVersion: version });
    t.is(node.leases().length, 5);
    t.is(await runtime.check(pod), 'ok');
    await runtime.del(t, pod);
    await isClean(t, node);
    await runtime.del(t, pod);
  });
}

const losses: readonly { what: string; inPod?: boolean; command: string; told: RegExp }[] = [
  {
    what: 'the address',
    inPod: true,
    command: 'ip addr flush dev eth0 scope global',
    told: /^bridge: address 10\.56/,
  },
  { what: 'a route', inPod: true, command: 'ip route del default', told: /^bridge: route to 0\.0\.0\.0\/0/ },
  {
    what: 'a setting',
    inPod: true,
    command: 'ip link set eth0 mtu 1200',
    told: /^tuning: pod-setting mtuBytes eth0: not as/,
  },
  {
    what: 'a port',
    command: 'ip link set $PAIR nomaster',
    told: /^bridge: interface .* is no port of bridge br0/,
  },
  { what: 'a limit', command: 'tc qdisc del dev $PAIR root', told: /^bandwidth: qdisc fl\w+: not as/ },
];
for (const { what, inPod = false, command, told } of losses) {
  test.serial(`CHECK tells that ${what} is lost`, async (t) => {
    const node = await started(t);
    const runtime = new Runtime(node, '1.0.0', everything);
    const pod = node.pod();
    await runtime.add(t, pod);
    const [pair = ''] = await node.pairs();
    const words = ['sh', '-c', command.replace('$PAIR', pair)];
    await (inPod ? execIn(pod.netns, ...words) : node.exec(...words));
    t.regex(await runtime.check(pod), told);
    await runtime.del(t, pod);
    await isClean(t, node);
  });
}

test.serial('DEL with the namespace gone leaves nothing of a chain', async (t) => {
  const node = await started(t);
  const runtime = new Runtime(node, '1.0.0', everything);
  const pod = node.pod();
  await runtime.add(t, pod);
  node.removeNamespace(pod);
  await runtime.del(t, { containerId: pod.containerId, netns: '' });
  await isClean(t, node);
});

test.serial('a file that is left where the namespace was is none to DEL', async (t) => {
  const node = await started(t);
  const runtime = new Runtime(node, '1.0.0', everything);
  const pod = node.pod();
  await runtime.add(t, pod);
  node.removeNamespace(pod);
  writeFileSync(pod.netns, '');
  await runtime.del(t, pod);
  await isClean(t, node);
});

test.serial(
  'DEL of a plugin that made the interface takes along what has left the configuration',
  async (t) => {
    const node = await started(t);
    const pod = node.pod();
    await new Runtime(node, '1.0.0', everything).add(t, pod);
    await new Runtime(node, '1.0.0', [bridge]).del(t, pod);
    await isClean(t, node);
  },
);

test.serial('a chain that failed in the middle can be added again without DEL', async (t) => {
  const node = await started(t);
  const runtime = new Runtime(node, '1.0.0', everything.slice(0, 4));
  const pod = node.pod();
  await runtime.add(t, pod);
  const again = node.pod();
  const { containerId } = pod;
  await runtime.add(t, { containerId, netns: again.netns });
  t.is(node.leases().length, 4);
  t.is((await node.pairs()).length, 1);
  await runtime.del(t, { containerId, netns: again.netns });
  await isClean(t, node);
});

test.serial(
  'two plugins of one type on an interface of others add to each other, and may begin again',
  async (t) => {
    const node = await started(t);
    const pod = node.pod();
    await execIn(pod.netns, 'ip', 'link', 'add', 'eth0', 'mtu', '1400', 'type', 'veth');
    const set = (...keys: string[]) =>
      Object.fromEntries(keys.map((key) => [`net.ipv4.conf.IFNAME.${key}`, '1']));
    const plugins: Plugin[] = [
      { type: 'tuning', sysctl: set('arp_filter', 'arp_accept'), mtu: 1300 },
      { type: 'tuning', sysctl: set('arp_filter', 'arp_notify') },
    ];
    const shown = async () => {
      const keys = ['arp_filter', 'arp_accept', 'arp_notify'].map((key) => `net.ipv4.conf.eth0.${key}`);
      const values = (await execIn(pod.netns, 'sysctl', '-n', ...keys)).trim().split('\n');
      const [, mtu] = /mtu (\d+)/.exec(await execIn(pod.netns, 'ip', 'link', 'show', 'eth0')) ?? [];
      return [...values, mtu].join(' ');
    };
    const others = { cniVersion: '1.0.0', interfaces: [{ name: 'eth0', sandbox: pod.netns }], ips: [] };
    const before = await shown();
    for (let time = 0; time < 2; time += 1) {
      const runtime = new Runtime(node, '1.0.0', plugins);
      await runtime.add(t, pod, others);
      t.is(await shown(), '1 1 1 1300');
      t.is(await runtime.check(pod), 'ok');
    }
    await new Runtime(node, '1.0.0', plugins).del(t, pod);
    t.is(await shown(), before);
    t.deepEqual(node.leases(), []);
  },
);

test.serial('GC takes whole chains that the runtime does not know of', async (t) => {
  const node = await started(t);
  const runtime = new Runtime(node, '1.1.0', everything.slice(0, 3));
  const [stays, goes] = [node.pod(), node.pod()];
  await runtime.add(t, goes);
  await runtime.add(t, stays);
  await runtime.gc(t, [stays]);
  t.deepEqual(
    node.leases().map((key) => key.split('/')[1]),
    Array(3).fill(stays.containerId),
  );
  t.true(await eventually(async () => (await node.pairs()).length === 1));
  t.is(await runtime.check(stays), 'ok');
});

test.serial('a host port that another container has is refused, and is free after its DEL', async (t) => {
  const node = await started(t);
  const runtime = new Runtime(node, '1.0.0', [bridge, portmap]);
  const [first, second] = [node.pod(), node.pod()];
  await runtime.add(t, first);
  const before = runtime.result;
  await new Runtime(node, '1.0.0', [bridge]).add(t, second);
  const config = { cniVersion: '1.0.0', name: 'chain', ...portmap, prevResult: before };
  const { stdout } = await node.call('ADD', { ...second, config });
  t.like(JSON.parse(stdout), { code: 7, msg: `hostPort 8080/udp is already taken by ${first.containerId}` });
  await runtime.del(t, first);
  t.is((await node.call('ADD', { ...second, config })).exitCode, 0);
  await runtime.del(t, second);
  await isClean(t, node);
});

test.serial('pods of a subnet share what depends on it, until the last of them is gone', async (t) => {
  const node = await started(t);
  const port = (hostPort: number) => ({
    ...portmap,
    runtimeConfig: { portMappings: [{ hostPort, containerPort: 80, protocol: 'tcp' }] },
  });
  const [first, second] = [8080, 8081].map((n) => new Runtime(node, '1.0.0', [bridge, port(n)]));
  const [a, b] = [node.pod(), node.pod()];
  await first?.add(t, a);
  await second?.add(t, b);
  const names = ['masquerade4', 'masquerade-near4', 'hostport-pods4', 'hostport-sources4'];
  t.deepEqual(await sizes(node, ...names), [2, 1, 2, 2]);
  await first?.del(t, a);
  t.deepEqual(await sizes(node, ...names), [1, 1, 1, 2]);
  t.is(await second?.check(b), 'ok');
  await second?.del(t, b);
  await isClean(t, node);
});

test.serial('what pods share is there for one that comes while the last one goes', async (t) => {
  const node = await started(t);
  const config = (hostPort: number) => ({
    ...{ cniVersion: '1.0.0', name: 'net', type: 'fairlead', bridge: 'br0', ipMasq: true, ipam },
    runtimeConfig: { portMappings: [{ hostPort, containerPort: 80, protocol: 'tcp' }] },
  });
  const call = async (verb: string, pod: Pod, hostPort: number) => {
    const { exitCode, stdout } = await node.call(verb, { ...pod, config: config(hostPort) });
    t.is(exitCode, 0, `${verb}: ${stdout}`);
  };
  let last = { pod: node.pod(), hostPort: 9000 };
  await call('ADD', last.pod, last.hostPort);
  for (let hostPort = 9001; hostPort < 9020; hostPort += 1) {
    const next = { pod: node.pod(), hostPort };
    await Promise.all([call('DEL', last.pod, last.hostPort), call('ADD', next.pod, hostPort)]);
    t.deepEqual(await sizes(node, 'masquerade4', 'masquerade-near4', 'hostport-sources4'), [1, 1, 2]);
    last = next;
  }
  await call('DEL', last.pod, last.hostPort);
  await isClean(t, node);
});

test.serial('one interface has one answer to whom its pod sees as the node', async (t) => {
  const node = await started(t);
  const mapped = (hostPort: number, options: object = {}) => ({
    ...portmap,
    ...options,
    runtimeConfig: { portMappings: [{ hostPort, containerPort: 80, protocol: 'tcp' }] },
  });
  const runtime = new Runtime(node, '1.0.0', [bridge, mapped(8080), mapped(8081)]);
  const pod = node.pod();
  await runtime.add(t, pod);
  const other = {
    cniVersion: '1.0.0',
    name: 'chain',
    ...mapped(8082, { masqAll: true }),
    prevResult: runtime.result,
  };
  const { stdout } = await node.call('ADD', { ...pod, config: other });
  const msg = 'another portmap of this interface has other values of snat or masqAll, which are of the pod';
  t.like(JSON.parse(stdout), { code: 7, msg });
  t.is(await runtime.check(pod), 'ok');
  await runtime.del(t, pod);
  await isClean(t, node);
});

test.serial("flannel's own conflist works unchanged", async (t) => {
  const node = await started(t);
  const subnetFile = join(node.directory, 'subnet.env');
  const lines = ['NETWORK=10.56.0.0/16', 'SUBNET=10.56.3.1/24', 'MTU=1450', 'IPMASQ=true'];
  const flannel: Plugin = {
    type: 'flannel',
    subnetFile,
    delegate: { hairpinMode: true, isDefaultGateway: true },
    ipam: { dataDir: join(node.directory, 'none') },
  };
  const runtime = new Runtime(node, '0.3.1', [flannel, { ...portmap, capabilities: { portMappings: true } }]);
  const pod = node.pod();
  const early = await node.call('ADD', { ...pod, config: { cniVersion: '0.3.1', name: 'cbr0', ...flannel } });
  t.regex(JSON.parse(early.stdout).msg, /^failed to load flannel 'subnet\.env' file: open /);
  mkdirSync(node.directory, { recursive: true });
  writeFileSync(subnetFile, lines.map((line) => `FLANNEL_${line}\n`).join(''));
  await runtime.add(t, pod);
  const ips = runtime.result?.ips as { address: string; gateway: string }[];
  t.like(ips[0], { version: '4', address: '10.56.3.2/24', gateway: '10.56.3.1' });
  t.regex(await execIn(pod.netns, 'ip', 'route'), /10\.56\.0\.0\/16 via 10\.56\.3\.1/);
  await runtime.del(t, pod);
  t.deepEqual(node.leases(), []);
});

test.serial('loopback is set up, is looked at, and leaves no record', async (t) => {
  const node = await started(t);
  const runtime = new Runtime(node, '0.4.0', [{ type: 'loopback' }]);
  const pod = node.pod();
  await runtime.add(t, pod);
  t.like(runtime.result, { interfaces: [{ name: 'lo', sandbox: pod.netns }] });
  t.is(await runtime.check(pod), 'ok');
  await execIn(pod.netns, 'ip', 'link', 'set', 'lo', 'down');
  t.is(await runtime.check(pod), 'loopback: loopback interface is down');
  await runtime.add(t, pod);
  await runtime.del(t, pod);
  t.regex(await execIn(pod.netns, 'ip', 'link', 'show', 'lo'), /<LOOPBACK>/);
  t.deepEqual(node.leases(), []);
});
