import { spawnSync } from 'node:child_process';
import test, { type ExecutionContext } from 'ava';
import {
  type BridgeVlan,
  type BridgeVlanRow,
  BridgeVlanTable,
  bridgeVlanKey,
} from '../../kernel/bridge-vlan.ts';
import { make, openSpace, type Shown, type Space, settle } from './kernel-space.ts';
import { factOf, missingBridgeVlans } from './missing.ts';

//   node namespace                          pod namespaces
//   ┌───────────────────────────────┐      ┌──────┐
//   │ br0 (vlan_filtering) ── p0 ───┼──────┼─ e0  │   VLAN 10 untagged
//   │                      ── p1 ───┼──────┼─ e1  │   VLAN 10 or 20 untagged, or a trunk
//   └───────────────────────────────┘      └──────┘

interface Ports {
  readonly node: Space;
  readonly pods: readonly Space[];
}

const missing = missingBridgeVlans();
const fact = factOf(missing, test);

/** Two ports of ours, and one that is not. */
function openPorts(t: ExecutionContext): Ports {
  const node = openSpace(t);
  node.ip('link add br0 address 02:00:00:00:00:01 type bridge mcast_snooping 0\nlink set br0 up');
  const pods = [openSpace(t), openSpace(t)];
  pods.forEach((pod, index) => {
    node.ip(`
      link add p${index} type veth peer name e0 netns ${pod.name}
      link set p${index} master br0 alias "fairlead pod ${index}" up`);
    pod.ip(`address add 192.0.2.${index + 1}/24 dev e0\nlink set e0 up`);
  });
  node.ip('link add foreign master br0 up type veth peer name foreign-peer');
  return { node, pods };
}

/** As `bridge vlan show` tells it: "10 PVID Egress Untagged". */
function vlansOf({ show }: Space, port: string): string[] {
  const [shown] = show(`vlan show dev ${port}`, 'bridge') as { vlans?: Shown[] }[];
  return (shown?.vlans ?? []).map(({ vlan, vlanEnd, flags = [] }) => {
    const id = vlanEnd === undefined ? `${vlan}` : `${vlan}-${vlanEnd}`;
    return [id, ...(flags as string[])].join(' ');
  });
}

const REACH_MS = 2500;
/** Nobody listens there: whoever refuses has got the packet and could answer. */
const knock = `
  // Whoever was held up itself takes what has come meanwhile before it gives up.
  setTimeout(() => setImmediate(() => setImmediate(() => process.exit(1))), ${REACH_MS});
  require('node:net').connect(9, process.argv[1])
    .on('error', ({ code }) => process.exit(code === 'ECONNREFUSED' ? 0 : 1));`;

function reaches({ path }: Space, address: string): boolean {
  const args = [`--net=${path}`, process.execPath, '-e', knock, address];
  return spawnSync('/usr/bin/nsenter', args, { stdio: 'ignore' }).status === 0;
}

const access = (id: number): BridgeVlan => ({ id, pvid: true, untagged: true });
const row = (port: string, ...vlans: BridgeVlan[]): BridgeVlanRow => ({ port, vlans });

fact('ports of one VLAN reach each other, of different ones not, and a trunk by its tag', async (t) => {
  const ports = openPorts(t);
  const [one, two] = ports.pods as [Space, Space];
  const table = new BridgeVlanTable(ports.node);
  t.is(await settle(t, table, bridgeVlanKey, [row('p0', access(10)), row('p1', access(20))]), 2);
  t.deepEqual(vlansOf(ports.node, 'p0'), ['10 PVID Egress Untagged']);
  const [bridge] = ports.node.show('link show dev br0') as { linkinfo?: Shown }[];
  t.like(bridge?.linkinfo?.info_data, { vlan_filtering: 1 });
  t.false(reaches(one, '192.0.2.2'));
  await settle(t, table, bridgeVlanKey, [row('p0', access(10)), row('p1', access(10))]);
  t.true(reaches(one, '192.0.2.2'));
  await settle(t, table, bridgeVlanKey, [row('p0', access(10)), row('p1', { id: 5, lastId: 15 })]);
  t.false(reaches(one, '192.0.2.2'));
  two.ip('address del 192.0.2.2/24 dev e0\nlink add link e0 name e0.10 up type vlan id 10');
  two.ip('address add 192.0.2.2/24 dev e0.10');
  t.true(reaches(one, '192.0.2.2'));
});

