import test, { type ExecutionContext } from 'ava';
import { type FaultPoint, faultPoints } from '../../cni/attacher.ts';
import { hostNameOf } from '../../cni/attachment.ts';
import { type CallResult, CniNode, eventually, execIn, type Pod, testConfig } from '../cni/node.ts';
import { Firewalld, missingFirewalld } from './firewalld.ts';
import { factOf, missingBridgeVlans } from './missing.ts';

/** The whole pool is free again: every usable address of the /29 can be given. */
async function poolIsWhole(t: ExecutionContext, node: CniNode, config: object): Promise<void> {
  const pods = Array.from({ length: 5 }, () => node.pod());
  for (const pod of pods) {
    const { exitCode, stdout } = await node.call('ADD', { ...pod, config });
    t.is(exitCode, 0, stdout);
  }
  for (const pod of pods) await node.call('DEL', { ...pod, config });
}

/** Rows of every kind that one call makes. */
const everything = {
  ipMasq: true,
  macspoofchk: true,
  portIsolation: true,
  conditionsV4: ['ip saddr != 192.0.2.0/24'],
  runtimeConfig: {
    portMappings: [{ hostPort: 8080, containerPort: 80, protocol: 'udp' }],
    bandwidth: { ingressRate: 1e9, ingressBurst: 1e7, egressRate: 1e9, egressBurst: 1e7 },
  },
};
/** What makes rows of the kinds that usual calls do not. */
const special: Readonly<Record<string, object>> = {
  routes: { mode: 'ptp', macspoofchk: false, portIsolation: false },
  iptables: { backend: 'iptables', conditionsV4: ['!', '-s', '192.0.2.0/24'] },
  vlans: { vlan: 5 },
};
/** The bridge's port in that VLAN stays, as the bridge does. */
const vlanPort = hostNameOf('gateway cni0.5');
const tuning = { type: 'tuning', mtu: 1300 };
const firewall = { type: 'firewall', backend: 'firewalld' };

/** The plugins of a chain that passes the point. */
function chainFor(point: string, ipam: object): readonly object[] {
  const kind = point.slice(point.indexOf(':') + 1);
  const full = testConfig({ ipam, ...everything, ...special[kind] });
  const chained = { pod: [testConfig(tuning)], firewalld: [testConfig(firewall)] };
  return [full, ...(chained[kind as keyof typeof chained] ?? [])];
}

async function addChain(node: CniNode, pod: Pod, chain: readonly object[]): Promise<CallResult> {
  let result: CallResult = { exitCode: 0, stdout: '', stderr: '' };
  for (const plugin of chain) {
    const prevResult = result.stdout === '' ? undefined : JSON.parse(result.stdout);
    result = await node.call('ADD', { ...pod, config: { ...plugin, prevResult } });
    if (result.exitCode !== 0) break;
  }
  return result;
}

async function delChain(node: CniNode, pod: Pod, chain: readonly object[]): Promise<number> {
  let worst = 0;
  for (const config of chain.toReversed()) {
    worst = Math.max(worst, (await node.call('DEL', { ...pod, config })).exitCode);
  }
  return worst;
}

/** What stands in the sets of our tables. */
async function elements(node: CniNode): Promise<number> {
  const { nftables } = JSON.parse(await node.exec('/usr/sbin/nft', '-j', 'list', 'ruleset'));
  return nftables.reduce((sum: number, { set, map }: Record<string, { elem?: unknown[] }>) => {
    return sum + ((set ?? map)?.elem?.length ?? 0);
  }, 0);
}

/** Only with an IPAM program of others: see cni-foreign.test.ts. */
const foreignPoints: readonly FaultPoint[] = ['add:asking', 'del:told'];

for (const point of faultPoints) {
  if (foreignPoints.includes(point)) continue;
  const isFirewalld = point.endsWith(':firewalld');
  const missing = isFirewalld
    ? missingFirewalld()
    : point.endsWith(':vlans')
      ? missingBridgeVlans()
      : undefined;
  factOf(missing)(`killed at ${point}, started again and told to DEL: nothing is left`, async (t) => {
    const node = CniNode.open(t);
    const ipam = { subnet: '10.55.0.0/29' };
    const config = testConfig({ ipam });
    const chain = chainFor(point, ipam);
    const isAdd = point.startsWith('add:');
    const firewalld = isFirewalld ? await Firewalld.open(t, node.namespace) : undefined;
    const start = (options = {}) =>
      node.start(options, process.env.PATH, firewalld && { DBUS_SYSTEM_BUS_ADDRESS: firewalld.busAddress });
    // The second time, so that bridge and pool are there.
    await start({ killAt: { point, times: 2 } });
    const first = node.pod();
    const warmed = await addChain(node, first, chain);
    t.is(warmed.exitCode, 0, warmed.stdout);
    t.is(await delChain(node, first, chain), 0);
    const pod = node.pod();
    const added = await addChain(node, pod, chain);
    if (!isAdd) await delChain(node, pod, chain);
    await node.ended();
    if (isAdd && point !== 'add:answered') t.is(JSON.parse(added.stdout).code, 11);

    await start();
    for (const one of [pod, first]) t.is(await delChain(node, one, chain), 0);
    t.deepEqual(node.leases(), []);
    const isOwn = (name: string) => !/^cni0(\.5)?$/.test(name) && name !== vlanPort;
    t.true(await eventually(async () => !(await node.links()).some(isOwn)));
    t.is(await elements(node), 0);
    t.notRegex(await node.exec('iptables-save'), /8080/);
    if (firewalld !== undefined)
      t.true(await eventually(async () => (await firewalld.sources()).length === 0));
    t.notRegex(await execIn(pod.netns, 'ip', 'link'), /eth0/);
    await poolIsWhole(t, node, config);
  });
}

test.serial('killed again and again under load, the daemon comes back to nothing', async (t) => {
  const node = CniNode.open(t);
  const config = testConfig({ ipam: { subnet: '10.55.0.0/27' } });
  for (const delayMs of [5, 17, 29, 41]) {
    await node.start();
    const pods = Array.from({ length: 12 }, () => node.pod());
    const calls = pods.map((pod) => node.call('ADD', { ...pod, config }));
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    await node.kill('SIGKILL');
    await Promise.all(calls);
    await node.start();
    for (const pod of pods) t.is((await node.call('DEL', { ...pod, config })).exitCode, 0);
    t.deepEqual(node.leases(), []);
    t.true(await eventually(async () => (await node.pairs()).length === 0));
    await node.kill('SIGKILL');
  }
});

test.serial('pods that were attached before the kill keep their interface and address', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const pod = node.pod();
  const { ips } = JSON.parse((await node.call('ADD', pod)).stdout);
  await node.kill('SIGKILL');
  await node.start();
  t.is((await node.pairs()).length, 1);
  t.regex(await execIn(pod.netns, 'ip', 'addr', 'show', 'eth0'), /state UP/);
  const other = JSON.parse((await node.call('ADD', node.pod())).stdout);
  t.not(other.ips[0].address, ips[0].address);
});

test.serial('what the kernel lost while no daemon ran is released at the start', async (t) => {
  const node = CniNode.open(t);
  await node.start();
  const pod = node.pod();
  await node.call('ADD', pod);
  await node.kill('SIGKILL');
  node.removeNamespace(pod);
  await eventually(async () => (await node.pairs()).length === 0);
  await node.start();
  t.deepEqual(node.leases(), []);
});
