/** The firewall plugin with a real firewalld: its sources, and the packets that it lets through. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import { readChanges } from '../../cni/changes.ts';
import { CniError } from '../../cni/error.ts';
import { foldKeys } from '../../cni/fields.ts';
import { type FirewalldRow, FirewalldTable, firewalldKey } from '../../cni/firewalld/table.ts';
import { parseFirewall, planFirewall } from '../../cni/types/firewall.ts';
import { reconcile } from '../../core/reconcile.ts';
import { layer } from '../../core/rows.ts';
import { CniNode, eventually, type Pod } from '../cni/node.ts';
import { type FilterPod, openFilterLab } from './cni-filter-lab.ts';
import { Firewalld, missingFirewalld } from './firewalld.ts';
import { factOf } from './missing.ts';

const cli = fileURLToPath(new URL('../../cli/main.ts', import.meta.url));
const fact = factOf(missingFirewalld());

const ipam = { type: 'host-local', ranges: [[{ subnet: '10.57.0.0/24' }], [{ subnet: 'fd57::/64' }]] };
const bridge = { cniVersion: '1.0.0', name: 'guarded', type: 'bridge', bridge: 'br0', isGateway: true, ipam };
const firewall = { cniVersion: '1.0.0', name: 'guarded', type: 'firewall', backend: 'firewalld' };
const sourcesOfFirst = ['10.57.0.2/32', 'fd57::2/128'];

interface Chain {
  readonly node: CniNode;
  readonly firewalld: Firewalld;
  readonly start: () => Promise<void>;
  /** The answer of the firewall plugin: a result, or an error. */
  add(pod: Pod, options?: object): Promise<{ readonly code?: number; readonly msg?: string }>;
  check(pod: Pod, prevResult: object): Promise<string>;
  del(pod: Pod): Promise<number>;
}

async function openChain(t: ExecutionContext): Promise<Chain> {
  const node = CniNode.open(t);
  const firewalld = await Firewalld.open(t, node.namespace);
  const start = () => node.start({}, process.env.PATH, { DBUS_SYSTEM_BUS_ADDRESS: firewalld.busAddress });
  await start();
  return {
    node,
    firewalld,
    start,
    async add(pod, options = {}) {
      const { exitCode, stdout } = await node.call('ADD', { ...pod, config: bridge });
      t.is(exitCode, 0, stdout);
      const config = { ...firewall, ...options, prevResult: JSON.parse(stdout) };
      return JSON.parse((await node.call('ADD', { ...pod, config })).stdout);
    },
    async check(pod, prevResult) {
      const { stdout } = await node.call('CHECK', { ...pod, config: { ...firewall, prevResult } });
      return stdout === '' ? 'ok' : JSON.parse(stdout).msg;
    },
    async del(pod) {
      const calls = [await node.call('DEL', { ...pod, config: firewall })];
      calls.push(await node.call('DEL', { ...pod, config: bridge }));
      return Math.max(...calls.map(({ exitCode }) => exitCode));
    },
  };
}

fact(
  'the addresses are sources of the zone from ADD to DEL; CHECK finds them, and misses them',
  async (t) => {
    const { node, firewalld, add, check, del } = await openChain(t);
    const [pod, other] = [node.pod(), node.pod()];
    const result = await add(pod);
    t.is(result.code, undefined, result.msg);
    t.deepEqual(await firewalld.sources(), sourcesOfFirst);
    t.is(await check(pod, result), 'ok');
    await add(other, { firewalldZone: 'internal' });
    t.deepEqual(await firewalld.sources('internal'), ['10.57.0.3/32', 'fd57::3/128']);
    await firewalld.command('--zone=trusted', '--remove-source=10.57.0.2/32');
    t.is(await check(pod, result), 'failed to find the address 10.57.0.2/32 in trusted zone');
    t.is(await del(pod), 0);
    t.is(await del(other), 0);
    t.deepEqual([await firewalld.sources(), await firewalld.sources('internal')], [[], []]);
    t.is(await del(pod), 0, 'once more');
    t.deepEqual(readChanges(join(node.stateDir, 'changes.json')).sources, []);
  },
);

