import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { type Ip, parseIp } from '../../core/address.ts';
import { parseNetworkConfig } from '../../daemon/config.ts';
import { EtcdClient } from '../../daemon/etcd.ts';
import { type LeaseAttributes, StoreError } from '../../daemon/lease.ts';
import { EtcdLeaseStore, type EtcdStoreOptions, readEtcdNetworkConfig } from '../../daemon/store-etcd.ts';
import { EtcdServer, until } from './etcd-server.ts';

const prefix = '/coreos.com/network';
const v4Config = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}';
const dualConfig =
  '{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00:5::/48","Backend":{"Type":"vxlan"}}';

let server: EtcdServer;
test.before(async () => {
  server = await EtcdServer.start();
});
test.after.always(async () => {
  await server?.[Symbol.asyncDispose]();
});

let lastRoot = 0;
/** Each test has a prefix of its own in the one etcd. */
function setUp(config = v4Config, options: Partial<EtcdStoreOptions> = {}) {
  const root = `/test${++lastRoot}${prefix}`;
  const client = new EtcdClient({ endpoints: [server.endpoint], requestTimeoutMs: 60_000 });
  const abort = new AbortController();
  const { networks } = parseNetworkConfig(config);
  const store = (more: Partial<EtcdStoreOptions> = {}) =>
    new EtcdLeaseStore({ client, networks, prefix: root, ...options, ...more });
  const disposer = {
    [Symbol.dispose]() {
      abort.abort();
      client[Symbol.dispose]();
    },
  };
  return { root, client, store, signal: abort.signal, ...disposer };
}

const ip = (text: string) => parseIp(text) as Ip;
function attributes(v4: string, mac = '02:00:00:00:00:01', v6?: string): LeaseAttributes {
  const data = { VNI: 1, VtepMAC: mac };
  return {
    publicIps: { 4: ip(v4), ...(v6 === undefined ? {} : { 6: ip(v6) }) },
    backendType: 'vxlan',
    backendData: { 4: data, ...(v6 === undefined ? {} : { 6: data }) },
  };
}

test('key and value are those that flannel writes', async (t) => {
  using etcd = setUp(v4Config, { random: () => 0 });
  const lease = await etcd.store().acquire(attributes('192.0.2.1'), { signal: etcd.signal });
  t.is(lease.key, '10.5.1.0-24');
  t.is(
    await server.ctlAsync('get', '--prefix', `${etcd.root}/subnets/`),
    `${etcd.root}/subnets/10.5.1.0-24\n` +
      '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}}',
  );
});

test('a dual-stack lease has both subnets in its key', async (t) => {
  using etcd = setUp(dualConfig, { random: () => 0 });
  const store = etcd.store();
  const lease = await store.acquire(attributes('192.0.2.1', '02:00:00:00:00:01', '2001:db8::1'), etcd);
  t.is(lease.key, '10.5.1.0-24&fc00:5:0:1::-64');
  t.deepEqual(lease.subnets as unknown, { 4: '10.5.1.0/24', 6: 'fc00:5:0:1::/64' });
  t.true(
    (await server.ctlAsync('get', '--prefix', `${etcd.root}/subnets/`)).includes(
      '"PublicIPv6":"2001:db8::1"',
    ),
  );
});

test('a lease lives as long as flannel says, and a second acquire neither moves nor rewrites it', async (t) => {
  using etcd = setUp();
  const first = await etcd.store().acquire(attributes('192.0.2.1'), { signal: etcd.signal });
  const [before] = (await etcd.client.range(`${etcd.root}/subnets/`, etcd.signal)).entries;
  const again = await etcd.store().acquire(attributes('192.0.2.1'), { signal: etcd.signal });
  const [after] = (await etcd.client.range(`${etcd.root}/subnets/`, etcd.signal)).entries;
  t.deepEqual(again, first);
  t.deepEqual(after, before);
  t.is(await etcd.client.keepAlive(before?.etcdLease ?? '', etcd.signal), 86_400);
});

test('nodes that start in the same moment get different subnets', async (t) => {
  using etcd = setUp('{"Network":"10.5.0.0/24","SubnetLen":28,"Backend":{"Type":"host-gw"}}', {
    random: () => 0.5,
  });
  const leases = await Promise.all(
    Array.from({ length: 15 }, (_, i) => etcd.store().acquire(attributes(`192.0.2.${i + 1}`), etcd)),
  );
  t.is(new Set(leases.map(({ key }) => key)).size, 15);
  const late = etcd.store().acquire(attributes('192.0.2.99'), etcd);
  await t.throwsAsync(late, { instanceOf: StoreError, message: 'etcd: no /28 is free in 10.5.0.0/24' });
});

