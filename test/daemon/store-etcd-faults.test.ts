import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { type Ip, parseIp } from '../../core/address.ts';
import { parseNetworkConfig } from '../../daemon/config.ts';
import { EtcdClient, type EtcdOptions } from '../../daemon/etcd.ts';
import { type Lease, type LeaseAttributes, StoreError } from '../../daemon/lease.ts';
import { EtcdLeaseStore, type EtcdStoreOptions } from '../../daemon/store-etcd.ts';
import { certificates } from './certificates.ts';
import { EtcdServer, type EtcdServerOptions, until } from './etcd-server.ts';

const ip = (text: string) => parseIp(text) as Ip;
const prefix = '/coreos.com/network/subnets/';
const { networks } = parseNetworkConfig('{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}');
const attributes = (v4: string, mac = '02:00:00:00:00:01'): LeaseAttributes => ({
  publicIps: { 4: ip(v4) },
  backendType: 'vxlan',
  backendData: { 4: { VNI: 1, VtepMAC: mac } },
});

/** An etcd of its own, because the test breaks it. */
async function setUp(
  t: ExecutionContext,
  { server, client: more }: { server?: EtcdServerOptions; client?: Partial<EtcdOptions> } = {},
) {
  const etcd = await EtcdServer.start(server);
  const abort = new AbortController();
  // Where others use the processors, etcd answers when it can.
  const client = new EtcdClient({ endpoints: [etcd.endpoint], requestTimeoutMs: 60_000, ...more });
  t.teardown(async () => {
    abort.abort();
    client[Symbol.dispose]();
    etcd.resume();
    await etcd[Symbol.asyncDispose]();
  });
  const store = (options: Partial<EtcdStoreOptions> = {}) =>
    new EtcdLeaseStore({ client, networks, ...options });
  const watch = (options?: Partial<EtcdStoreOptions>) =>
    store(options).watch({ onChange: () => {}, signal: abort.signal });
  return { etcd, client, store, watch, signal: abort.signal };
}

const compactNow = async (etcd: EtcdServer) => {
  const revision = /"revision":(\d+)/.exec(await etcd.ctlAsync('get', 'x', '-w', 'json'))?.[1] ?? '';
  await etcd.ctlAsync('compact', revision);
};
const leaseText = (v4: string, mac: string) =>
  JSON.stringify({
    PublicIP: v4,
    PublicIPv6: null,
    BackendType: 'vxlan',
    BackendData: { VNI: 1, VtepMAC: mac },
  });

test('two nodes that want the one free subnet: one has it, the other is told by name', async (t) => {
  const { store, signal } = await setUp(t);
  const config = '{"Network":"10.5.0.0/24","SubnetLen":28,"SubnetMin":"10.5.0.32","SubnetMax":"10.5.0.32"}';
  const one = { networks: parseNetworkConfig(config).networks };
  const results = await Promise.allSettled([
    store(one).acquire(attributes('192.0.2.1'), { signal }),
    store(one).acquire(attributes('192.0.2.2', '02:00:00:00:00:02'), { signal }),
  ]);
  const won = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value.key] : []));
  const lost = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as Error] : []));
  t.deepEqual(won, ['10.5.0.32-28']);
  t.true(lost[0] instanceof StoreError);
  t.is(lost[0]?.message, 'etcd: no /28 is free in 10.5.0.0/24');
});

test('of two overlapping subnets of different lengths, made in the same moment, the later one is given back', async (t) => {
  const { etcd, client, store, signal } = await setUp(t);
  const transact = client.transact.bind(client);
  let tries = 0;
  client.transact = async (...args) => {
    tries += 1;
    // Behind the back of the first try, that has read all leases already.
    if (tries === 1)
      await etcd.ctlAsync('put', `${prefix}10.5.0.0-22`, leaseText('192.0.2.99', '02:00:00:00:00:99'));
    return await transact(...args);
  };
  const lease = await store({ random: () => 0 }).acquire(attributes('192.0.2.1'), { signal });
  t.is(lease.key, '10.5.4.0-24');
  const keys = (await client.range(prefix, signal)).entries.map(({ key }) => key.slice(prefix.length));
  t.deepEqual(keys.sort(), ['10.5.0.0-22', '10.5.4.0-24']);
});

