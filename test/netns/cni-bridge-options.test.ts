import test from 'ava';
import { bridgeType } from '../../cni/types/bridge.ts';
import { checkInterface } from '../../cni/types/check.ts';
import { readAttachment } from '../../kernel/attachment-check.ts';
import { connect, type InterfaceLab, type LabPod, listen, openInterfaceLab } from './cni-interface-lab.ts';

// pod a ── fl… ─┐
//               cni0 10.61.0.1, fd61::1 ── node
// pod b ── fl… ─┘

const ipam = { type: 'host-local', ranges: [[{ subnet: '10.61.0.0/24' }], [{ subnet: 'fd61::/64' }]] };

function openBridge(t: Parameters<typeof openInterfaceLab>[0]): InterfaceLab {
  const lab = openInterfaceLab(t, bridgeType);
  lab.node.ip(`
    link add cni0 address 0a:58:0a:3d:00:01 type bridge
    address add 10.61.0.1/24 dev cni0
    address add fd61::1/64 dev cni0 nodad
    link set cni0 up`);
  return lab;
}

function addPod(lab: InterfaceLab, host: number, more: object = {}, args = ''): Promise<LabPod> {
  const ips = [
    [`10.61.0.${host}/24`, '10.61.0.1'],
    [`fd61::${host}/64`, 'fd61::1'],
  ] as const;
  return lab.add({ ipam, isDefaultGateway: true, ...more }, ips, args);
}

function portFlags({ node }: InterfaceLab, { row }: LabPod): unknown {
  const [link] = node.show(`link show ${row.hostName}`);
  const info = (link?.linkinfo ?? {}) as { info_slave_data?: Record<string, unknown> };
  const { hairpin, isolated } = info.info_slave_data ?? {};
  return { master: link?.master, hairpin, isolated };
}

test('isolated pods reach the node and not each other; a pod that is not isolated reaches them', async (t) => {
  const lab = openBridge(t);
  const [a, b] = [
    await addPod(lab, 2, { portIsolation: true }),
    await addPod(lab, 3, { portIsolation: true }),
  ];
  const c = await addPod(lab, 4);
  await Promise.all([b, c].map(({ space }) => listen(t, space)));
  await listen(t, lab.node);
  t.deepEqual(portFlags(lab, a), { master: 'cni0', hairpin: false, isolated: true });
  t.deepEqual(portFlags(lab, c), { master: 'cni0', hairpin: false, isolated: false });
  t.not(connect(a.space, '10.61.0.3'), '10.61.0.2');
  t.not(connect(a.space, 'fd61::3'), 'fd61::2');
  t.is(connect(a.space, '10.61.0.4'), '10.61.0.2');
  t.is(connect(c.space, '10.61.0.3'), '10.61.0.4');
  t.is(connect(a.space, '10.61.0.1'), '10.61.0.2');
});

test('hairpin is a flag of the port, with and without isolation', async (t) => {
  const lab = openBridge(t);
  const a = await addPod(lab, 2, { hairpinMode: true });
  t.deepEqual(portFlags(lab, a), { master: 'cni0', hairpin: true, isolated: false });
  const b = await addPod(lab, 3, { hairpinMode: true, portIsolation: true });
  t.deepEqual(portFlags(lab, b), { master: 'cni0', hairpin: true, isolated: true });
});

test('flags that somebody changed are brought back, the pod keeps its interface', async (t) => {
  const lab = openBridge(t);
  const a = await addPod(lab, 2, { hairpinMode: true });
  lab.node.ip(
    `link set ${a.row.hostName} type bridge_slave hairpin off\nlink set ${a.row.hostName} nomaster`,
  );
  const there = (await lab.table.read()).get(a.row.hostName);
  if (there === undefined) return t.fail();
  t.false(lab.table.same(a.row, there));
  const change = { kind: 'update', key: a.row.hostName, wanted: a.row, actual: there } as const;
  t.deepEqual(await lab.table.write([change]), []);
  t.deepEqual(portFlags(lab, a), { master: 'cni0', hairpin: true, isolated: false });
  await listen(t, lab.node);
  t.is(connect(a.space, '10.61.0.1'), '10.61.0.2');
});