test('two dual-stack nodes never share an IPv4 subnet, though their keys would differ', async (t) => {
  using etcd = setUp(dualConfig);
  const draw = (v4: number, v6: number) => {
    const numbers = [v4, v6];
    return () => numbers.shift() ?? 0.9;
  };
  const [a, b] = await Promise.all([
    etcd.store({ random: draw(0, 0) }).acquire(attributes('192.0.2.1', undefined, '2001:db8::1'), etcd),
    etcd.store({ random: draw(0, 0.5) }).acquire(attributes('192.0.2.2', undefined, '2001:db8::2'), etcd),
  ]);
  t.not(a.subnets[4], b.subnets[4]);
});

test('a changed address or tunnel end is written to the same key', async (t) => {
  using etcd = setUp();
  const store = etcd.store();
  const first = await store.acquire(attributes('192.0.2.1'), etcd);
  const moved = await store.acquire(attributes('192.0.2.77'), etcd);
  t.is(moved.key, first.key);
  const restarted = await etcd
    .store()
    .acquire(attributes('192.0.2.78'), { ...etcd, previous: first.subnets });
  t.is(restarted.key, first.key, 'the tunnel end tells that the lease is ours');
  t.is(
    (await server.ctlAsync('get', '--prefix', '--keys-only', `${etcd.root}/subnets/`)).trim().split('\n')
      .length,
    1,
  );
});

test('a node that comes back with another address has its lease again, and takes nobody else’s', async (t) => {
  using etcd = setUp();
  const plain = (v4: string): LeaseAttributes => ({
    ...{ publicIps: { 4: ip(v4) }, backendType: 'host-gw', backendData: {} },
  });
  const [own, other] = [
    await etcd.store().acquire(plain('192.0.2.1'), etcd),
    await etcd.store().acquire(plain('192.0.2.2'), etcd),
  ];
  const before = { previous: own.subnets, announced: own.publicIps };
  const moved = await etcd.store().acquire(plain('192.0.2.2'), { ...etcd, ...before });
  t.is(moved.key, own.key, 'not that of the node that has our address of now');
  const again = { previous: other.subnets, announced: own.publicIps };
  const third = await etcd.store().acquire(plain('192.0.2.3'), { ...etcd, ...again });
  t.false([own.key, other.key].includes(third.key), 'its last subnets are somebody else’s by now');
  const stranger = await etcd.store().acquire(plain('192.0.2.4'), { ...etcd, previous: other.subnets });
  t.false([own.key, other.key, third.key].includes(stranger.key), 'nothing says that they were its own');
});

test('the previous subnet is asked for first', async (t) => {
  using etcd = setUp();
  const first = await etcd.store().acquire(attributes('192.0.2.1'), etcd);
  await server.ctlAsync('del', `${etcd.root}/subnets/${first.key}`);
  const again = await etcd.store().acquire(attributes('192.0.2.1'), { ...etcd, previous: first.subnets });
  t.is(again.key, first.key);
});

test('a lease of the wrong size is given up for one that fits', async (t) => {
  using etcd = setUp();
  await server.ctlAsync(
    'put',
    `${etcd.root}/subnets/10.5.4.0-22`,
    '{"PublicIP":"192.0.2.1","BackendType":"vxlan"}',
  );
  const lease = await etcd.store({ random: () => 0 }).acquire(attributes('192.0.2.1'), etcd);
  t.is(lease.key, '10.5.1.0-24');
  t.is(
    (await server.ctlAsync('get', '--prefix', '--keys-only', `${etcd.root}/subnets/`)).trim(),
    `${etcd.root}/subnets/10.5.1.0-24`,
  );
});

test('a reservation is used by the node with its address and stays a reservation', async (t) => {
  using etcd = setUp();
  await server.ctlAsync('put', `${etcd.root}/subnets/10.5.34.0-24`, '{"PublicIP":"192.0.2.1"}');
  const lease = await etcd.store().acquire(attributes('192.0.2.1'), etcd);
  t.is(lease.key, '10.5.34.0-24');
  const [entry] = (await etcd.client.range(`${etcd.root}/subnets/`, etcd.signal)).entries;
  t.is(entry?.etcdLease, '0');
  t.true(entry?.value.includes('VtepMAC'));
});

test('a watch tells of new, changed and deleted leases', async (t) => {
  using etcd = setUp();
  let changes = 0;
  const onChange = () => {
    changes += 1;
  };
  const view = etcd.store().watch({ onChange, signal: etcd.signal });
  await view.synced;
  t.is(view.leases().size, 0);
  const peer = etcd.store();
  const lease = await peer.acquire(attributes('192.0.2.1'), etcd);
  await until('the lease is seen', () => view.leases().size === 1);
  t.deepEqual(view.leases().get(lease.key)?.publicIps as unknown, { 4: '192.0.2.1' });
  await peer.acquire(attributes('192.0.2.2'), etcd);
  await until('the change is seen', () => view.leases().get(lease.key)?.publicIps[4] === '192.0.2.2');
  await server.ctlAsync('del', `${etcd.root}/subnets/${lease.key}`);
  await until('the end is seen', () => view.leases().size === 0);
  t.true(changes >= 4);
});

