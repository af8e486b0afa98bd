import test from 'ava';
import { ptpType } from '../../cni/types/ptp.ts';
import { connect, type InterfaceLab, type LabPod, listen, openInterfaceLab } from './cni-interface-lab.ts';

// pod a ── fl… (10.60.0.1, fd60::1) ─┐
//                                    node ── outside
// pod b ── fl… (10.60.0.1, fd60::1) ─┘

const config = {
  ipam: {
    type: 'host-local',
    ranges: [[{ subnet: '10.60.0.0/24' }], [{ subnet: 'fd60::/64' }]],
    routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }],
  },
};

function addPod(lab: InterfaceLab, host: number, more: object = {}): Promise<LabPod> {
  return lab.add({ ...config, ...more }, [
    [`10.60.0.${host}/24`, '10.60.0.1'],
    [`fd60::${host}/64`, 'fd60::1'],
  ]);
}

test('pods without a bridge reach each other, the node and the outside, and the other way round', async (t) => {
  const lab = openInterfaceLab(t, ptpType);
  const [a, b] = [await addPod(lab, 2), await addPod(lab, 3)];
  await Promise.all([a.space, b.space, lab.node, lab.outside].map((space) => listen(t, space)));
  t.is(connect(a.space, '10.60.0.3'), '10.60.0.2');
  t.is(connect(a.space, 'fd60::3'), 'fd60::2');
  t.is(connect(a.space, '10.60.0.1'), '10.60.0.2');
  t.is(connect(a.space, 'fd60::1'), 'fd60::2');
  t.is(connect(lab.node, '10.60.0.3'), '10.60.0.1');
  t.is(connect(lab.node, 'fd60::3'), 'fd60::1');
  t.is(connect(a.space, '192.0.2.9'), '10.60.0.2');
  t.is(connect(a.space, '2001:db8::9'), 'fd60::2');
  t.is(connect(lab.outside, '10.60.0.2'), '192.0.2.9');
  t.is(connect(lab.outside, 'fd60::2'), '2001:db8::9');
  t.is(connect(a.space, '10.60.0.2'), '10.60.0.2');
});

test('neither end asks for a MAC: all neighbours on the link are known for good', async (t) => {
  const lab = openInterfaceLab(t, ptpType);
  const { space, row } = await addPod(lab, 2);
  await listen(t, lab.node);
  t.is(connect(space, '10.60.0.1'), '10.60.0.2');
  const entries = (shown: ReturnType<typeof space.show>) =>
    shown
      .filter(({ dst }) => !String(dst).startsWith('fe80'))
      .map(({ dst, lladdr, state }) => `${dst} ${lladdr} ${state}`)
      .toSorted();
  t.deepEqual(entries(space.show('neigh show dev eth0')), [
    `10.60.0.1 ${row.pod?.hostMac} PERMANENT`,
    `fd60::1 ${row.pod?.hostMac} PERMANENT`,
  ]);
  t.deepEqual(entries(lab.node.show(`neigh show dev ${row.hostName}`)), [
    `10.60.0.2 ${row.pod?.mac} PERMANENT`,
    `fd60::2 ${row.pod?.mac} PERMANENT`,
  ]);
});

test('the routes are those of the reference plugin: the gateway on the link, the subnet by it', async (t) => {
  const lab = openInterfaceLab(t, ptpType);
  const { space, row } = await addPod(lab, 2);
  const routes = (shown: ReturnType<typeof space.show>) =>
    shown.map(({ dst, gateway, prefsrc, protocol }) => `${dst} ${gateway} ${prefsrc} ${protocol}`).toSorted();
  t.deepEqual(routes(space.show('route')), [
    '10.60.0.0/24 10.60.0.1 10.60.0.2 boot',
    '10.60.0.1 undefined 10.60.0.2 boot',
    'default 10.60.0.1 undefined boot',
  ]);
  const v6 = routes(space.show('-6 route')).filter((route) => !route.startsWith('fe80'));
  t.deepEqual(v6, [
    'default fd60::1 undefined boot',
    'fd60::/64 fd60::1 fd60::2 boot',
    'fd60::1 undefined fd60::2 boot',
  ]);
  t.deepEqual(routes(lab.node.show(`route show dev ${row.hostName}`)), ['10.60.0.2 undefined undefined 88']);
  const host = routes(lab.node.show(`-6 route show dev ${row.hostName}`));
  t.deepEqual(
    host.filter((route) => !route.startsWith('fe80')),
    ['fd60::2 undefined undefined 88'],
  );
});

