import test, { type ExecutionContext } from 'ava';
import type { NodeNetwork } from '../../cni/node-network.ts';
import type { Cidr } from '../../core/address.ts';
import { reapGroupBase } from '../../kernel/reaper.ts';
import { CniNode, eventually, testConfig } from '../cni/node.ts';

/** Below the time after which everything is looked at, whatever is told. */
const repairMs = 45_000;
const portMappings = [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }];

async function withPod(t: ExecutionContext, options: object = {}): Promise<CniNode> {
  const node = CniNode.open(t);
  await node.start();
  const pod = node.pod();
  const { exitCode, stdout } = await node.call('ADD', { ...pod, config: testConfig(options) });
  t.is(exitCode, 0, stdout);
  return node;
}

const shows =
  (node: CniNode, pattern: RegExp, ...command: string[]) =>
  async () =>
    pattern.test(await node.exec(...command).catch(() => ''));

test.serial(
  "a gateway address that was taken from the bridge is back at once, in one's own subnet",
  async (t) => {
    const node = await withPod(t);
    await node.exec('ip', 'addr', 'del', '10.55.0.1/24', 'dev', 'cni0');
    await node.exec('ip', 'addr', 'del', 'fd55::1/64', 'dev', 'cni0');
    const has = async () =>
      (await shows(node, /10\.55\.0\.1\/24/, 'ip', 'addr', 'show', 'cni0')()) &&
      (await shows(node, /fd55::1\/64/, 'ip', 'addr', 'show', 'cni0')());
    t.true(await eventually(has, repairMs));
  },
);

test.serial('a bridge that was set down is up again at once', async (t) => {
  const node = await withPod(t);
  await node.exec('ip', 'link', 'set', 'cni0', 'down');
  t.true(await eventually(shows(node, /[<,]UP[,>]/, 'ip', 'link', 'show', 'cni0'), repairMs));
  t.true(await eventually(shows(node, /fd55::1\/64/, 'ip', 'addr', 'show', 'cni0'), repairMs));
});

test.serial('a bridge that was deleted is made again, with the pods on it', async (t) => {
  const node = await withPod(t);
  const [pair = ''] = await node.pairs();
  await node.exec('ip', 'link', 'del', 'cni0');
  t.true(
    await eventually(shows(node, /master cni0/, 'ip', 'link', 'show', pair), repairMs),
    node.log.join('\n'),
  );

  t.regex(await node.exec('ip', 'link', 'show', pair), /state UP/);
  // Who asks for the pod's MAC gets it only by way of the port.
  await node.exec('bash', '-c', 'exec 3>/dev/udp/10.55.0.2/9; echo x >&3');
  t.true(await eventually(shows(node, /10\.55\.0\.2.*REACHABLE/, 'ip', 'neigh')));
});

test.serial('an address that an operator gave the bridge stays', async (t) => {
  const node = await withPod(t);
  await node.exec('ip', 'addr', 'add', '192.0.2.1/24', 'dev', 'cni0');
  await node.exec('ip', 'addr', 'del', '10.55.0.1/24', 'dev', 'cni0');
  t.true(await eventually(shows(node, /10\.55\.0\.1\/24/, 'ip', 'addr', 'show', 'cni0'), repairMs));
  t.true(await shows(node, /192\.0\.2\.1\/24/, 'ip', 'addr', 'show', 'cni0')());
});

test.serial('pods that come and go do not have the bridge looked at', async (t) => {
  const node = await withPod(t);
  for (let count = 0; count < 5; count += 1) {
    const pod = node.pod();
    await node.call('ADD', pod);
    await node.call('DEL', pod);
  }
  t.deepEqual(
    node.log.filter((line) => line.includes('repaired')),
    [],
  );
});

test.serial('the packet filter is back at once when somebody flushes it', async (t) => {
  const node = await withPod(t, { ipMasq: true, macspoofchk: true, runtimeConfig: { portMappings } });
  const list = () => node.exec('/usr/sbin/nft', 'list', 'ruleset');
  const before = await list();
  t.regex(before, /tcp \. 8080 : 10\.55\.0\.2 \. 80/);
  await node.exec('/usr/sbin/nft', 'flush', 'ruleset');
  t.true(await eventually(async () => (await list()) === before, repairMs));
});

