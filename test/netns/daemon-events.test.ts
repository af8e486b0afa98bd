import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { until } from '../daemon/etcd-server.ts';
import { type Agent, Nodes } from './daemon-nodes.ts';

// One agent; the other nodes are entries in etcd, written by flannel's hand.

const prefix = '/coreos.com/network/subnets/';
const config = (backend: object) => JSON.stringify({ Network: '10.244.0.0/16', Backend: backend });
const vxlan = (vni = 1) => config({ Type: 'vxlan', VNI: vni });

interface TestPeer {
  readonly subnet: string;
  readonly publicIp: string;
  readonly mac?: string;
  readonly type?: string;
}

function put(nodes: Nodes, { subnet, publicIp, mac, type = 'vxlan' }: TestPeer): void {
  const value = {
    PublicIP: publicIp,
    PublicIPv6: null,
    BackendType: type,
    ...(mac === undefined ? {} : { BackendData: { VNI: 1, VtepMAC: mac } }),
  };
  nodes.etcd.ctl('put', prefix + subnet, JSON.stringify(value));
}

async function setUp(t: ExecutionContext, peers: readonly TestPeer[]) {
  const nodes = await Nodes.open(t, 1);
  for (const peer of peers) put(nodes, peer);
  const configFile = `${nodes.lab.directory}/net-conf.json`;
  writeFileSync(configFile, vxlan());
  const agent = nodes.start(0, vxlan(), { configFile });
  await agent.ready();
  return { nodes, agent, configFile };
}

/** Rows about peers, one a line. */
function rows(agent: Agent): string[] {
  const lines = [
    ...agent.run('ip', 'route', 'show', 'proto', '88').split('\n'),
    ...agent.run('ip', 'neigh', 'show', 'nud', 'permanent').split('\n'),
    ...agent
      .run('bridge', 'fdb', 'show')
      .split('\n')
      .filter((line) => line.includes('dst')),
  ];
  return lines
    .map((line) => line.replace(' proto 88', '').trim())
    .filter((line) => line !== '')
    .sort();
}

const rowsOf = (subnet: string, publicIp: string, mac: string, device = 'fl.1') => [
  `${subnet}/24 via ${subnet} dev ${device} onlink`,
  `${subnet} dev ${device} lladdr ${mac} PERMANENT`,
  `${mac} dev ${device} dst ${publicIp} self permanent`,
];
const second = { subnet: '10.244.200.0-24', publicIp: '172.30.0.200', mac: '02:00:00:00:02:00' };
const third = { subnet: '10.244.201.0-24', publicIp: '172.30.0.201', mac: '02:00:00:00:02:01' };
const secondRows = rowsOf('10.244.200.0', '172.30.0.200', '02:00:00:00:02:00');
const thirdRows = rowsOf('10.244.201.0', '172.30.0.201', '02:00:00:00:02:01');
const all = (...groups: string[][]) => groups.flat().sort();

test.serial('a peer that changes its MAC, its address or its subnet leaves nothing of before', async (t) => {
  const { nodes, agent } = await setUp(t, [second, third]);
  t.deepEqual(rows(agent), all(secondRows, thirdRows));
  const { writes } = await agent.status();
  const becomes = (what: string, ...groups: string[][]) =>
    until(what, () => JSON.stringify(rows(agent)) === JSON.stringify(all(...groups)));

  put(nodes, { ...second, mac: '02:00:00:00:02:aa' });
  await becomes('the new MAC', rowsOf('10.244.200.0', '172.30.0.200', '02:00:00:00:02:aa'), thirdRows);
  put(nodes, { ...second, publicIp: '172.30.0.222' });
  await becomes('the new address', rowsOf('10.244.200.0', '172.30.0.222', '02:00:00:00:02:00'), thirdRows);
  nodes.etcd.ctl('del', prefix + second.subnet);
  put(nodes, { ...second, subnet: '10.244.210.0-24' });
  await becomes('the new subnet', rowsOf('10.244.210.0', '172.30.0.200', '02:00:00:00:02:00'), thirdRows);
  nodes.etcd.ctl('del', `${prefix}10.244.210.0-24`);
  await becomes('the end', thirdRows);
  t.true((await agent.status()).writes - writes <= 24, 'rows of others are not touched');
});