fact('firewalld that runs is the backend where none is named, and sources of others stay', async (t) => {
  const { node, firewalld, add, del } = await openChain(t);
  await firewalld.command('--zone=trusted', '--add-source=10.9.0.0/16');
  const pod = node.pod();
  t.is((await add(pod, { backend: undefined })).code, undefined);
  t.deepEqual(await firewalld.sources(), [...sourcesOfFirst, '10.9.0.0/16'].toSorted());
  t.notRegex(await node.exec('/usr/sbin/iptables-save'), /10\.57/);
  t.is(await del(pod), 0);
  t.deepEqual(await firewalld.sources(), ['10.9.0.0/16']);
  await firewalld.stop();
  const next = node.pod();
  t.is((await add(next, { backend: undefined })).code, undefined);
  t.regex(await node.exec('/usr/sbin/iptables-save'), /-A FAIRLEAD-ACCEPT -s 10\.57/);
  t.is(await del(next), 0);
});

fact('what firewalld refuses is told in its words, and nothing is left', async (t) => {
  const { node, firewalld, add, del } = await openChain(t);
  const pod = node.pod();
  await firewalld.command('--zone=public', '--add-source=10.57.0.2/32');
  t.like(await add(pod), {
    code: 999,
    msg: "failed to add the address 10.57.0.2/32 to trusted zone: ZONE_CONFLICT: '10.57.0.2/32' already bound to a zone",
  });
  t.deepEqual(await firewalld.sources(), []);
  t.is(await del(pod), 0);
  t.deepEqual(await firewalld.sources('public'), ['10.57.0.2/32'], 'not ours');
  t.regex(
    (await add(pod, { firewalldZone: 'nowhere' })).msg ?? '',
    /to nowhere zone: INVALID_ZONE: nowhere$/,
  );
  // A repair may be at them, too, for as long as they are wanted.
  const recorded = () => readChanges(join(node.stateDir, 'changes.json')).sources;
  t.true(await eventually(async () => recorded().length === 0), recorded().join());
});

fact('DEL succeeds without firewalld, and with one that does not answer, which is told later', async (t) => {
  const { node, firewalld, add, del } = await openChain(t);
  const [pod, other, third] = [node.pod(), node.pod(), node.pod()];
  for (const one of [pod, other]) t.is((await add(one)).code, undefined);
  await firewalld.stop();
  t.is(await del(pod), 0);
  t.regex((await add(third)).msg ?? '', /^failed to add the address 10\.57\.0\.4\/32 to trusted zone: /);
  await firewalld.start();
  t.true(
    await eventually(async () => (await firewalld.sources()).length === 2),
    'those of the other come back',
  );
  firewalld.freeze('SIGSTOP');
  t.is(await del(other), 0);
  firewalld.freeze('SIGCONT');
  t.true(await eventually(async () => (await firewalld.sources()).length === 0), node.log.join('\n'));
});

fact('sources come back after a reload, and go with pods that went while no agent ran', async (t) => {
  const { node, firewalld, start, add, del } = await openChain(t);
  const [pod, gone] = [node.pod(), node.pod()];
  for (const one of [pod, gone]) t.is((await add(one)).code, undefined);
  await firewalld.command('--reload');
  t.true(await eventually(async () => (await firewalld.sources()).length === 4), node.log.join('\n'));
  await node.kill('SIGKILL');
  node.removeNamespace(gone);
  t.true(await eventually(async () => (await node.pairs()).length === 1));
  await start();
  t.true(await eventually(async () => (await firewalld.sources()).length === 2), node.log.join('\n'));
  t.deepEqual(await firewalld.sources(), sourcesOfFirst);
  t.is(await del(pod), 0);
  t.deepEqual(await firewalld.sources(), []);
});