test.serial(
  'conditions of host ports are elements that are kept, that CHECK looks at, and that go with DEL',
  async (t) => {
    const node = CniNode.open(t);
    await node.start();
    const conditions = {
      conditionsV4: ['ip saddr { 10.0.0.0/8, 192.0.2.0/24 } iifname != wg0'],
      conditionsV6: ['ip6', 'saddr', '!=', 'fd99::/16'],
    };
    const config = testConfig({ ...conditions, runtimeConfig: { portMappings } });
    const pod = node.pod();
    const { stdout } = await node.call('ADD', { ...pod, config });
    const check = async () =>
      (await node.call('CHECK', { ...pod, config: { ...config, prevResult: JSON.parse(stdout) } })).stdout;
    const nft = (...words: string[]) => node.exec('/usr/sbin/nft', ...words);
    const before = await nft('list', 'ruleset');
    t.regex(before, /0\.0\.0\.0\/0 \. tcp \. 8080 \. 192\.0\.2\.0\/24/);
    t.is(await check(), '');
    const sources = ['inet', 'fairlead-cni', 'condition-addresses4'];
    await nft('flush', 'set', ...sources);
    t.regex(await check(), /condition-addresses4|^$/, 'unless it is back already');
    t.true(await eventually(async () => (await nft('list', 'ruleset')) === before, repairMs));
    await nft('flush', 'ruleset');
    t.true(await eventually(async () => (await nft('list', 'ruleset')) === before, repairMs));
    t.is((await node.call('DEL', { ...pod, config })).exitCode, 0);
    t.notRegex(await nft('list', 'ruleset'), /elements/);
  },
);

test.serial("own changes are nobody's damage: nothing is looked at again for them", async (t) => {
  const node = await withPod(t, { runtimeConfig: { portMappings } });
  for (let index = 0; index < 20; index += 1) {
    const config = testConfig({ ipMasq: true });
    const pod = node.pod();
    t.is((await node.call('ADD', { ...pod, config })).exitCode, 0);
    if (index % 2 === 0) t.is((await node.call('DEL', { ...pod, config })).exitCode, 0);
    await new Promise((resolve) => setTimeout(resolve, 60));
  }
  t.deepEqual(
    node.log.filter((line) => line.includes('repaired')),
    [],
  );
});

test.serial('a parameter of the kernel that a host port needs is put right', async (t) => {
  const node = await withPod(t, { runtimeConfig: { portMappings } });
  const path = '/proc/sys/net/ipv4/conf/cni0/route_localnet';
  const value = async () => (await node.exec('cat', path)).trim();
  t.is(await value(), '1');
  await node.exec('sh', '-c', `echo 0 > ${path}`);
  t.true(await eventually(async () => (await value()) === '1'));
});

test.serial('one element that was taken is back at once, and one of somebody else goes', async (t) => {
  const node = await withPod(t, { runtimeConfig: { portMappings } });
  const list = () => node.exec('/usr/sbin/nft', 'list', 'ruleset');
  const before = await list();
  const map = ['inet', 'fairlead-cni', 'hostports4'];
  await node.exec('/usr/sbin/nft', 'delete', 'element', ...map, '{ tcp . 8080 }');
  await node.exec('/usr/sbin/nft', 'add', 'element', ...map, '{ tcp . 9 : 192.0.2.1 . 9 }');
  t.true(await eventually(async () => (await list()) === before, repairMs));
});

test.serial('a node without rows in the packet filter has no tables in it', async (t) => {
  const node = await withPod(t);
  t.is(await node.exec('/usr/sbin/nft', 'list', 'ruleset'), '');
});

test.serial('rows that were lost while no daemon ran are made again at the start', async (t) => {
  const bandwidth = { ingressRate: 1e9, ingressBurst: 1e7 };
  const node = await withPod(t, { ipMasq: true, runtimeConfig: { portMappings, bandwidth } });
  const [pair = ''] = await node.pairs();
  const list = () => node.exec('/usr/sbin/nft', 'list', 'ruleset');
  const before = await list();
  await node.kill('SIGKILL');
  await node.exec('/usr/sbin/nft', 'flush', 'ruleset');
  await node.exec('tc', 'qdisc', 'del', 'dev', pair, 'root');
  await node.exec('ip', 'link', 'set', 'cni0', 'down');
  await node.start();
  t.is(await list(), before);
  t.regex(await node.exec('tc', 'qdisc', 'show', 'dev', pair), /tbf/);
  t.regex(await node.exec('ip', 'link', 'show', 'cni0'), /[<,]UP[,>]/);
});

