import test from 'ava';
import type { Ip, Mac } from '../../core/address.ts';
import { type LinkRow, LinkTable, linkKey, type VxlanParameters } from '../../kernel/link.ts';
import { make, openSpace, type Shown, settle } from './kernel-space.ts';

const bridge: LinkRow = {
  name: 'cni0',
  kind: 'bridge',
  alias: 'fairlead bridge',
  mac: '02:00:00:00:00:01' as Mac,
  mtuBytes: 1450,
  up: true,
};
const port: LinkRow = {
  name: 'port',
  kind: 'veth',
  alias: 'fairlead port',
  mac: '02:00:00:00:00:02' as Mac,
  mtuBytes: 1450,
  up: true,
  master: 'cni0',
  bridgePort: { hairpin: true },
};
const parameters: VxlanParameters = {
  vni: 1,
  port: 8472,
  local: '192.0.2.1' as Ip,
  device: 'cni0',
  learning: false,
};
const vxlan: LinkRow = {
  name: 'fl.1',
  kind: 'vxlan',
  alias: 'fairlead vxlan',
  mac: '02:00:00:00:00:03' as Mac,
  mtuBytes: 1400,
  up: true,
  vxlan: parameters,
};

function linkInfo(shown: Shown | undefined): {
  info_kind?: string;
  info_data?: Shown;
  info_slave_data?: Shown;
} {
  return (shown?.linkinfo ?? {}) as Shown;
}

test('bridge, port and vxlan are made as wanted, ports before their bridge in the list or not', async (t) => {
  const space = openSpace(t);
  const table = new LinkTable(space);
  t.is(await settle(t, table, linkKey, [vxlan, port, bridge]), 3);
  const [shownBridge, shownPort, shownVxlan] = ['cni0', 'port', 'fl.1'].map((name) => {
    return space.show(`link show dev ${name}`)[0];
  });
  t.like(shownBridge, { address: bridge.mac, mtu: 1450, ifalias: bridge.alias, group: 'default' });
  t.like(linkInfo(shownBridge), { info_kind: 'bridge', info_data: { mcast_snooping: 0 } });
  t.like(shownPort, { address: port.mac, mtu: 1450, master: 'cni0', num_tx_queues: 1, group: 'default' });
  t.like(linkInfo(shownPort).info_slave_data, { hairpin: true });
  t.like(shownVxlan, { address: vxlan.mac, mtu: 1400, ifalias: vxlan.alias, inet6_addr_gen_mode: 'none' });
  t.like(linkInfo(shownVxlan).info_data, {
    id: 1,
    port: 8472,
    local: '192.0.2.1',
    link: 'cni0',
    learning: false,
  });
  t.deepEqual(space.show('-6 address show dev fl.1'), []);
  for (const shown of [shownBridge, shownPort, shownVxlan]) t.regex(`${shown?.flags}`, /\bUP\b/);
});

test('a vxlan can run over IPv6', async (t) => {
  const space = openSpace(t);
  const over6 = { ...vxlan, mtuBytes: 1380, vxlan: { ...parameters, local: 'fd00::1' as Ip } };
  await settle(t, new LinkTable(space), linkKey, [bridge, over6]);
  t.is(linkInfo(space.show('link show dev fl.1')[0]).info_data?.local6, 'fd00::1');
});

const changes: readonly (readonly [what: string, before: LinkRow, after: LinkRow])[] = [
  ['the MAC address', port, { ...port, mac: '02:00:00:00:00:99' as Mac }],
  ['the MTU', port, { ...port, mtuBytes: 1300 }],
  ['up', port, { ...port, up: false }],
  ['the alias', port, { ...port, alias: 'fairlead other' }],
  ['the bridge', port, { ...port, master: undefined, bridgePort: undefined }],
  ['hairpin', port, { ...port, bridgePort: { hairpin: false } }],
  ['hairpin by silence', port, { ...port, bridgePort: undefined }],
];

for (const [what, before, after] of changes) {
  test(`${what} of a link is changed in place, there and back`, async (t) => {
    const space = openSpace(t);
    const table = new LinkTable(space);
    await settle(t, table, linkKey, [bridge, before]);
    const index = space.show('link show dev port')[0]?.ifindex;
    t.is(await settle(t, table, linkKey, [bridge, after]), 1);
    t.is(await settle(t, table, linkKey, [bridge, before]), 1);
    t.is(space.show('link show dev port')[0]?.ifindex, index);
  });
}

test('a vxlan with other parameters is made anew, and others stay', async (t) => {
  const space = openSpace(t);
  const table = new LinkTable(space);
  const second: LinkRow = { ...vxlan, name: 'fl.2', mac: undefined, vxlan: { ...parameters, vni: 2 } };
  await settle(t, table, linkKey, [bridge, vxlan, second]);
  const [kept] = space.show('link show dev fl.2');
  for (const change of [{ port: 4789 }, { vni: 7 }, { learning: true }, { local: '192.0.2.9' as Ip }]) {
    const other = { ...vxlan, vxlan: { ...parameters, ...change } };
    t.is(await settle(t, table, linkKey, [bridge, other, second]), 1);
  }
  t.is(space.show('link show dev fl.2')[0]?.ifindex, kept?.ifindex);
});

test('a link of another kind under a wanted name is made anew when it is ours', async (t) => {
  const space = openSpace(t);
  const table = new LinkTable(space);
  await settle(t, table, linkKey, [{ ...port, name: 'x', master: undefined, bridgePort: undefined }]);
  await settle(t, table, linkKey, [{ ...bridge, name: 'x' }]);
});

