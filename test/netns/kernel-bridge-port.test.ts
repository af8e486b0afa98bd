import { spawnSync } from 'node:child_process';
import test, { type ExecutionContext } from 'ava';
import { type BridgePortRow, BridgePortTable, bridgePortKey } from '../../kernel/bridge-port.ts';
import { make, openSpace, type Shown, type Space, settle } from './kernel-space.ts';

function openPorts(t: ExecutionContext): { node: Space; pods: readonly Space[] } {
  const node = openSpace(t);
  node.ip('link add br0 address 02:00:00:00:00:01 type bridge\nlink set br0 up');
  node.ip('link add foreign type veth peer name foreign-peer\nlink set foreign master br0 up');
  const pods = [1, 2].map((number) => {
    const pod = openSpace(t);
    node.ip(`
      link add p${number} type veth peer name e0 netns ${pod.name}
      link set p${number} master br0 alias "fairlead pod" up`);
    pod.ip(`address add 192.0.2.${number}/24 dev e0\nlink set e0 up`);
    return pod;
  });
  return { node, pods };
}

function flagsOf({ show }: Space, port: string): { hairpin: unknown; isolated: unknown } {
  const [link] = show(`link show dev ${port}`) as { linkinfo?: { info_slave_data?: Shown } }[];
  const { hairpin, isolated } = link?.linkinfo?.info_slave_data ?? {};
  return { hairpin, isolated };
}

/** Nobody listens there: whoever refuses has got the packet and could answer. */
const knock = `
  // Whoever was held up itself takes what has come meanwhile before it gives up.
  setTimeout(() => setImmediate(() => setImmediate(() => process.exit(1))), 2500);
  require('node:net').connect(9, process.argv[1])
    .on('error', ({ code }) => process.exit(code === 'ECONNREFUSED' ? 0 : 1));`;

function reaches({ path }: Space, address: string): boolean {
  const args = [`--net=${path}`, process.execPath, '-e', knock, address];
  return spawnSync('/usr/bin/nsenter', args, { stdio: 'ignore' }).status === 0;
}

test('isolated ports do not reach each other, and do again when the rows are gone', async (t) => {
  const { node, pods } = openPorts(t);
  const [one] = pods as [Space, Space];
  const table = new BridgePortTable(node);
  const rows = ['p1', 'p2'].map((port): BridgePortRow => ({ port }));
  t.true(reaches(one, '192.0.2.2'));
  t.is(await settle(t, table, bridgePortKey, rows), 2);
  t.deepEqual(flagsOf(node, 'p1'), { hairpin: false, isolated: true });
  t.false(reaches(one, '192.0.2.2'));
  t.is(await settle(t, table, bridgePortKey, []), 2);
  t.deepEqual(flagsOf(node, 'p1'), { hairpin: false, isolated: false });
  t.true(reaches(one, '192.0.2.2'));
});

test('hairpin is not touched, and makes no row', async (t) => {
  const { node } = openPorts(t);
  const table = new BridgePortTable(node);
  node.ip('link set p1 type bridge_slave hairpin on');
  t.is((await table.read()).size, 0);
  t.is(await settle(t, table, bridgePortKey, [{ port: 'p1' }]), 1);
  t.is(await settle(t, table, bridgePortKey, []), 1);
  t.deepEqual(flagsOf(node, 'p1'), { hairpin: true, isolated: false });
});

test("somebody else's ports are left alone, and ports that are gone are no failure of a removal", async (t) => {
  const { node } = openPorts(t);
  const table = new BridgePortTable(node);
  node.ip('link set foreign type bridge_slave isolated on');
  t.is((await table.read()).size, 0);
  const wanted = { port: 'foreign' };
  t.deepEqual((await make(table, bridgePortKey, [wanted])).failures, ['create foreign: EPERM']);
  node.ip('link set p2 nomaster');
  for (const port of ['gone', 'foreign', 'p2']) {
    t.deepEqual(await table.write([{ kind: 'delete', key: port, actual: { port } }]), []);
  }
  t.deepEqual(flagsOf(node, 'foreign'), { hairpin: false, isolated: true });
});