test('a lease that nobody renews ends, and one that is held does not', async (t) => {
  using etcd = setUp(v4Config, { ttlSeconds: 10, renewMarginSeconds: 5 });
  const view = etcd.store().watch({ onChange: () => {}, signal: etcd.signal });
  const gone = new AbortController();
  const dead = await etcd.store().acquire(attributes('192.0.2.1'), { signal: gone.signal });
  gone.abort();
  const alive = await etcd.store().acquire(attributes('192.0.2.2'), { signal: etcd.signal });
  await until('both are seen', () => view.leases().size === 2);
  await until('one ends', () => view.leases().size === 1);
  await sleep(3_000);
  t.deepEqual([...view.leases().keys()], [alive.key]);
  t.not(dead.key, alive.key);
  t.deepEqual(view.problems(), []);
});

test('what cannot be read is reported, keeps its subnet and harms nothing else', async (t) => {
  using etcd = setUp(v4Config, { random: () => 0 });
  await server.ctlAsync('put', `${etcd.root}/subnets/10.5.1.0-24`, 'no json');
  await server.ctlAsync('put', `${etcd.root}/subnets/zebra`, '{}');
  await server.ctlAsync('put', `${etcd.root}/subnets/10.5.3.0-24`, '{"PublicIP":"here"}');
  const view = etcd.store().watch({ onChange: () => {}, signal: etcd.signal });
  const lease = await etcd.store().acquire(attributes('192.0.2.1'), etcd);
  t.is(lease.key, '10.5.2.0-24');
  await until('the lease is seen', () => view.leases().size === 1);
  t.is(view.behindMs(), 0, 'they are not what is missing');
  t.deepEqual(view.problems(), [
    `etcd ${etcd.root}/subnets/10.5.1.0-24: is not a JSON object: no json`,
    `etcd ${etcd.root}/subnets/10.5.3.0-24: PublicIP is no address: "here"`,
    `etcd ${etcd.root}/subnets/zebra: is not the key of a subnet`,
  ]);
});

test('the network configuration is read from its key', async (t) => {
  using etcd = setUp();
  await t.throwsAsync(readEtcdNetworkConfig(etcd.client, etcd.root, etcd.signal), {
    message: `etcd: the key ${etcd.root}/config does not exist`,
  });
  await server.ctlAsync('put', `${etcd.root}/config`, v4Config);
  t.deepEqual(await readEtcdNetworkConfig(etcd.client, etcd.root, etcd.signal), parseNetworkConfig(v4Config));
});

test('a watch outlives a restart and a compaction, and finds what vanished meanwhile', async (t) => {
  await using other = await EtcdServer.start();
  const abort = new AbortController();
  t.teardown(() => abort.abort());
  using client = new EtcdClient({
    endpoints: ['http://127.0.0.1:1', other.endpoint],
    requestTimeoutMs: 60_000,
  });
  const { networks } = parseNetworkConfig(v4Config);
  const store = () => new EtcdLeaseStore({ client, networks });
  const view = store().watch({ onChange: () => {}, signal: abort.signal });
  const first = await store().acquire(attributes('192.0.2.1'), abort);
  const second = await store().acquire(attributes('192.0.2.2'), abort);
  await until('both are seen', () => view.leases().size === 2);

  await other.stop();
  const refused = /127\.0\.0\.1:1: connect ECONNREFUSED/;
  await until('the loss is reported', () => refused.test(view.problems()[0] ?? ''));
  t.is(view.leases().size, 2, 'what was known stays known');
  const behindMs = view.behindMs();
  t.true(behindMs > 0);
  const late = store().acquire(attributes('192.0.2.3'), abort);
  await t.throwsAsync(late, { instanceOf: StoreError });
  await until('it is behind for longer', () => view.behindMs() > behindMs);

  await other.run();
  await other.ctlAsync('del', `${prefix}/subnets/${first.key}`);
  const revision = /"revision":(\d+)/.exec(await other.ctlAsync('get', 'x', '-w', 'json'))?.[1] ?? '';
  await other.ctlAsync('compact', revision);
  await until('the deletion is found', () => !view.leases().has(first.key));
  t.deepEqual([...view.leases().keys()], [second.key]);
  await until('all is well again', () => view.problems().length === 0);
  t.is(view.behindMs(), 0);
});
