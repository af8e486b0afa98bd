import { execFileSync } from 'node:child_process';
import test, { type ExecutionContext } from 'ava';
import type { Ip } from '../../core/address.ts';
import { IpvsMissingError, IpvsSocket } from '../../kernel/ipvs-socket.ts';
import { removeAllModes } from '../../proxy/cleanup.ts';
import { type IpvsBackend, type IpvsOptions, openIpvs } from '../../proxy/ipvs/backend.ts';
import { retireIpvs } from '../../proxy/ipvs/remove.ts';
import { openNftables } from '../../proxy/nftables/backend.ts';
import { labName } from './lab.ts';
import { BackendLab, policy, type TestService, viewsOf } from './proxy-backend-lab.ts';
import { PORT } from './proxy-lab.ts';

/* Where there is IPVS: `npm run test:vm -- test/netns/proxy-ipvs.test.ts`. What all backends do is in the conformance. */

let lab: BackendLab;
let reason: string | undefined;

test.before(async () => {
  lab = await BackendLab.open(labName());
  try {
    (await IpvsSocket.open({ namespaceFd: lab.namespace.fd }))[Symbol.dispose]();
  } catch (error) {
    if (!(error instanceof IpvsMissingError)) throw error;
    reason = error.message;
  }
});
test.after.always(async () => await lab?.[Symbol.asyncDispose]());

function fact(title: string, run: (t: ExecutionContext) => Promise<void>): void {
  test.serial(title, async (t) => {
    if (reason !== undefined) return t.pass(reason);
    t.teardown(() => removeAllModes({ namespaceFd: lab.namespace.fd }));
    await run(t);
  });
}

async function open(t: ExecutionContext, options: Partial<IpvsOptions> = {}): Promise<IpvsBackend> {
  const backend = openIpvs({ namespaceFd: lab.namespace.fd, policy, lookIntervalMs: 200, ...options });
  t.teardown(() => backend[Symbol.dispose]());
  await backend.updateNode(lab.facts());
  return backend;
}