test('both ends have the MTU, the container has the wanted MAC', async (t) => {
  const lab = openInterfaceLab(t, ptpType);
  const mac = '02:00:00:00:00:77';
  const { space, row } = await addPod(lab, 2, { mtu: 1400, runtimeConfig: { mac } });
  t.like(space.show('link show eth0')[0], { mtu: 1400, address: mac, operstate: 'UP' });
  t.like(lab.node.show(`link show ${row.hostName}`)[0], { mtu: 1400, address: '0e:58:0a:3c:00:02' });
  await listen(t, lab.node);
  t.is(connect(space, '10.60.0.1'), '10.60.0.2');
});

test('a node that does not forward IPv6 believes no pod that says it is a router', async (t) => {
  const lab = openInterfaceLab(t, ptpType);
  const ranges = [[{ subnet: '10.60.0.0/24' }]];
  const pod = await lab.add({ ipam: { type: 'host-local', ranges } }, [['10.60.0.2/24', '10.60.0.1']]);
  t.is(await lab.sysctl(`net/ipv6/conf/${pod.row.hostName}/accept_ra`), '0');
  t.is(await lab.sysctl('net/ipv6/conf/wire/accept_ra'), '1');
  await listen(t, lab.node);
  t.is(connect(pod.space, '10.60.0.1'), '10.60.0.2');
});

test('a pair of a routed pod is read back, is itself, and is gone after a removal with all its rows', async (t) => {
  const lab = openInterfaceLab(t, ptpType);
  const { row } = await addPod(lab, 2);
  const there = (await lab.table.read()).get(row.hostName);
  t.true(there !== undefined && lab.table.same(row, there));
  t.deepEqual(await lab.table.write([{ kind: 'delete', key: row.hostName, actual: row }]), []);
  const quiesced = (await lab.table.read()).get(row.hostName);
  t.true(quiesced === undefined || !lab.table.same(row, quiesced));
  t.deepEqual(lab.node.show('route show proto 88'), []);
  await lab.table.flush();
  t.deepEqual(await lab.table.read(), new Map());
});

test('an end on the host that somebody took down is brought back without touching the container', async (t) => {
  const lab = openInterfaceLab(t, ptpType);
  const { space, row, planned } = await addPod(lab, 2);
  await listen(t, lab.node);
  lab.node.ip(`link set ${row.hostName} down`);
  const there = (await lab.table.read()).get(row.hostName);
  if (there === undefined) return t.fail();
  t.true(there.isHostDown && !there.isQuiesced);
  t.deepEqual(await lab.table.write([{ kind: 'update', key: row.hostName, wanted: row, actual: there }]), []);
  await lab.route(planned);
  t.is(connect(space, '10.60.0.1'), '10.60.0.2');
  t.is(connect(space, 'fd60::1'), 'fd60::2');
});

test('three hundred pods: each is reached, and the last costs no more than three times the first', async (t) => {
  const lab = openInterfaceLab(t, ptpType);
  const times: number[] = [];
  const pods: LabPod[] = [];
  for (let index = 0; index < 300; index += 1) {
    const host = index + 2;
    const pod = await lab.add(
      { ...config, ipam: { ...config.ipam, ranges: [[{ subnet: '10.60.0.0/16' }]] } },
      [[`10.60.${host >> 8}.${host & 255}/16`, '10.60.0.1']],
    );
    pods.push(pod);
    times.push(pod.writeMs);
  }
  // The quickest: the others tell what else the machine did.
  const [first, last] = [Math.min(...times.slice(0, 50)), Math.min(...times.slice(-50))];
  t.log(`first ${first.toFixed(3)} ms, last ${last.toFixed(3)} ms`);
  t.true(last < first * 3, `${first} ${last}`);
  const end = pods.at(-1);
  if (end === undefined) return t.fail();
  await listen(t, end.space);
  const ip = String(end.planned.result.ips[0]?.address).split('/')[0] ?? '';
  t.is(connect(pods[0]?.space ?? lab.node, ip), '10.60.0.2');
});