test('the MAC is that of runtimeConfig, else of args.cni, else of CNI_ARGS, and packets carry it', async (t) => {
  const lab = openBridge(t);
  const [one, two, three] = ['02:00:00:00:00:01', '02:00:00:00:00:02', '02:00:00:00:00:03'] as const;
  const args = { cni: { mac: two } };
  const pods = [
    await addPod(lab, 2, { args, runtimeConfig: { mac: one } }, `MAC=${three}`),
    await addPod(lab, 3, { args }, `MAC=${three}`),
    await addPod(lab, 4, {}, `MAC=${three}`),
  ];
  await listen(t, lab.node);
  for (const [index, { space }] of pods.entries()) {
    t.is(connect(space, '10.61.0.1'), `10.61.0.${index + 2}`);
    t.is(space.show('link show eth0')[0]?.address, [one, two, three][index]);
  }
  const seen = lab.node.show('neigh show dev cni0').map(({ dst, lladdr }) => `${dst} ${lladdr}`);
  t.true(seen.includes(`10.61.0.2 ${one}`));
});

test('both ends have the MTU', async (t) => {
  const lab = openBridge(t);
  const a = await addPod(lab, 2, { mtu: 1380 });
  t.is(a.space.show('link show eth0')[0]?.mtu, 1380);
  t.is(lab.node.show(`link show ${a.row.hostName}`)[0]?.mtu, 1380);
});

test('an interface of layer 2 only is up without addresses; one that is to stay down is down', async (t) => {
  const lab = openBridge(t);
  const [a, b] = [await lab.add({}, []), await lab.add({}, [])];
  t.like(a.space.show('link show eth0')[0], { operstate: 'UP' });
  t.is(a.space.show('-4 address show dev eth0').length, 0);
  t.not(a.row.pod?.mac, b.row.pod?.mac);
  const down = await lab.add({ disableContainerInterface: true }, []);
  t.like(down.space.show('link show eth0')[0], { operstate: 'DOWN' });
  t.false(JSON.stringify(down.space.show('link show eth0')[0]?.flags).includes('"UP"'));
});

test('with enabledad an address is waited for, and one that somebody has is refused', async (t) => {
  const lab = openBridge(t);
  const a = await addPod(lab, 2, { enabledad: true });
  const flags = a.space.show('-6 address show dev eth0 scope global').map((link) => link.addr_info);
  t.false(JSON.stringify(flags).includes('tentative'));
  const error = await t.throwsAsync(lab.add({ ipam, enabledad: true }, [['fd61::2/64', 'fd61::1']]));
  t.regex(error?.message ?? '', /EADDRINUSE: somebody else on the link has fd61::2/);
  t.is((await lab.table.read()).size, 1);
});

test('without enabledad an address works at once', async (t) => {
  const lab = openBridge(t);
  const a = await addPod(lab, 2);
  await listen(t, lab.node);
  t.is(connect(a.space, 'fd61::1'), 'fd61::2');
});

test('CHECK finds what is missing: address, route, MAC, other end, port, promiscuous mode', async (t) => {
  const lab = openBridge(t);
  const a = await addPod(lab, 2, { hairpinMode: false });
  const check = async (more: object = {}) => {
    const place = { bridge: 'cni0', hostName: a.row.hostName, ifname: 'eth0', namespaceFd: a.space.fd };
    const state = await readAttachment(lab.node.socket, place);
    const previous = a.planned.result;
    const { ifname, hostName, bridge } = { ...place, bridge: { bridge: 'cni0' } };
    const expected = { sandbox: a.space.path, ifname, hostName, bridge, previous, ...more };
    return checkInterface(expected, state)?.message;
  };
  t.is(await check(), undefined);
  t.is(await check({ previous: undefined }), 'Required prevResult missing');
  t.regex(
    (await check({ sandbox: '/elsewhere' })) ?? '',
    /sandbox .* of eth0 in prevResult is not \/elsewhere/,
  );
  t.is(
    await check({ bridge: { bridge: 'cni0', promiscuous: true } }),
    'bridge cni0: promiscuous mode is false, configured is true',
  );
  lab.node.ip('link set cni0 promisc on');
  t.is(await check({ bridge: { bridge: 'cni0', promiscuous: true } }), undefined);
  lab.node.ip('link set cni0 promisc off');
  a.space.ip('route del default');
  t.is(await check(), 'route to 0.0.0.0/0 by 10.61.0.1 not found');
  a.space.ip('address del 10.61.0.2/24 dev eth0');
  t.is(await check(), 'address 10.61.0.2/24 not found on interface eth0');
  lab.node.ip(`link set ${a.row.hostName} nomaster`);
  t.is(await check(), `interface ${a.row.hostName} is no port of bridge cni0`);
  a.space.ip('link set eth0 address 02:00:00:00:00:05');
  t.is(await check(), 'MAC address of eth0 is 02:00:00:00:00:05, not 0a:58:0a:3d:00:02');
  lab.node.ip(`link del ${a.row.hostName}`);
  t.is(await check(), `interface eth0 not found in ${a.space.path}`);
  lab.node.ip('link del cni0');
  t.is(await check(), 'bridge cni0 not found');
});