function inside(...command: readonly string[]): string {
  const [program = '', ...args] = command;
  const all = [`--net=/run/netns/${lab.lab.node.namespace}`, program, ...args];
  return execFileSync('/usr/bin/nsenter', all, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Servers and destinations, as the kernel lists them. */
function listed(): string[] {
  return inside('cat', '/proc/net/ip_vs')
    .trimEnd()
    .split('\n')
    .slice(3)
    .map((line) => line.trim().split(/\s+/).join(' '));
}

const pods = ['one', 'two', 'three'] as const;
const web: TestService = { number: 1, pods };
const at = (number: number) => lab.target(4, 'clusterIP', number);

fact('round robin is exact', async (t) => {
  await lab.write(await open(t), [web]);
  for (const count of [12, 13, 14]) {
    const names: string[] = [];
    while (names.length < count)
      names.push(...(await lab.answerers('client', at(1), Math.min(4, count - names.length))));
    const counts = pods.map((pod) => names.filter((name) => name === pod).length);
    t.deepEqual(
      names.filter((name) => !(pods as readonly string[]).includes(name)),
      [],
    );
    t.true(Math.max(...counts) - Math.min(...counts) <= 1, counts.join());
  }
});

for (const scheduler of ['rr', 'wrr', 'lc', 'wlc', 'sh', 'dh', 'sed', 'nq', 'mh', 'lblc', 'lblcr']) {
  fact(`scheduler ${scheduler} serves as the kernel has it`, async (t) => {
    await lab.write(await open(t, { settings: { scheduler } }), [web]);
    t.true(listed().includes(`TCP 0A600001:0050 ${scheduler}`), listed().join('\n'));
    const names = new Set(await lab.answerers('client', at(1), 12));
    // By the address of the client, or of the server.
    if (['sh', 'dh'].includes(scheduler)) t.is(names.size, 1, [...names].join());
    if (['rr', 'wrr'].includes(scheduler)) t.is(names.size, 3, [...names].join());
    for (const name of names) t.true((pods as readonly string[]).includes(name), name);
  });
}

fact('a restart over what was written writes nothing, and a change writes its own rows', async (t) => {
  const backend = await open(t);
  const services = [1, 2, 3, 4].map((number) => ({ number, pods }));
  await lab.write(backend, services);
  t.deepEqual(await backend.replace(viewsOf(services)), { writes: 0, failures: [] });
  const again = await open(t);
  t.deepEqual(await again.replace(viewsOf(services)), { writes: 0, failures: [] });
  t.false(await again.isDisturbed());
  // Four frontends, two protocols, two families: each loses an endpoint, TCP first its new connections.
  const { writes, failures } = await again.update(viewsOf([{ number: 2, pods: ['one', 'two'] }]));
  t.deepEqual([writes, failures], [16, []]);
});

fact('what others change is seen, and mended', async (t) => {
  const backend = await open(t);
  await lab.write(backend, [web]);
  t.false(await backend.isDisturbed());
  inside('/usr/sbin/ip', 'address', 'delete', '10.96.0.1/32', 'dev', 'kube-ipvs0');
  await until(() => backend.isDisturbed());
  t.deepEqual(await backend.replace(viewsOf([web])), { writes: 1, failures: [] });
  inside('/usr/sbin/nft', 'delete', 'table', 'ip', 'fairlead-ipvs');
  t.true(await backend.isDisturbed());
  t.deepEqual((await backend.replace(viewsOf([web]))).failures, []);
  t.is(await lab.seen('client', at(1), pods), 'one+three+two');
});

fact('open connections go on when their endpoint goes, and no longer than the bound', async (t) => {
  const backend = await open(t, { drainMs: 3_000 });
  const service: TestService = {
    number: 2,
    pods: ['one'],
    view: (family) => ({
      clusterEndpoints: viewsOf([{ number: 2, pods: ['one'] }])
        .get('default/s2')
        ?.filter((port) => port.family === family)[0]
        ?.clusterEndpoints.map((endpoint) => ({ ...endpoint, port: PORT + 1 })),
    }),
  };
  await lab.write(backend, [service]);
  await using client = lab.lab.startClient('client');
  const { ip, port } = at(2);
  await client.hold(ip, port, 50);
  await pause(500);
  t.deepEqual((await client.report()).failures, []);
  const startMs = performance.now();
  await backend.update(new Map([['default/s2', []]]));
  t.is(await lab.seen('client', at(2)), 'refused');
  await pause(Math.max(0, 1_500 - (performance.now() - startMs)));
  const { requests, failures } = await client.report();
  t.true(requests > 0 && failures.length === 0, failures.join());
  t.true(listed().some((line) => line.startsWith('TCP 0A600002:0050')));
  await until(() => listed().length === 0);
  t.false(inside('/usr/sbin/ip', '-4', 'address', 'show', 'dev', 'kube-ipvs0').includes('10.96.0.2'));
});

fact('another mode takes over while open connections go on', async (t) => {
  const backend = await open(t);
  const service: TestService = { ...web, pods: ['one'] };
  const echo = viewsOf([service]).get('default/s1') ?? [];
  const views = new Map([
    [
      'default/s1',
      echo.map((each) => ({
        ...each,
        clusterEndpoints: each.clusterEndpoints.map((to) => ({ ...to, port: PORT + 1 })),
      })),
    ],
  ]);
  t.deepEqual((await backend.replace(views)).failures, []);
  await using client = lab.lab.startClient('client');
  await client.hold(at(1).ip, 80, 50);
  await pause(300);
  backend[Symbol.dispose]();
  using nftables = openNftables({ namespaceFd: lab.namespace.fd, policy });
  await nftables.updateNode(lab.facts());
  t.deepEqual((await nftables.replace(viewsOf([service]))).failures, []);
  const stop = new AbortController();
  t.teardown(() => stop.abort());
  execFileSync('/usr/bin/nsenter', [
    `--net=/run/netns/${lab.lab.node.namespace}`,
    '/usr/sbin/nft',
    'delete',
    'table',
    'ip',
    'fairlead-ipvs',
  ]);
  const retired = retireIpvs({
    namespaceFd: lab.namespace.fd,
    signal: stop.signal,
    lookIntervalMs: 200,
    drainMs: 60_000,
  });
  t.is(await lab.seen('client', at(1), ['one']), 'one');
  t.is(await lab.seen('node', at(1), ['one']), 'one M');
  await pause(1_000);
  t.deepEqual((await client.report()).failures, []);
  // One server is left, of the one connection.
  t.deepEqual(
    listed().filter((line) => !line.startsWith('->')),
    ['TCP 0A600001:0050 rr'],
  );
  stop.abort();
  await retired;
});

fact('nothing is left when it is taken away, and others’ servers stay', async (t) => {
  inside('/usr/sbin/ipvsadm', '-A', '-t', '192.0.2.1:80', '-s', 'rr');
  const backend = await open(t);
  await lab.write(backend, [web, { number: 9, pods, view: { affinitySeconds: 60 } }]);
  t.true(listed().length > 10);
  t.deepEqual((await backend.replace(new Map())).failures, []);
  await until(() => listed().join() === 'TCP C0000201:0050 rr');
  await lab.write(backend, [web]);
  await removeAllModes({ namespaceFd: lab.namespace.fd });
  t.deepEqual(listed(), ['TCP C0000201:0050 rr']);
  t.is(inside('/usr/sbin/nft', 'list', 'tables'), '');
  t.notRegex(inside('/usr/sbin/ip', 'link'), /kube-ipvs0/);
  inside('/usr/sbin/ipvsadm', '-D', '-t', '192.0.2.1:80');
});

fact('what kube-proxy left is taken over, but for what is excluded', async (t) => {
  inside('/usr/sbin/ip', 'link', 'add', 'kube-ipvs0', 'type', 'dummy');
  for (const address of ['10.96.0.1', '10.96.0.77', '10.99.0.1']) {
    inside('/usr/sbin/ip', 'address', 'add', `${address}/32`, 'dev', 'kube-ipvs0');
    inside('/usr/sbin/ipvsadm', '-A', '-t', `${address}:80`, '-s', 'wlc');
  }
  inside('/usr/sbin/ipvsadm', '-a', '-t', '10.96.0.1:80', '-r', '10.244.1.99:8080', '-m');
  const excludeCidrs = ['10.99.0.0/16'] as readonly string[] as IpvsSettingsCidrs;
  const backend = await open(t, { settings: { excludeCidrs } });
  await lab.write(backend, [web]);
  const servers = listed().filter((line) => line.startsWith('TCP'));
  t.true(servers.includes('TCP 0A600001:0050 rr'));
  t.false(servers.some((line) => line.includes('0A60004D')));
  t.true(servers.includes('TCP 0A630001:0050 wlc'));
  t.false(listed().some((line) => line.includes('0AF40163')));
  inside('/usr/sbin/ipvsadm', '-D', '-t', '10.99.0.1:80');
});

type IpvsSettingsCidrs = NonNullable<NonNullable<IpvsOptions['settings']>['excludeCidrs']>;

fact('settings of the kernel, and its timeouts, are as they are asked for', async (t) => {
  const settings = { strictArp: true, tcpTimeoutMs: 700_000, udpTimeoutMs: 9_000 };
  await lab.write(await open(t, { settings }), []);
  const values = [
    'vs/conntrack',
    'vs/expire_nodest_conn',
    'vs/expire_quiescent_template',
    'conf/all/arp_ignore',
    'conf/all/arp_announce',
  ];
  t.is(inside('sysctl', '-n', ...values.map((key) => `net/ipv4/${key}`)), '1\n1\n1\n1\n2\n');
  t.is(inside('/usr/sbin/ipvsadm', '-l', '--timeout').trim(), 'Timeout (tcp tcpfin udp): 700 120 9');
});

fact('a node that has an address already keeps it where it is', async (t) => {
  const ip = '10.97.0.1' as Ip;
  inside('/usr/sbin/ip', 'address', 'add', `${ip}/32`, 'dev', 'lo');
  t.teardown(() => inside('/usr/sbin/ip', 'address', 'delete', `${ip}/32`, 'dev', 'lo'));
  await lab.write(await open(t), [web]);
  t.notRegex(inside('/usr/sbin/ip', '-4', 'address', 'show', 'dev', 'kube-ipvs0'), /10\.97\.0\.1\//);
  t.is(await lab.seen('outside', { ip, port: 80 }, pods), 'one+three+two M');
  // Other ports are the node's own matter.
  t.is(await lab.seen('outside', { ip, port: 81 }), 'refused');
});

async function pause(ms: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, ms));
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const endMs = performance.now() + 30_000;
  while (!(await condition())) {
    if (performance.now() > endMs) throw new Error(`it did not come to pass: ${listed().join('; ')}`);
    await pause(100);
  }
}
