import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { CniError } from '../../cni/error.ts';
import { HostLocal } from '../../cni/host-local.ts';
import { type AttachmentRequest, type NetworkRequest, parseRequest } from '../../cni/request.ts';
import { MemoryLeases } from './memory-leases.ts';

const config = {
  cniVersion: '1.1.0',
  name: 'lan',
  type: 'macvlan',
  ipam: { type: 'host-local', ranges: [[{ subnet: '10.1.0.0/29' }], [{ subnet: 'fd00::/64' }]] },
};

function plugin() {
  const leases = new MemoryLeases();
  return { leases, plugin: new HostLocal({ leases, imports: { ensure: () => true } }) };
}

function request(verb: string, options: { id?: string; config?: object; args?: string } = {}) {
  const env = new Map([
    ['CNI_COMMAND', verb],
    ['CNI_CONTAINERID', options.id ?? 'box'],
    ['CNI_IFNAME', 'net1'],
    ['CNI_NETNS', '/run/netns/box'],
    ['CNI_PATH', '/opt/cni/bin'],
    ['CNI_ARGS', options.args ?? ''],
  ]);
  const parsed = parseRequest(env, Buffer.from(JSON.stringify({ ...config, ...options.config })));
  if (parsed instanceof CniError) throw parsed;
  return parsed as AttachmentRequest & NetworkRequest;
}

async function refusal(work: () => unknown): Promise<string> {
  try {
    await work();
    return 'done';
  } catch (error) {
    return error instanceof CniError ? `${error.code} ${error.message}` : String(error);
  }
}

test('ADD gives addresses, CHECK finds them, DEL takes them back, twice and without ADD', async (t) => {
  const { leases, plugin: hostLocal } = plugin();
  const result = await hostLocal.add(request('ADD'));
  t.deepEqual(
    result.ips.map(({ address }) => String(address)),
    ['10.1.0.2/29', 'fd00::2/64'],
  );
  t.deepEqual(leases.lines(), ['lan/box/net1 10.1.0.2,fd00::2']);
  await hostLocal.check(request('CHECK'));
  t.is(
    await refusal(() => hostLocal.check(request('CHECK', { id: 'other' }))),
    '999 host-local: Failed to find address added by container other',
  );
  await hostLocal.del(request('DEL'));
  await hostLocal.del(request('DEL'));
  t.deepEqual(leases.lines(), []);
  t.is(leases.ipam.addressesOf('lan/box/net1').length, 0);
});

test('a second ADD of one attachment is refused, one after DEL gives other addresses', async (t) => {
  const { plugin: hostLocal } = plugin();
  await hostLocal.add(request('ADD'));
  t.regex(
    await refusal(() => hostLocal.add(request('ADD'))),
    /10\.1\.0\.2 has been allocated to box, duplicate/,
  );
  await hostLocal.del(request('DEL'));
  const { ips } = await hostLocal.add(request('ADD'));
  t.is(String(ips[0]?.address), '10.1.0.3/29');
});

test('an address is asked for by CNI_ARGS; DEL needs no configuration that could be read', async (t) => {
  const { leases, plugin: hostLocal } = plugin();
  await hostLocal.add(request('ADD', { args: 'IP=10.1.0.5;IgnoreUnknown=1;K8S_POD_NAME=x' }));
  t.deepEqual(leases.lines(), ['lan/box/net1 10.1.0.5,fd00::2']);
  await hostLocal.del(request('DEL', { config: { ipam: { ranges: 'nonsense' } } }));
  t.deepEqual(leases.lines(), []);
});

test('nothing is given that cannot be written down', async (t) => {
  const { leases, plugin: hostLocal } = plugin();
  leases.failure = new Error('no space left on device');
  t.is(
    await refusal(() => hostLocal.add(request('ADD'))),
    '5 failed to record the lease: no space left on device',
  );
  t.deepEqual([...leases.ipam.holders()], []);
});

test('resolvConf is read at ADD', async (t) => {
  const directory = mkdtempSync('/tmp/fairlead-test-');
  t.teardown(() => rmSync(directory, { recursive: true }));
  const resolvConf = join(directory, 'resolv.conf');
  writeFileSync(resolvConf, 'nameserver 10.96.0.10\n');
  const { leases, plugin: hostLocal } = plugin();
  const withDns = (path: string) => ({ config: { ipam: { ...config.ipam, resolvConf: path } } });
  const { dns } = await hostLocal.add(request('ADD', withDns(resolvConf)));
  t.deepEqual(dns.nameservers, ['10.96.0.10']);
  const missing = { id: 'other', ...withDns(`${resolvConf}.missing`) };
  t.regex(await refusal(() => hostLocal.add(request('ADD', missing))), /^5 ipam.resolvConf: ENOENT/);
  t.is(leases.lines().length, 1);
});

test('STATUS says when no pod can be added', async (t) => {
  const { plugin: hostLocal } = plugin();
  hostLocal.status(request('STATUS'));
  for (const id of ['a', 'b', 'c', 'd', 'e']) await hostLocal.add(request('ADD', { id }));
  t.is(
    await refusal(() => hostLocal.status(request('STATUS'))),
    '50 no IP addresses available in range set: 10.1.0.1-10.1.0.6',
  );
  t.is(
    await refusal(() => hostLocal.add(request('ADD'))),
    '11 failed to allocate for range 0: no IP addresses available in range set: 10.1.0.1-10.1.0.6',
  );
  await hostLocal.del(request('DEL', { id: 'c' }));
  hostLocal.status(request('STATUS'));
  t.is(
    await refusal(() => hostLocal.status(request('STATUS', { config: { ipam: {} } }))),
    '7 no IP ranges specified',
  );
});

test('GC takes back what the runtime does not know, in its network only, and nothing without a list', async (t) => {
  const { leases, plugin: hostLocal } = plugin();
  for (const id of ['a', 'b']) await hostLocal.add(request('ADD', { id }));
  await hostLocal.add(request('ADD', { id: 'a', config: { name: 'other' } }));
  t.deepEqual(await hostLocal.gc(request('GC')), []);
  const valid = [{ containerID: 'b', ifname: 'net1' }];
  t.is((await hostLocal.gc(request('GC', { config: { 'cni.dev/valid-attachments': valid } }))).length, 1);
  t.deepEqual(leases.lines(), ['lan/b/net1 10.1.0.3,fd00::3', 'other/a/net1 10.1.0.4,fd00::4']);
  await hostLocal.gc(request('GC', { config: { 'cni.dev/valid-attachments': [] } }));
  t.deepEqual(leases.lines(), ['other/a/net1 10.1.0.4,fd00::4']);
});