test.serial(
  'a node that joins or leaves is its own rows, written without a look at all others',
  async (t) => {
    const peers = Array.from({ length: 60 }, (_, n) => ({
      ...{ subnet: `10.244.${100 + n}.0-24`, publicIp: `172.30.1.${n}` },
      mac: `02:00:00:00:03:${n.toString(16).padStart(2, '0')}`,
    }));
    const { nodes, agent } = await setUp(t, peers);
    await agent.until('all of them', (status) => status.peers === 60);
    await sleep(1_000); // what the first pass itself made the kernel say
    const quiet = await agent.status();
    await put(nodes, second);
    const joined = await agent.until('one more', (status) => status.peers === 61);
    t.is(joined.writes - quiet.writes, 4, 'neighbour, forwarding entry, route and sender');
    await sleep(1_000);
    const after = await agent.status();
    t.deepEqual(
      [after.writes, after.passes],
      [joined.writes, joined.passes],
      'what it wrote is no news to it',
    );
    t.is(joined.passes - quiet.passes, 1);
    await nodes.etcd.ctl('del', prefix + second.subnet);
    const left = await agent.until('one less', (status) => status.peers === 60);
    t.is(left.writes - joined.writes, 4);
    t.false(agent.kernel().includes('10.244.200.'));
  },
);

test.serial('a node that joins does not wait for a look at what somebody did to nftables', async (t) => {
  const { nodes, agent } = await setUp(t, [third]);
  await sleep(1_000);
  const quiet = await agent.status();
  const rounds = 5;
  for (let n = 0; n < rounds; n += 1) {
    agent.run('/usr/sbin/nft', 'add', 'table', 'ip', `other${n}`);
    put(nodes, { ...second, mac: `02:00:00:00:04:0${n}` });
    await until('the new MAC', () => rows(agent).some((row) => row.includes(`02:00:00:00:04:0${n}`)));
    await sleep(600); // it looks at nftables twice a second
  }
  // One pass for the lease's own rows and one over nftables; together they would be one over everything.
  const { passes, problems } = await agent.status();
  t.true(passes - quiet.passes >= rounds + 3, `${passes - quiet.passes} passes`);
  t.deepEqual(problems, []);
  agent.run('/usr/sbin/nft', 'delete', 'table', 'inet', 'fairlead');
  put(nodes, { ...second, mac: '02:00:00:00:04:aa' });
  await until('the new MAC', () => rows(agent).some((row) => row.includes('02:00:00:00:04:aa')));
  await until('our table', () => /172\.30\.0\.200/.test(agent.run('/usr/sbin/nft', 'list', 'ruleset')));
});

test.serial('another backend in the configuration: old rows go and new ones come in one pass', async (t) => {
  const direct = { subnet: '10.244.202.0-24', publicIp: '172.30.0.202', type: 'host-gw' };
  const { nodes, agent, configFile } = await setUp(t, [second, direct]);
  const { lease } = await agent.status();
  t.deepEqual(rows(agent), all(secondRows));
  const linesBefore = agent.log.length;
  writeFileSync(configFile, config({ Type: 'host-gw' }));
  await agent.until('the switch', ({ backend, peers }) => backend === 'host-gw' && peers === 1);
  const route = '10.244.202.0/24 via 172.30.0.202 dev eth0';
  await until('the new row', () => rows(agent).join() === route);
  await sleep(500);
  t.deepEqual(rows(agent), [route]);
  t.is(agent.run('ip', 'link', 'show', 'type', 'vxlan'), '');
  const passes = agent.log.slice(linesBefore).filter(({ message }) => message === 'kernel brought in line');
  t.is(passes.length, 1, JSON.stringify(agent.log.slice(linesBefore)));
  t.is((await agent.status()).lease, lease, 'the subnet stays');
  await until('peers are told', () =>
    nodes.etcd.ctl('get', prefix + lease).includes('"BackendType":"host-gw"'),
  );
  await until('pods may send larger packets', () => agent.file('subnet.env').includes('FLANNEL_MTU=1500'));

  writeFileSync(configFile, vxlan());
  await agent.until('the way back', ({ backend, peers }) => backend === 'vxlan' && peers === 1);
  await until('the old rows', () => JSON.stringify(rows(agent)) === JSON.stringify(all(secondRows)));
});