test('a hundred dual-stack nodes that start at once have subnets of their own within seconds', async (t) => {
  const { store, signal } = await setUp(t);
  const dual = '{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00:5::/48"}';
  const options = { networks: parseNetworkConfig(dual).networks };
  const begin = performance.now();
  const leases = await Promise.all(
    Array.from({ length: 100 }, (_, n) => {
      const publicIps = { 4: ip(`192.0.2.${n}`), 6: ip(`2001:db8::${n}`) };
      return store(options).acquire({ ...attributes('192.0.2.1'), publicIps }, { signal });
    }),
  );
  for (const family of [4, 6] as const)
    t.is(new Set(leases.map(({ subnets }) => subnets[family])).size, 100, `IPv${family}`);
  t.log(`${Math.round(performance.now() - begin)} ms`);
});

test('a hanging etcd is told within the probe’s time, what was known stays, and what it did meanwhile is found', async (t) => {
  const { etcd, store, signal } = await setUp(t);
  using client = new EtcdClient({ endpoints: [etcd.endpoint] });
  const view = store({ client, probeMs: 200 }).watch({ onChange: () => {}, signal });
  const lease = await store().acquire(attributes('192.0.2.1'), { signal });
  await until('the lease is seen', () => view.leases().size === 1);
  etcd.pause();
  await until('the silence is told', () => /no answer in 5000 ms/.test(view.problems()[0] ?? ''));
  t.is(view.leases().size, 1);
  const late = store({ client }).acquire(attributes('192.0.2.2'), { signal });
  await t.throwsAsync(late, { instanceOf: StoreError, message: /no answer in 5000 ms/ });
  etcd.resume();
  await until('it is well again', () => view.problems().length === 0);
  await etcd.ctlAsync('put', prefix + lease.key, leaseText('192.0.2.77', '02:00:00:00:00:07'));
  await until('the watch tells', () => view.leases().get(lease.key)?.publicIps[4] === '192.0.2.77');
});

test('what changed while we were away and was compacted is found: new, gone, renumbered, another MAC', async (t) => {
  const { etcd, store, watch, signal } = await setUp(t);
  const view = watch();
  const leases: Lease[] = [];
  for (const n of [1, 2, 3]) {
    // The first that is free, so that nobody has the subnet that comes later.
    leases.push(
      await store({ random: () => 0 }).acquire(attributes(`192.0.2.${n}`, `02:00:00:00:00:0${n}`), {
        signal,
      }),
    );
  }
  await until('all are seen', () => view.leases().size === 3);
  const [changed, gone, stays] = leases.map(({ key }) => key) as [string, string, string];
  await etcd.stop('SIGKILL');
  await until('the loss is told', () => view.problems().length === 1);
  await etcd.run();
  await etcd.ctlAsync('put', prefix + changed, leaseText('192.0.2.101', '02:00:00:00:00:aa'));
  await etcd.ctlAsync('del', prefix + gone);
  await etcd.ctlAsync('put', `${prefix}10.5.250.0-24`, leaseText('192.0.2.2', '02:00:00:00:00:02'));
  await compactNow(etcd);
  await until('the new subnet is seen', () => view.leases().has('10.5.250.0-24'));
  // By then all is seen that was before it.
  t.deepEqual([...view.leases().keys()].sort(), ['10.5.250.0-24', changed, stays].sort());
  t.like(view.leases().get(changed), {
    publicIps: { 4: '192.0.2.101' },
    backendData: { 4: { VNI: 1, VtepMAC: '02:00:00:00:00:aa' } },
  });
  await until('no problem is left', () => view.problems().length === 0);
});

