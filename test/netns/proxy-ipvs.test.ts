import type { Ip } from '../../core/address.ts';
import { removeAllModes } from '../../proxy/cleanup.ts';
import type { IpvsOptions } from '../../proxy/ipvs/backend.ts';
import { type TestService, viewsOf } from './proxy-backend-lab.ts';
import { echoOf, goesOn, openIpvsStage } from './proxy-ipvs-lab.ts';

/* Where there is IPVS: `npm run test:vm -- test/netns/proxy-ipvs.test.ts`. What all backends do is in the conformance. */

const stage = await openIpvsStage();
const { fact, inside, open, until } = stage;

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
const at = (number: number) => stage.lab.target(4, 'clusterIP', number);

fact('a restart over what was written writes nothing, and a change writes its own rows', async (t) => {
  const backend = await open(t);
  const services = [1, 2, 3, 4].map((number) => ({ number, pods }));
  await stage.lab.write(backend, services);
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
  await stage.lab.write(backend, [web]);
  t.false(await backend.isDisturbed());
  inside('/usr/sbin/ip', 'address', 'delete', '10.96.0.1/32', 'dev', 'kube-ipvs0');
  await until(() => backend.isDisturbed());
  t.deepEqual(await backend.replace(viewsOf([web])), { writes: 1, failures: [] });
  inside('/usr/sbin/nft', 'delete', 'table', 'ip', 'fairlead-ipvs');
  t.true(await backend.isDisturbed());
  t.deepEqual((await backend.replace(viewsOf([web]))).failures, []);
  t.is(await stage.lab.seen('client', at(1), pods), 'one+three+two');
});

fact('open connections go on when their endpoint goes, and no longer than the bound', async (t) => {
  const backend = await open(t, { drainMs: 15_000 });
  t.deepEqual((await backend.replace(echoOf({ number: 2, pods: ['one'] }))).failures, []);
  await using client = stage.lab.lab.startClient('client');
  const { ip, port } = at(2);
  await client.hold(ip, port, 50);
  await goesOn(t, client);
  await backend.update(new Map([['default/s2', []]]));
  t.is(await stage.lab.seen('client', at(2)), 'refused');
  await goesOn(t, client);
  t.true(listed().some((line) => line.startsWith('TCP 0A600002:0050')));
  await until(() => listed().length === 0);
  t.false(inside('/usr/sbin/ip', '-4', 'address', 'show', 'dev', 'kube-ipvs0').includes('10.96.0.2'));
});

fact('nothing is left when it is taken away, and others’ servers stay', async (t) => {
  inside('/usr/sbin/ipvsadm', '-A', '-t', '192.0.2.1:80', '-s', 'rr');
  const backend = await open(t);
  await stage.lab.write(backend, [web, { number: 9, pods, view: { affinitySeconds: 60 } }]);
  t.true(listed().length > 10);
  t.deepEqual((await backend.replace(new Map())).failures, []);
  await until(() => listed().join() === 'TCP C0000201:0050 rr');
  await stage.lab.write(backend, [web]);
  await removeAllModes({ namespaceFd: stage.lab.namespace.fd });
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
  await stage.lab.write(backend, [web]);
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
  await stage.lab.write(await open(t, { settings }), []);
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
  await stage.lab.write(await open(t), [web]);
  t.notRegex(inside('/usr/sbin/ip', '-4', 'address', 'show', 'dev', 'kube-ipvs0'), /10\.97\.0\.1\//);
  t.is(await stage.lab.seen('outside', { ip, port: 80 }, pods), 'one+three+two M');
  // Other ports are the node's own matter.
  t.is(await stage.lab.seen('outside', { ip, port: 81 }), 'refused');
});
