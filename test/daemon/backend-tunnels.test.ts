import { createPrivateKey, createPublicKey, diffieHellman } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { backendFor, backendTypes } from '../../daemon/backend/backends.ts';
import { planTunnel } from '../../daemon/backend/udp.ts';
import { type VxlanConfig, vxlanBackend } from '../../daemon/backend/vxlan.ts';
import { planKeys, type WireguardConfig } from '../../daemon/backend/wireguard.ts';
import {
  isWireguardKey,
  makePrivateKey,
  readWireguardKeys,
  wireguardKeys,
} from '../../daemon/backend/wireguard-key.ts';
import { parseNetworkConfig } from '../../daemon/config.ts';
import { golden, planOf, planText, type TestNode } from './golden.ts';

const dual = (backend: object) =>
  JSON.stringify({
    Network: '10.244.0.0/16',
    EnableIPv6: true,
    IPv6Network: 'fd00:10:244::/48',
    Backend: backend,
  });
const both: readonly (4 | 6)[] = [4, 6];
const keyOf = (n: number) => Buffer.alloc(32, n).toString('base64');
const wireguardNode = (n: number, more: Partial<TestNode> = {}): TestNode => ({
  n,
  families: both,
  data: { PublicKey: keyOf(n), Port: 51820 },
  ...more,
});

test('every file of the folder that is a backend is in the list', (t) => {
  t.deepEqual([...backendTypes].sort(), ['alloc', 'host-gw', 'ipip', 'udp', 'vxlan', 'wireguard']);
  t.throws(() => backendFor({ type: 'ipsec' }, { stateDir: '' }), { message: /there is no such backend/ });
});

for (const type of ['udp', 'ipip', 'alloc']) {
  test(`${type} connects dual-stack nodes`, (t) => {
    const nodes = [1, 2, 3].map((n) => ({ n, families: both }));
    golden(t, `${type}-dual`, planText(planOf(dual({ Type: type }), nodes)));
  });
}

test('ipip with DirectRouting sends packets for neighbours in the same network past the tunnel', (t) => {
  const far = { n: 3, families: both, publicIps: { 4: '198.51.100.3', 6: '2001:db8:1::3' } };
  const nodes = [{ n: 1, families: both }, { n: 2, families: both }, far];
  golden(t, 'ipip-direct', planText(planOf(dual({ Type: 'ipip', DirectRouting: true }), nodes)));
});

for (const mode of ['separate', 'auto', 'ipv6']) {
  test(`wireguard connects dual-stack nodes in the mode ${mode}`, (t) => {
    const text = dual({ Type: 'wireguard', Mode: mode, PersistentKeepaliveInterval: 25, PSK: keyOf(99) });
    const plan = planOf(text, [wireguardNode(1), wireguardNode(2), wireguardNode(3)]);
    const config = parseNetworkConfig(text).backend as WireguardConfig;
    const keys = planKeys(config, { privateKey: keyOf(77), publicKey: keyOf(1) }, plan.facts);
    const lines = [...keys].map(([key, row]) => `wireguard ${key} ${JSON.stringify(row)}`);
    golden(t, `wireguard-${mode}`, `${planText(plan)}${lines.join('\n')}\n`);
  });
}

test('a node with no key, or with somebody else’s, gets no packets', (t) => {
  const plan = planOf(dual({ Type: 'wireguard' }), [
    wireguardNode(1),
    wireguardNode(2),
    wireguardNode(3, { data: { PublicKey: keyOf(2) } }),
    wireguardNode(4, { data: { PublicKey: 'x' } }),
    wireguardNode(5, { data: null }),
  ]);
  t.is(plan.peers, 1);
  t.deepEqual([...plan.routes.keys()], ['254 10.244.2.0/24', '254 fd00:10:244:2::/64']);
  t.true(plan.problems.includes('node-3: its PublicKey is that of node-2'));
  t.true(plan.problems.includes('node-4: its PublicKey is not base64 of 32 bytes: "x"'));
});

test('udp sends each subnet to its node, in datagrams of its own family', (t) => {
  const plan = planOf(dual({ Type: 'udp', Port: 9000 }), [
    { n: 1, families: both },
    { n: 2, families: both },
  ]);
  const rows = planTunnel({ type: 'udp', port: 9000 }, plan.facts);
  t.deepEqual([...rows.values()] as unknown, [
    { destination: '10.244.2.0/24', endpoint: '192.0.2.2', port: 9000 },
    { destination: 'fd00:10:244:2::/64', endpoint: '2001:db8::2', port: 9000 },
  ]);
});