fact('cleanup takes out the sources that are on record, and no others', async (t) => {
  const node = CniNode.open(t);
  const firewalld = await Firewalld.open(t, node.namespace);
  await firewalld.command('--zone=trusted', '--add-source=10.57.0.2/32', '--add-source=10.9.0.0/16');
  const run = join(node.directory, 'run');
  mkdirSync(join(run, 'cni'), { recursive: true });
  const sources = ['10.57.0.2/32 trusted', '10.57.0.3/32 trusted'];
  writeFileSync(join(run, 'cni', 'changes.json'), JSON.stringify({ sources }));
  const folders = ['--run-dir', '--cni-bin-dir', '--cni-conf-dir', '--systemd-dir'];
  const places = [...folders.flatMap((name) => [name, run]), '--subnet-file', join(run, 'subnet.env')];
  const bus = `DBUS_SYSTEM_BUS_ADDRESS=${firewalld.busAddress}`;
  const words = [bus, process.execPath, cli, 'cleanup', '--output', 'json', ...places];
  const { removed, failed } = JSON.parse(await node.exec('/usr/bin/env', ...words));
  t.deepEqual(failed, []);
  t.deepEqual(removed.firewalld, ['10.57.0.2/32 trusted']);
  t.deepEqual(await firewalld.sources(), ['10.9.0.0/16']);
});

function rowsOf(pod: FilterPod): readonly FirewalldRow[] {
  const config = parseFirewall(foldKeys({ type: 'firewall', backend: 'firewalld' }));
  if (config instanceof CniError) throw config;
  const dns = { nameservers: [], search: [], options: [] };
  const ips = pod.addresses.map((address) => ({ address }));
  const rows = planFirewall(config, { interfaces: [], ips, routes: [], dns });
  if (rows instanceof CniError) throw rows;
  return rows.firewalld;
}

fact('packets of pods in the zone pass firewalld, both families, those of others do not', async (t) => {
  const lab = await openFilterLab(t);
  const [pod, other] = [await lab.addPod(5), await lab.addPod(6)];
  const [outside4, outside6] = lab.lab.outside.addresses;
  const [node4, node6] = lab.node.addresses;
  for (const [subnet, by] of [
    ['10.244.1.0/24', node4],
    ['fd00:10:244:1::/64', node6],
  ])
    lab.run(lab.lab.outside.namespace, `/usr/sbin/ip route add ${subnet} via ${by}`);
  await lab.client('outside').serve('outside', 80);
  const reached = async ({ workload }: FilterPod) => {
    const answers = [outside4, outside6].map((address) => workload.datagram(address, 80, 1_000));
    return (await Promise.all(answers)).map(({ ok }) => ok);
  };
  t.true(await eventually(async () => (await reached(pod)).every(Boolean), 10_000));
  const firewalld = await Firewalld.open(t, `/run/netns/${lab.node.namespace}`);
  t.deepEqual(await reached(pod), [false, false]);
  let sources: readonly string[] = [];
  const changeSources = (added: readonly string[], removed: readonly string[]) => {
    sources = [...new Set([...sources, ...added])].filter((one) => !removed.includes(one));
  };
  const record = {
    get sources() {
      return sources;
    },
    changeSources,
  };
  const table = new FirewalldTable({ busAddress: firewalld.busAddress, record });
  const wanted = new Map(rowsOf(pod).map((row) => [firewalldKey(row), row]));
  t.deepEqual(await reconcile([layer(table, wanted)]), { writes: 2, failures: [] });
  t.deepEqual(await reconcile([layer(table, wanted)]), { writes: 0, failures: [] });
  t.true(await eventually(async () => (await reached(pod)).every(Boolean), 10_000));
  t.deepEqual(await reached(other), [false, false]);
  t.deepEqual(await reconcile([layer(table, new Map())]), { writes: 2, failures: [] });
  t.deepEqual(await reached(pod), [false, false]);
  t.deepEqual(sources, []);
});

fact('firewalld in another network namespace does not guard the pods here', async (t) => {
  const [node, elsewhere] = [CniNode.open(t), CniNode.open(t)];
  const firewalld = await Firewalld.open(t, elsewhere.namespace);
  const runsFor = (namespace: number) =>
    new FirewalldTable({ busAddress: firewalld.busAddress, namespace }).runs();
  const inode = async ({ namespace }: CniNode) =>
    Number((await node.exec('/usr/bin/stat', '-Lc', '%i', namespace)).trim());
  t.true(await runsFor(await inode(elsewhere)));
  t.false(await runsFor(await inode(node)));
  t.false(await new FirewalldTable({ busAddress: 'unix:path=/nowhere/bus' }).runs());
});