test('a deletion that history was compacted at while we were away is found soon', async (t) => {
  const { etcd, client, store, watch, signal } = await setUp(t);
  const real = client.watch.bind(client);
  let isAway = false;
  client.watch = async function* (...args) {
    if (isAway) throw new StoreError('away');
    yield* real(...args);
  };
  const view = watch();
  const { key } = await store().acquire(attributes('192.0.2.1'), { signal });
  await until('the lease is seen', () => view.leases().has(key));
  isAway = true;
  await etcd.stop();
  await until('the loss is told', () => view.problems().length === 1);
  await etcd.run();
  await etcd.ctlAsync('del', prefix + key);
  await compactNow(etcd);
  isAway = false;
  await until('the deletion is found', () => view.leases().size === 0, 30_000);
  await until('no problem is left', () => view.problems().length === 0);
  t.false(view.leases().has(key));
});

test('entries that the watch never told of are found by the count', async (t) => {
  const { etcd, client, watch, signal } = await setUp(t);
  const real = client.watch.bind(client);
  client.watch = async function* (...args) {
    for await (const event of real(...args)) if (event.kind !== 'put') yield event;
  };
  const view = watch({ probeMs: 100 });
  await view.synced;
  await etcd.ctlAsync('put', `${prefix}10.5.9.0-24`, leaseText('192.0.2.9', '02:00:00:00:00:09'));
  await until('it is found', () => view.leases().size === 1);
  t.false(signal.aborted);
});

test('a changed entry that the watch never told of is found by its revision, and quiet costs no search', async (t) => {
  const { etcd, client, watch, signal } = await setUp(t);
  const real = client.watch.bind(client);
  client.watch = async function* (...args) {
    for await (const event of real(...args)) if (event.kind !== 'put') yield event;
  };
  let searches = 0;
  const newest = client.newest.bind(client);
  client.newest = async (...args) => {
    searches += 1;
    return await newest(...args);
  };
  const key = '10.5.9.0-24';
  await etcd.ctlAsync('put', prefix + key, leaseText('192.0.2.9', '02:00:00:00:00:09'));
  const view = watch({ probeMs: 100 });
  await view.synced;
  await sleep(1_500);
  t.is(searches, 0, 'nothing was written at all');
  await etcd.ctlAsync('put', prefix + key, leaseText('192.0.2.9', '02:00:00:00:00:aa'));
  await until('the change is found', () => {
    return JSON.stringify(view.leases().get(key)?.backendData[4]).includes('02:00:00:00:00:aa');
  });
  const [after, begin] = [searches, performance.now()];
  for (let n = 0; n < 5; n += 1) {
    await etcd.ctlAsync('put', '/elsewhere', String(n));
    await sleep(150);
  }
  const most = 2 + (performance.now() - begin) / 1_000;
  t.true(searches - after <= most, `others’ writes are looked after now and then: ${searches - after}`);
  t.false(signal.aborted);
});

test('a lease made a reservation while it is held stays one, and its renewal ends in peace', async (t) => {
  const { etcd, client, store, signal } = await setUp(t);
  const holder = store({ ttlSeconds: 8, renewMarginSeconds: 4 });
  const view = holder.watch({ onChange: () => {}, signal });
  const { key, subnets } = await holder.acquire(attributes('192.0.2.1'), { signal });
  const before = (await client.entry(prefix + key, signal))?.etcdLease ?? '';
  await etcd.ctlAsync('put', prefix + key, leaseText('192.0.2.1', '02:00:00:00:00:01'));
  await etcd.ctlAsync('lease', 'revoke', BigInt(before).toString(16));
  await sleep(5_000); // until after the renewal
  t.deepEqual(view.problems(), []);
  await holder.acquire(attributes('192.0.2.5'), { signal, previous: subnets });
  const after = await client.entry(prefix + key, signal);
  t.is(after?.etcdLease, '0');
  t.true(after?.value.includes('192.0.2.5'));
});