test('checksums are left to the hardware except where the kernel gets them wrong, or as the operator says', (t) => {
  const { facts } = planOf(dual({ Type: 'vxlan' }), [{ n: 1, families: both }]);
  const offload = (checksumOffload: string, release: string) => {
    const { backend } = parseNetworkConfig(dual({ Type: 'vxlan', ChecksumOffload: checksumOffload }));
    const { offloads } = vxlanBackend(backend as VxlanConfig, release).plan(facts);
    return offloads.map(({ transmitChecksum }) => transmitChecksum);
  };
  t.deepEqual(offload('auto', '6.1.0-28-cloud-amd64'), [true, true]);
  t.deepEqual(offload('auto', '5.7.0'), [true, true]);
  t.deepEqual(offload('auto', '5.6.19'), [false, false]);
  t.deepEqual(offload('auto', '4.19.0'), [false, false]);
  t.deepEqual(offload('on', '4.19.0'), [true, true]);
  t.deepEqual(offload('off', '6.18.0'), [false, false]);
});

test('GBP is a property of the device', (t) => {
  const plan = planOf(dual({ Type: 'vxlan', GBP: true }), [{ n: 1, families: both }]);
  t.deepEqual(
    [...plan.links.values()].map(({ vxlan }) => vxlan?.gbp),
    [true, true],
  );
});

test('two nodes that have each other’s public keys agree on a secret', (t) => {
  const [a, b] = [wireguardKeys(makePrivateKey()), wireguardKeys(makePrivateKey())];
  t.true(isWireguardKey(a.publicKey));
  t.deepEqual(secretOf(a, b.publicKey), secretOf(b, a.publicKey));
});

/** What X25519 makes of one node's private key and the other's public key, each as 32 bytes. */
function secretOf({ privateKey }: { privateKey: string }, publicKey: string): string {
  const own = Buffer.concat([
    Buffer.from('302e020100300506032b656e04220420', 'hex'),
    Buffer.from(privateKey, 'base64'),
  ]);
  const other = Buffer.concat([
    Buffer.from('302a300506032b656e032100', 'hex'),
    Buffer.from(publicKey, 'base64'),
  ]);
  return diffieHellman({
    privateKey: createPrivateKey({ key: own, format: 'der', type: 'pkcs8' }),
    publicKey: createPublicKey({ key: other, format: 'der', type: 'spki' }),
  }).toString('hex');
}

test('a private key has the bits set that the kernel would set', (t) => {
  const { privateKey } = wireguardKeys(Buffer.alloc(32, 255).toString('base64'));
  const bytes = Buffer.from(privateKey, 'base64');
  t.is(bytes[0], 248);
  t.is(bytes[31], 127);
});

test('a node keeps its key in a file for it alone, and does not become somebody else when that is damaged', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'fairlead-key-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'deeper', 'wireguard.key');
  const first = readWireguardKeys(path);
  t.deepEqual(readWireguardKeys(path), first);
  t.is(statSync(path).mode & 0o777, 0o600);
  t.is(readFileSync(path, 'utf8'), `${first.privateKey}\n`);
  writeFileSync(path, 'half a k');
  t.throws(() => readWireguardKeys(path), { message: /not a key of WireGuard/ });
});

test('new private keys are whole and differ', (t) => {
  fc.assert(
    fc.property(fc.constant(0), () => isWireguardKey(makePrivateKey())),
    { numRuns: 50 },
  );
  t.not(makePrivateKey(), makePrivateKey());
});

test('a node that flanneld was on keeps the key that its peers know', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-test-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const [own, flannels] = [join(directory, 'kept', 'wireguard.key'), join(directory, 'wgkey')];
  writeFileSync(flannels, makePrivateKey(), { mode: 0o400 });
  const theirs = readFileSync(flannels, 'utf8');
  t.is(readWireguardKeys(own, flannels).privateKey, theirs);
  rmSync(flannels);
  t.is(readWireguardKeys(own, flannels).privateKey, theirs, 'it is ours from then on');
});
