import test, { type ExecutionContext } from 'ava';
import { CniError } from '../../cni/error.ts';
import { foldKeys } from '../../cni/fields.ts';
import type { IptablesRow } from '../../cni/iptables/layout.ts';
import { iptablesKey } from '../../cni/iptables/rules.ts';
import { IptablesTable } from '../../cni/iptables/table.ts';
import { parseFirewall, planFirewall } from '../../cni/types/firewall.ts';
import { parsePortmap, planPortmap } from '../../cni/types/portmap.ts';
import { reconcile } from '../../core/reconcile.ts';
import { layer } from '../../core/rows.ts';
import { heldBy } from '../cni/host-port-holders.ts';
import { type FilterLab, type FilterPod, openFilterLab } from './cni-filter-lab.ts';

const both = [
  { hostPort: 8080, containerPort: 80, protocol: 'tcp' },
  { hostPort: 8080, containerPort: 80, protocol: 'udp' },
];

function portRows(pod: FilterPod, options: object = {}): readonly IptablesRow[] {
  const config = parsePortmap(
    foldKeys({ backend: 'iptables', ...options, runtimeConfig: { portMappings: both } }),
  );
  if (config instanceof CniError) throw config;
  const rows = planPortmap(config, { 4: pod.addresses[0], 6: pod.addresses[1] });
  if (rows instanceof CniError) throw rows;
  return rows.iptables;
}

function firewallRows(pod: FilterPod): readonly IptablesRow[] {
  const config = parseFirewall(foldKeys({ type: 'firewall' }));
  if (config instanceof CniError) throw config;
  const ips = pod.addresses.map((address) => ({ address }));
  const rows = planFirewall(config, {
    interfaces: [],
    ips,
    routes: [],
    dns: { nameservers: [], search: [], options: [] },
  });
  if (rows instanceof CniError) throw rows;
  return rows.iptables;
}

function tableOf({ node }: FilterLab): IptablesTable {
  return new IptablesTable({ enter: ['/usr/bin/nsenter', `--net=/run/netns/${node.namespace}`, '--'] });
}

async function settle(
  t: ExecutionContext,
  table: IptablesTable,
  rows: readonly IptablesRow[],
): Promise<number> {
  const wanted = new Map(rows.map((row) => [iptablesKey(row), row]));
  const { writes, failures } = await reconcile([layer(table, wanted)]);
  t.deepEqual(
    failures.map(({ key, error }) => `${key}: ${error.message}`),
    [],
  );
  return writes;
}

const save = { 4: '/usr/sbin/iptables-save', 6: '/usr/sbin/ip6tables-save' } as const;

function saved(lab: FilterLab, family: 4 | 6): string {
  const lines = lab.run(lab.node.namespace, save[family]).split('\n');
  return lines.filter((line) => /FAIRLEAD|CNI-ADMIN|fairlead/.test(line)).join('\n');
}

/** What must come is waited for, whatever else the processors do; what must not come would come soon. */
const ANSWER_LIMIT_MS = 30_000;
const SILENCE_MS = 1_500;

async function told(
  lab: FilterLab,
  from: 'outside' | 'node' | FilterPod,
  address: string,
  limitMs = ANSWER_LIMIT_MS,
): Promise<string> {
  const client = typeof from === 'string' ? lab.client(from) : from.workload;
  const host = address.includes(':') ? `[${address}]` : address;
  const [tcp, udp] = [
    await client.get(`http://${host}:8080/`, limitMs),
    await client.datagram(address, 8080, limitMs),
  ];
  return [tcp, udp].map((one) => (one.ok ? one.answer?.peer : 'no answer')).join(' ');
}