fact('VLANs are what the row says, and the default one when it is gone', async (t) => {
  const ports = openPorts(t);
  const table = new BridgeVlanTable(ports.node);
  const rows: readonly (readonly [BridgeVlanRow, readonly string[]])[] = [
    [row('p0', access(10), { id: 20, lastId: 30 }), ['10 PVID Egress Untagged', '20-30']],
    [row('p0', { id: 1, lastId: 4094 }), ['1-4094']],
    [
      row('p0', { id: 7, untagged: true }, { id: 8 }, access(9)),
      ['7 Egress Untagged', '8', '9 PVID Egress Untagged'],
    ],
    [row('p0', access(8), { id: 9 }), ['8 PVID Egress Untagged', '9']],
    [row('p0'), []],
    [{ ...row('p0', access(10)), keepsOthers: true }, ['10 PVID Egress Untagged']],
  ];
  for (const [wanted, shown] of rows) {
    await settle(t, table, bridgeVlanKey, [wanted]);
    t.deepEqual(vlansOf(ports.node, 'p0'), shown);
  }
  await settle(t, table, bridgeVlanKey, []);
  t.deepEqual(vlansOf(ports.node, 'p0'), ['1 PVID Egress Untagged']);
});

fact('the VLAN of every new port is kept where the row says so', async (t) => {
  const ports = openPorts(t);
  const table = new BridgeVlanTable(ports.node);
  await settle(t, table, bridgeVlanKey, [{ ...row('p0', access(10)), keepsOthers: true }]);
  t.deepEqual(vlansOf(ports.node, 'p0'), ['1 Egress Untagged', '10 PVID Egress Untagged']);
});

fact('a bridge without a default VLAN gives none back', async (t) => {
  const ports = openPorts(t);
  ports.node.ip('link set br0 type bridge vlan_default_pvid 0');
  const table = new BridgeVlanTable(ports.node);
  await settle(t, table, bridgeVlanKey, [row('p0', access(10))]);
  await settle(t, table, bridgeVlanKey, []);
  t.deepEqual(vlansOf(ports.node, 'p0'), []);
});

fact('filtering and VLANs that somebody took away come back', async (t) => {
  const ports = openPorts(t);
  const table = new BridgeVlanTable(ports.node);
  await settle(t, table, bridgeVlanKey, [row('p0', access(10))]);
  ports.node.ip('link set br0 type bridge vlan_filtering 0');
  t.is(await settle(t, table, bridgeVlanKey, [row('p0', access(10))]), 1);
});

fact("somebody else's ports and ports that are not there are left alone", async (t) => {
  const ports = openPorts(t);
  const table = new BridgeVlanTable(ports.node);
  const before = vlansOf(ports.node, 'foreign');
  const { failures } = await make(table, bridgeVlanKey, [
    row('foreign', access(10)),
    row('gone', access(10)),
  ]);
  t.deepEqual(failures, ['create foreign: EPERM', 'create gone: ENODEV']);
  const removals = ['foreign', 'gone'].map((key) => ({ kind: 'delete', key, actual: row(key) }) as const);
  t.deepEqual(await table.write(removals), []);
  t.deepEqual(vlansOf(ports.node, 'foreign'), before);
});

fact('VLANs that cannot be are refused before anything is done', async (t) => {
  const ports = openPorts(t);
  const table = new BridgeVlanTable(ports.node);
  for (const vlan of [{ id: 0 }, { id: 4095 }, { id: 7, lastId: 6 }, { id: 7, lastId: 8, pvid: true }]) {
    t.deepEqual((await make(table, bridgeVlanKey, [row('p0', vlan)])).failures, ['create p0: EINVAL']);
  }
  t.deepEqual(vlansOf(ports.node, 'p0'), ['1 PVID Egress Untagged']);
});

const lackFact = factOf(
  missing === undefined ? 'this kernel has CONFIG_BRIDGE_VLAN_FILTERING' : undefined,
  test,
);
lackFact('a kernel that cannot filter VLANs says so', async (t) => {
  const node = openSpace(t);
  node.ip(
    'link add br0 type bridge\nlink add p0 master br0 type veth peer name e0\nlink set p0 alias "fairlead x"',
  );
  const table = new BridgeVlanTable(node);
  t.is((await table.read()).size, 0);
  const [failure] = await table.write([{ kind: 'create', key: 'p0', wanted: row('p0', access(10)) }]);
  t.regex(failure?.error.message ?? '', /EOPNOTSUPP: this kernel has no CONFIG_BRIDGE_VLAN_FILTERING/);
});