test.serial('a wall clock set back by a day does not let the lease run out', async (t) => {
  const { watch, store, signal } = await setUp(t);
  const view = watch();
  const now = Date.now;
  t.teardown(() => {
    Date.now = now;
  });
  await store({ ttlSeconds: 8, renewMarginSeconds: 4 }).acquire(attributes('192.0.2.1'), { signal });
  Date.now = () => now() - 86_400_000;
  await sleep(10_000);
  t.is(view.leases().size, 1);
});

test('a node that gains a family keeps its subnet of the other one', async (t) => {
  const { store, client, signal } = await setUp(t);
  const first = await store().acquire(attributes('192.0.2.1'), { signal });
  const dual = parseNetworkConfig('{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00:5::/48"}');
  const publicIps = { 4: ip('192.0.2.1'), 6: ip('2001:db8::1') };
  const both = { ...attributes('192.0.2.1'), publicIps };
  const second = await store({ networks: dual.networks }).acquire(both, { signal });
  t.is(second.subnets[4], first.subnets[4]);
  t.is((await client.range(prefix, signal)).entries.length, 1, 'the old key is gone');
});

test('user and password: a token that has run out is replaced, also for the watch', async (t) => {
  const { etcd, store, watch, signal } = await setUp(t, {
    server: { flags: ['--auth-token-ttl=1'] },
    client: { username: 'flannel', password: 'secret' },
  });
  await etcd.ctlAsync('user', 'add', 'root:admin');
  await etcd.ctlAsync('user', 'grant-role', 'root', 'root');
  await etcd.ctlAsync('role', 'add', 'network');
  await etcd.ctlAsync(
    'role',
    'grant-permission',
    '--prefix=true',
    'network',
    'readwrite',
    '/coreos.com/network',
  );
  await etcd.ctlAsync('user', 'add', 'flannel:secret');
  await etcd.ctlAsync('user', 'grant-role', 'flannel', 'network');
  await etcd.ctlAsync('auth', 'enable');
  const root = ['--user=root:admin'];
  const view = watch();
  const { key, subnets } = await store().acquire(attributes('192.0.2.1'), { signal });
  await until('the lease is seen', () => view.leases().has(key));
  await sleep(3_000);
  await store().acquire(attributes('192.0.2.7'), { signal, previous: subnets });
  await until('the change is seen', () => view.leases().get(key)?.publicIps[4] === '192.0.2.7');
  await etcd.stop();
  await etcd.run(...root);
  await etcd.ctlAsync(...root, 'del', prefix + key);
  await until('the deletion is seen', () => view.leases().size === 0);
  await until('no problem is left', () => view.problems().length === 0);

  using stranger = new EtcdClient({ endpoints: [etcd.endpoint], username: 'flannel', password: 'wrong' });
  await t.throwsAsync(stranger.range(prefix, signal), {
    instanceOf: StoreError,
    message: /authentication failed, invalid user ID or password/,
  });
});

test('TLS: requests and watches carry the client’s certificate, and a strange server is refused', async (t) => {
  const files = certificates(t);
  const pem = { ca: read(files.ca), cert: read(files.cert), key: read(files.key) };
  const { etcd, store, watch, signal } = await setUp(t, { server: { tls: files }, client: pem });
  const view = watch();
  const { key } = await store().acquire(attributes('192.0.2.1'), { signal });
  await until('the lease is seen', () => view.leases().has(key));
  await etcd.ctlAsync('del', prefix + key);
  await until('the deletion is seen', () => view.leases().size === 0);
  t.deepEqual(view.problems(), []);

  using distrustful = new EtcdClient({ endpoints: [etcd.endpoint], cert: pem.cert, key: pem.key });
  await t.throwsAsync(distrustful.get('x', signal), { instanceOf: StoreError, message: /certificate/ });
  using anonymous = new EtcdClient({ endpoints: [etcd.endpoint], ca: pem.ca });
  await t.throwsAsync(anonymous.get('x', signal), { instanceOf: StoreError });
});

const read = (path: string) => readFileSync(path, 'utf8');