test('host ports by iptables: from outside, the node, the pod itself; gone without a trace', async (t) => {
  const lab = await openFilterLab(t);
  const pod = await lab.addPod(5);
  const table = tableOf(lab);
  const [node4, node6] = lab.node.addresses;
  const [outside4, outside6] = lab.lab.outside.addresses;
  const rows = portRows(pod);
  t.is(await settle(t, table, rows), rows.length);
  t.is(await settle(t, table, rows), 0);
  t.is(await told(lab, 'outside', node4), `${outside4} ${outside4}`);
  t.is(await told(lab, 'outside', node6), `${outside6} ${outside6}`);
  t.is(await told(lab, 'node', '127.0.0.1'), '10.244.1.1 10.244.1.1');
  t.is(await told(lab, pod, node4), '10.244.1.1 10.244.1.1');
  t.is(await told(lab, pod, node6), 'fd00:10:244:1::1 fd00:10:244:1::1');

  const next = await lab.addPod(6);
  t.regex(
    heldBy('abc', { iptables: rows }).conflict('next', { iptables: portRows(next) })?.message ?? '',
    /8080\/tcp is already taken by abc/,
  );
  t.is(await settle(t, table, []), rows.length);
  t.is(await told(lab, 'outside', node4, SILENCE_MS), 'no answer no answer');
  await table.remove();
  t.deepEqual([saved(lab, 4), saved(lab, 6)], ['', '']);
  await table.remove();
});

test('rules that somebody removed come back, with their jumps, and beside those of others', async (t) => {
  const lab = await openFilterLab(t);
  const pod = await lab.addPod(5);
  const table = tableOf(lab);
  const [node4] = lab.node.addresses;
  const run = (command: string) => lab.run(lab.node.namespace, command);
  run('/usr/sbin/iptables -t nat -A PREROUTING -p tcp --dport 9999 -j ACCEPT');
  const rows = [...portRows(pod), ...firewallRows(pod)];
  await settle(t, table, rows);
  run('/usr/sbin/iptables -t nat -F');
  run('/usr/sbin/iptables -t nat -X');
  t.true((await settle(t, table, rows)) > 0);
  t.regex(await told(lab, 'outside', node4), /^172/);
  run('/usr/sbin/iptables -t nat -D FAIRLEAD-HOSTPORTS 1');
  run('/usr/sbin/iptables -t nat -F FAIRLEAD-HP-MARK');
  await settle(t, table, rows);
  t.is(await told(lab, pod, node4), '10.244.1.1 10.244.1.1');
});

test('a rule that the kernel does not come to is no rule: its jump alone comes back', async (t) => {
  const lab = await openFilterLab(t);
  const table = tableOf(lab);
  const rows = portRows(await lab.addPod(5));
  await settle(t, table, rows);
  const whole = saved(lab, 4);
  lab.run(lab.node.namespace, '/usr/sbin/iptables -t nat -D PREROUTING 1');
  const there = await table.read();
  const dnat = rows.filter(({ family, chain }) => family === 4 && chain === 'FAIRLEAD-HP-DNAT');
  for (const row of dnat) t.false(table.same(row, there.get(iptablesKey(row)) ?? row));
  t.true((await settle(t, table, rows)) > 0);
  t.deepEqual(saved(lab, 4).split('\n').sort(), whole.split('\n').sort());
  t.is(await settle(t, table, rows), 0);
});

test('what listens on the loopback of the node is not reached by pods, also by iptables', async (t) => {
  const lab = await openFilterLab(t);
  const pod = await lab.addPod(5);
  const table = tableOf(lab);
  await lab.client('node').serve('node', 8080);
  lab.run(pod.namespace, '/usr/sbin/ip route add 127.0.0.2/32 via 10.244.1.1');
  lab.run(pod.namespace, '/usr/sbin/sysctl -qw net.ipv4.conf.eth0.route_localnet=1');
  lab.run(pod.namespace, '/usr/sbin/ip route flush table local 127.0.0.0/8');
  const reached = async () => (await pod.workload.get('http://127.0.0.2:8080/', SILENCE_MS)).ok;
  t.true(await reached(), 'the hole is there');
  await settle(t, table, portRows(pod));
  t.false(await reached());
  await table.remove();
  t.deepEqual([saved(lab, 4), saved(lab, 6)], ['', '']);
});