test.serial('a configuration that cannot be followed or read is told, and changes nothing', async (t) => {
  const { agent, configFile } = await setUp(t, [second]);
  const before = agent.kernel();
  const [subnet] = (await agent.status()).subnets;
  writeFileSync(configFile, '{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}');
  const told = await agent.until('the obstacle', ({ problems }) => problems.length === 1);
  t.deepEqual(told.problems, [
    `the changed configuration waits for a restart: 10.99.0.0/16 does not hold this node's subnet ${subnet}`,
  ]);
  writeFileSync(configFile, '{"Network":"10.244.0.0/16","Backend":{"Type":"pigeon"}}');
  const unread = await agent.until('the bad type', ({ problems }) => /pigeon/.test(problems[0] ?? ''));
  t.regex(unread.problems[0] ?? '', /net-conf\.json: Backend\.Type: "pigeon"/);
  writeFileSync(configFile, vxlan());
  await agent.until('no problem', ({ problems }) => problems.length === 0);
  t.is(agent.kernel(), before);
});

test.serial('a configuration that changes while the store is away is followed when it is back', async (t) => {
  const { nodes, agent, configFile } = await setUp(t, [second]);
  const before = agent.kernel();
  await nodes.etcd.stop();
  await agent.until('the loss', ({ problems }) => problems.length > 0);
  writeFileSync(configFile, config({ Type: 'host-gw' }));
  await sleep(1_000);
  t.is(agent.kernel(), before, 'the others still send as before');
  await nodes.etcd.run();
  const problem = '10.244.200.0-24: its backend is vxlan, not host-gw';
  await agent.until(
    'the switch',
    ({ backend, problems }) => backend === 'host-gw' && problems.join() === problem,
  );
  t.pass();
});

test.serial(
  'what left, and what another configuration made, while no agent ran is gone after the start',
  async (t) => {
    const { nodes, agent } = await setUp(t, [second, third]);
    await agent.end('SIGKILL');
    nodes.etcd.ctl('del', prefix + second.subnet);
    t.deepEqual(rows(agent), all(secondRows, thirdRows), 'nobody took them away yet');
    const again = nodes.start(0, vxlan());
    await again.ready();
    t.deepEqual(rows(again), all(thirdRows));

    await again.end('SIGKILL');
    put(nodes, { ...third, mac: '02:00:00:00:02:bb' });
    const other = nodes.start(0, config({ Type: 'vxlan', VNI: 7, Port: 4789 }));
    await other.ready();
    t.deepEqual(rows(other), []);
    const links = other.run('ip', '-o', 'link', 'show', 'type', 'vxlan').trim().split('\n');
    t.is(links.length, 1);
    t.regex(links[0] ?? '', /fl\.7/);
  },
);

test.serial(
  'a store that hangs and comes back compacted takes nothing down, and what it says then is done',
  async (t) => {
    const { nodes, agent } = await setUp(t, [second, third]);
    const before = agent.kernel();
    nodes.etcd.pause();
    await sleep(3_000);
    t.is(agent.kernel(), before);
    nodes.etcd.resume();
    await nodes.etcd.stop('SIGKILL');
    await agent.until('the loss is told', ({ problems }) => problems.length > 0);
    t.is(agent.kernel(), before);
    await nodes.etcd.run();
    nodes.etcd.ctl('del', prefix + second.subnet);
    put(nodes, { ...third, mac: '02:00:00:00:02:bb' });
    const revision = /"revision":(\d+)/.exec(nodes.etcd.ctl('get', 'x', '-w', 'json'))?.[1] ?? '';
    nodes.etcd.ctl('compact', revision);
    const wanted = all(rowsOf('10.244.201.0', '172.30.0.201', '02:00:00:00:02:bb'));
    await until('the present', () => JSON.stringify(rows(agent)) === JSON.stringify(wanted));
    await agent.until('all is well', ({ problems }) => problems.length === 0);
  },
);