test('links of others are neither read nor changed nor marked nor removed', async (t) => {
  const space = openSpace(t);
  space.ip(`
    link add cni0 address 02:00:00:00:00:77 group 5 type bridge
    link add foreign type veth peer name foreign-peer
    link set foreign alias "flannel and fairlead"`);
  const before = space.show('link show');
  const table = new LinkTable(space);
  t.deepEqual(await make(table, linkKey, [bridge]), { writes: 1, failures: ['create cni0: EEXIST'] });
  t.is((await table.read()).size, 0);
  await table.write([{ kind: 'delete', key: 'cni0', actual: bridge }]);
  t.deepEqual(space.show('link show'), before);
});

test('a removed link takes nothing else along, and many are removed at once', async (t) => {
  const space = openSpace(t);
  const table = new LinkTable(space);
  const ports = Array.from(
    { length: 60 },
    (_, index): LinkRow => ({ ...port, name: `p${index}`, mac: undefined }),
  );
  await settle(t, table, linkKey, [bridge, ...ports]);
  space.ip('link add foreign type veth peer name foreign-peer');
  t.is(await settle(t, table, linkKey, [bridge, ...ports.slice(0, 1)]), 59);
  await settle(t, table, linkKey, []);
  t.deepEqual(
    space
      .show('link show')
      .map(({ ifname }) => ifname)
      .toSorted(),
    ['foreign', 'foreign-peer', 'lo'],
  );
});

test('removing what is gone is no failure', async (t) => {
  const table = new LinkTable(openSpace(t));
  t.deepEqual(await table.write([{ kind: 'delete', key: 'cni0', actual: bridge }]), []);
});

test('making what is there exactly as wanted is no failure', async (t) => {
  const table = new LinkTable(openSpace(t));
  await settle(t, table, linkKey, [bridge]);
  t.deepEqual(await table.write([{ kind: 'create', key: 'cni0', wanted: bridge }]), []);
});

test('a bridge keeps its MAC address and its MTU whatever its ports have', async (t) => {
  const space = openSpace(t);
  const table = new LinkTable(space);
  await settle(t, table, linkKey, [bridge]);
  space.ip(`
    link add low mtu 1280 address 02:00:00:00:00:00 type veth peer name low-peer
    link set low master cni0 up`);
  t.like(space.show('link show dev cni0')[0], { address: bridge.mac, mtu: 1450 });
});

test('a changed MAC or MTU leaves the flags of the link as they are', async (t) => {
  const space = openSpace(t);
  const table = new LinkTable(space);
  await settle(t, table, linkKey, [bridge]);
  const flags = () => space.show('link show dev cni0')[0]?.flags;
  const before = flags();
  await settle(t, table, linkKey, [{ ...bridge, mac: '02:00:00:00:00:07' as Mac, mtuBytes: 1400 }]);
  t.deepEqual(flags(), before);
});

test('what the row leaves open is left to the kernel', async (t) => {
  const table = new LinkTable(openSpace(t));
  const open: LinkRow = { name: 'v', kind: 'veth', alias: 'fairlead', up: false };
  await settle(t, table, linkKey, [open]);
  const actual = (await table.read()).get('v');
  t.regex(actual?.mac ?? '', /^[0-9a-f:]{17}$/);
  t.is(actual?.mtuBytes, 1500);
});

test('a row that the kernel refuses leaves no link behind, and the others are made', async (t) => {
  const space = openSpace(t);
  const table = new LinkTable(space);
  const { failures } = await make(table, linkKey, [
    { ...bridge, name: 'longalias', alias: `fairlead ${'x'.repeat(300)}` },
    { ...bridge, name: 'a-name-of-16-byte' },
    { ...bridge, name: 'noalias', alias: 'mine' },
    { ...port, name: 'nomaster', master: 'nowhere' },
    { ...vxlan, name: 'nodevice', vxlan: { ...parameters, device: 'nowhere' } },
    bridge,
  ]);
  t.deepEqual(failures.toSorted(), [
    'create a-name-of-16-byte: ERANGE',
    'create longalias: ERANGE',
    'create noalias: EINVAL',
    'create nodevice: ENODEV',
    'create nomaster: ENODEV',
  ]);
  t.deepEqual(
    space
      .show('link show')
      .map(({ ifname }) => ifname)
      .toSorted(),
    ['cni0', 'lo'],
  );
});

test('a failure names the link and has the words of the kernel', async (t) => {
  const table = new LinkTable(openSpace(t));
  const [failure] = await table.write([
    { kind: 'create', key: 'x', wanted: { ...bridge, name: 'x', kind: 'nothing' as 'dummy' } },
  ]);
  t.is(failure?.error.message, 'RTM_NEWLINK x: EOPNOTSUPP: Unknown device type');
});

test('a vxlan is made also where there is no IPv6', async (t) => {
  const table = new LinkTable(openSpace(t));
  // The kernel takes IPv6 off links whose MTU is below 1280.
  const small = { ...vxlan, mtuBytes: 900 };
  await settle(t, table, linkKey, [{ ...bridge, mtuBytes: 1000 }, small]);
});

test('an MTU too large for a vxlan is refused, not cut silently', async (t) => {
  const table = new LinkTable(openSpace(t));
  const { failures } = await make(table, linkKey, [bridge, { ...vxlan, mtuBytes: 1450 }]);
  t.deepEqual(failures, ['create fl.1: EINVAL']);
  t.deepEqual([...(await table.read()).keys()], ['cni0']);
});