for (const enter of [
  ['/nowhere/enter'],
  ['/usr/bin/env', 'PATH=/nowhere', '/usr/bin/nsenter', '--net=/proc/self/ns/net', '--'],
]) {
  test(`without iptables (${enter[0]}) rows are gone for whoever removes some, and cannot be made`, async (t) => {
    const table = new IptablesTable({ enter });
    const rule = { family: 4, chain: 'FAIRLEAD-ACCEPT', rule: '-s 10.1.0.5/32 -j ACCEPT' } as const;
    const key = iptablesKey(rule);
    t.deepEqual(await table.write([{ kind: 'delete', key, actual: rule }]), []);
    const [failure] = await table.write([{ kind: 'create', key, wanted: rule }]);
    t.regex(failure?.error.message ?? '', /ENOENT|No such file/);
    t.is((await table.read()).size, 0);
  });
}

test('many writes at the same time make each jump once', async (t) => {
  const lab = await openFilterLab(t);
  const table = tableOf(lab);
  const rows = portRows(await lab.addPod(5));
  await Promise.all(rows.map((row) => table.write([{ kind: 'create', key: iptablesKey(row), wanted: row }])));
  t.is(saved(lab, 4).match(/^-A PREROUTING .*HOSTPORTS/gm)?.length, 1);
  t.is(await settle(t, table, rows), 0);
});

test('with conditions only what meets them goes to the pod', async (t) => {
  const lab = await openFilterLab(t);
  const pod = await lab.addPod(5);
  const [node4] = lab.node.addresses;
  const [outside4] = lab.lab.outside.addresses;
  const table = tableOf(lab);
  await settle(t, table, portRows(pod, { conditionsV4: ['!', '-s', outside4] }));
  t.is(await told(lab, 'outside', node4, SILENCE_MS), 'no answer no answer');
  await settle(t, table, portRows(pod, { conditionsV4: ['-s', outside4] }));
  t.is(await told(lab, 'outside', node4), `${outside4} ${outside4}`);
});

test('the firewall accepts what a policy of iptables would drop, and the administrator comes first', async (t) => {
  const lab = await openFilterLab(t);
  const pod = await lab.addPod(5);
  const table = tableOf(lab);
  const [outside4] = lab.lab.outside.addresses;
  const outside = lab.client('outside');
  await outside.serve('outside', 80);
  const run = (command: string) => lab.run(lab.node.namespace, command);
  const route = `/usr/sbin/ip route add 10.244.1.0/24 via ${lab.node.addresses[0]}`;
  lab.run(lab.lab.outside.namespace, route);
  const reached = async () => (await pod.workload.datagram(outside4, 80, 500)).ok;
  t.true(await reached());
  run('/usr/sbin/iptables -P FORWARD DROP');
  t.false(await reached());
  await settle(t, table, firewallRows(pod));
  t.true(await reached());
  t.false((await outside.datagram(pod.ips[0], 80, 500)).ok, 'nobody called it');
  run(`/usr/sbin/iptables -A CNI-ADMIN -d ${outside4} -j DROP`);
  t.false(await reached());
  await settle(t, table, []);
  await table.remove();
  t.regex(saved(lab, 4), /CNI-ADMIN/, 'the chain is the administrator’s');
});

test('what iptables refuses is told in its words, for the rows that it was about', async (t) => {
  const lab = await openFilterLab(t);
  const pod = await lab.addPod(5);
  const rows = portRows(pod, { externalSetMarkChain: 'NOT-THERE' });
  const wanted = new Map(rows.map((row) => [iptablesKey(row), row]));
  const { failures } = await reconcile([layer(tableOf(lab), wanted)]);
  t.is(failures.length, rows.length);
  t.regex(failures[0]?.error.message ?? '', /^iptables: .*(NOT-THERE|line)/);
  t.is((await tableOf(lab).read()).size, 0, 'all or nothing');
});