test.serial("the node's own bridge is there before the first pod", async (t) => {
  const node = CniNode.open(t);
  const network: NodeNetwork = {
    name: 'cni0',
    subnets: ['10.66.0.0/24' as Cidr],
    mtuBytes: 1400,
    masquerade: true,
  };
  await node.start({ network });
  t.true(await eventually(shows(node, /10\.66\.0\.1\/24/, 'ip', 'addr', 'show', 'cni0')));
  t.regex(await node.exec('ip', 'link', 'show', 'cni0'), /mtu 1400/);
});

test.serial('a bridge believes no router, and follows the MTU of the node', async (t) => {
  const node = CniNode.open(t);
  const network = { name: 'cni0', subnets: ['10.66.0.0/24' as Cidr], masquerade: false };
  await node.start({ network: { ...network, mtuBytes: 1500 } });
  t.true(await eventually(shows(node, /mtu 1500/, 'ip', 'link', 'show', 'cni0')));
  t.is((await node.exec('sysctl', '-n', 'net.ipv6.conf.cni0.accept_ra')).trim(), '0');
  const pod = node.pod();
  t.is((await node.call('ADD', { ...pod, config: testConfig({ ipam: {}, mtu: 1400 }) })).exitCode, 0);
  t.regex(await node.exec('ip', 'link', 'show', 'cni0'), /mtu 1400/);
  await node.kill('SIGTERM');
  await node.start({ network: { ...network, mtuBytes: 1300 } });
  t.true(await eventually(shows(node, /mtu 1300/, 'ip', 'link', 'show', 'cni0')));
});

test.serial(
  'pairs that were taken out of service are no leases of the next daemon, with and without a bridge',
  async (t) => {
    const node = CniNode.open(t);
    await node.start();
    for (const mode of ['bridge', 'ptp']) {
      const config = testConfig({ mode, name: mode, ipam: { ranges: [[{ subnet: '10.55.0.0/24' }]] } });
      t.is((await node.call('ADD', { ...node.pod(), config })).exitCode, 0);
    }
    await node.kill('SIGKILL');
    // As an agent leaves it that was killed between the mark and the deletion.
    for (const pair of await node.pairs()) {
      await node.exec('ip', 'link', 'set', pair, 'down', 'group', `${reapGroupBase + 7}`);
    }
    await node.start();
    t.deepEqual([node.leases(), await node.pairs()], [[], []]);
  },
);

test.serial(
  'pods live on when their bridge was deleted, or their ends set down, while no agent ran',
  async (t) => {
    const node = CniNode.open(t);
    await node.start();
    const modes = ['bridge', 'bridge', 'bridge', 'ptp'];
    const pods = modes.map((mode) => ({ ...node.pod(), mode }));
    for (const { mode, ...pod } of pods) {
      const ranges = [[{ subnet: mode === 'ptp' ? '10.56.0.0/24' : '10.55.0.0/24' }]];
      const config = testConfig({
        mode,
        name: mode,
        ipam: { ranges },
        portIsolation: mode === 'bridge',
      });
      const { exitCode, stdout } = await node.call('ADD', { ...pod, config });
      t.is(exitCode, 0, stdout);
    }
    const leases = node.leases();
    const reach = (ip: string) => node.exec('ping', '-c', '1', '-W', '5', ip);
    await node.kill('SIGKILL');
    await node.exec('ip', 'link', 'del', 'cni0');
    for (const pair of await node.pairs()) await node.exec('ip', 'link', 'set', pair, 'down');
    await node.start();
    t.deepEqual(node.leases(), leases);
    for (const ip of ['10.55.0.2', '10.55.0.3', '10.55.0.4', '10.56.0.2']) await t.notThrowsAsync(reach(ip));
    const ports = await node.exec('ip', '-d', '-o', 'link', 'show', 'master', 'cni0');
    t.is(ports.match(/hairpin on .*isolated on/g)?.length, 3);
  },
);
