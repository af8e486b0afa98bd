import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { inNamespace } from '../../cli/cluster/workload-client.ts';
import { until } from '../daemon/etcd-server.ts';
import {
  assertRepairs,
  deviceBreaks,
  removeWireguardPeers,
  roamWireguardPeers,
  routeBreaks,
  wireguardEndpoints,
} from './daemon-breaks.ts';
import { type Agent, inside, Nodes, type Pod } from './daemon-nodes.ts';
import { factOf, missingLink } from './missing.ts';

const DATAGRAM = fileURLToPath(new URL('./daemon-datagram.ts', import.meta.url));
const networks = {
  'IPv4 alone': { Network: '10.244.0.0/16' },
  'IPv4 and IPv6': { Network: '10.244.0.0/16', EnableIPv6: true, IPv6Network: 'fd00:10:244::/48' },
  'IPv6 alone': { EnableIPv4: false, EnableIPv6: true, IPv6Network: 'fd00:10:244::/48' },
};
const config = (backend: object, network: object = { Network: '10.244.0.0/16' }) =>
  JSON.stringify({ ...network, Backend: backend });
const urlOf = (ip: string) => `http://${ip.includes(':') ? `[${ip}]` : ip}:8080/`;

const all = Object.keys(networks) as (keyof typeof networks)[];
const ipip = { Type: 'ipip', missing: missingLink('ipip', 'ip6tnl mode ip6ip6 local ::1') };
const wireguard = { Type: 'wireguard', missing: missingLink('wireguard') };
const psk = Buffer.alloc(32, 7).toString('base64');
/** `whole`: what others break, and an agent that is killed, is looked at as well. */
const tunnels = [
  { ...ipip, options: {}, families: all, whole: 'IPv4 and IPv6' },
  { ...ipip, options: { DirectRouting: true }, families: ['IPv4 and IPv6'] },
  { ...wireguard, options: { PersistentKeepaliveInterval: 25 }, families: all, whole: 'IPv4 and IPv6' },
  { ...wireguard, options: { Mode: 'auto', PSK: psk }, families: ['IPv4 and IPv6', 'IPv6 alone'] },
  { ...wireguard, options: { Mode: 'ipv4' }, families: ['IPv4 and IPv6'] },
  { ...wireguard, options: { Mode: 'ipv6' }, families: ['IPv4 and IPv6'] },
] as const;

for (const { Type, missing, options, families, ...more } of tunnels) {
  for (const of of families) {
    factOf(missing)(
      `pods on two nodes reach each other over ${Type} ${JSON.stringify(options)} with ${of}`,
      async (t) => {
        const nodes = await Nodes.open(t, 2);
        const text = config({ Type, ...options }, networks[of]);
        const [agent] = (await nodes.startAll(2, text)) as [Agent, Agent];
        const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
        for (const [place, host] of b.ips.entries()) {
          await until(`a gets ${host}`, async () => (await a.workload.get(urlOf(host), 5_000)).ok);
          const got = await a.workload.get(urlOf(host));
          t.deepEqual(got.ok && got.answer, { name: 'b', peer: a.ips[place] ?? '' });
          const bulk = await a.workload.send(host, 8081, 1_000_000);
          t.true(bulk.ok, `1 MB to ${host} and back: ${JSON.stringify(bulk)}`);
        }
        t.deepEqual((await agent.status()).problems, []);
        if ('whole' in more && more.whole === of) {
          await assertWhole(t, agent, Type);
          await until('b answers', async () => (await a.workload.get(urlOf(b.ips[0] ?? ''), 5_000)).ok);
          await assertNotFelt(t, nodes, text, a, b);
        }
        await nodes.agents.get(agent.machine.name)?.end('SIGTERM');
        const after = await a.workload.get(urlOf(b.ips[0] ?? ''), 2000);
        t.true(after.ok, 'the device carries packets when the agent has stopped');
      },
    );
  }
}

/** An agent that is killed and started again writes nothing, and an open connection goes on. */
async function assertNotFelt(t: ExecutionContext, nodes: Nodes, text: string, a: Pod, b: Pod): Promise<void> {
  const held = await a.workload.hold(b.ips[0] ?? '', 8081, 10);
  t.true(held.ok, JSON.stringify(held));
  const agent = nodes.agents.get(nodes.machine(0).name) ?? nodes.start(0, text);
  const isWireguard = text.includes('wireguard');
  const roamed = '172.30.0.112';
  if (isWireguard) {
    inside(nodes.machine(1).namespace, 'ip', 'addr', 'add', `${roamed}/24`, 'dev', 'eth0');
    // A packet that is on its way from the old address brings the peer back there.
    await until('packets come from another address', async () => {
      await roamWireguardPeers(agent, roamed);
      const { ok } = await a.workload.get(urlOf(b.ips[0] ?? ''), 5_000);
      return ok && (await wireguardEndpoints(agent)).includes(roamed);
    });
  }
  const before = agent.kernel();
  await agent.end('SIGKILL');
  const again = nodes.start(0, text);
  t.is((await again.ready()).writes, 0);
  t.is(again.kernel(), before);
  if (isWireguard) t.true((await wireguardEndpoints(again)).includes(roamed), 'where a peer is stays known');
  await a.workload.report();
  let back = 0;
  await until('bytes come back', async () => {
    const { failures, byServer } = await a.workload.report();
    t.deepEqual(failures, []);
    back += byServer.held ?? 0;
    return back > 10;
  });
}

async function assertWhole(t: ExecutionContext, agent: Agent, backend: string): Promise<void> {
  const [device = ''] = agent.run('ip', '-o', 'link').match(/fl-(ipip6?|wg6?)(?=[:@])/) ?? [];
  await assertRepairs(t, agent, {
    ...routeBreaks(agent),
    ...deviceBreaks(agent, device),
    ...(backend === 'wireguard' ? { 'peers removed': () => removeWireguardPeers(agent) } : {}),
  });
}

/** Sends one datagram with these bytes from a namespace. */
function sendBytes(namespace: string, host: string, port: number, bytes: Uint8Array): void {
  const script = `
    const socket = require('node:dgram').createSocket(process.argv[1].includes(':') ? 'udp6' : 'udp4');
    socket.send(Buffer.from(process.argv[3], 'hex'), Number(process.argv[2]), process.argv[1], () => socket.close());`;
  const hex = Buffer.from(bytes).toString('hex');
  inside(namespace, process.execPath, '-e', script, host, String(port), hex);
}

/** An IPv4 packet with a UDP datagram (no checksum) of four bytes. */
function packet(from: string, to: string): Buffer {
  const bytes = Buffer.alloc(32);
  bytes.set([0x45, 0, 0, 32, 0, 1, 0x40, 0, 64, 17, 0, 0]);
  bytes.set(from.split('.').map(Number), 12);
  bytes.set(to.split('.').map(Number), 16);
  bytes.writeUInt16BE(9, 20);
  bytes.writeUInt16BE(9, 22);
  bytes.writeUInt16BE(12, 24);
  let sum = 0;
  for (let at = 0; at < 20; at += 2) sum += bytes.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  bytes.writeUInt16BE(~sum & 0xffff, 10);
  return bytes;
}

function vxlanPacket(vni: number, mac: string, inner: Buffer): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt8(8, 0);
  header.writeUInt32BE(vni << 8, 4);
  const ethernet = Buffer.from(`${mac.replaceAll(':', '')}0200000000ee0800`, 'hex');
  return Buffer.concat([header, ethernet, inner]);
}

/** Packets that have come out of a tunnel's device. */
function received(agent: Agent, device: string): number {
  const [shown] = JSON.parse(agent.run('ip', '-s', '-j', 'link', 'show', 'dev', device)) as {
    stats64: { rx: { packets: number } };
  }[];
  return shown?.stats64.rx.packets ?? Number.NaN;
}

test.serial('a stranger’s VXLAN packet does not get in, a peer’s does', async (t) => {
  const nodes = await Nodes.open(t, 2);
  const [agent] = (await nodes.startAll(2, config({ Type: 'vxlan' }))) as [Agent, Agent];
  const [shown] = JSON.parse(agent.run('ip', '-j', 'link', 'show', 'dev', 'fl.1')) as { address: string }[];
  const bytes = vxlanPacket(1, shown?.address ?? '', packet('10.244.77.1', '10.244.77.2'));
  const [host = ''] = agent.machine.addresses;
  const stranger = nodes.lab.outside.namespace;
  const peer = nodes.machine(1).namespace;

  const before = received(agent, 'fl.1');
  for (let n = 0; n < 5; n += 1) sendBytes(stranger, host, 8472, bytes);
  t.is(received(agent, 'fl.1'), before, 'the stranger');
  sendBytes(peer, host, 8472, bytes);
  await until('the peer', () => received(agent, 'fl.1') === before + 1);

  await agent.end('SIGKILL');
  sendBytes(stranger, host, 8472, bytes);
  t.is(received(agent, 'fl.1'), before + 1, 'nor while no agent runs');
  agent.run('/usr/sbin/nft', 'delete', 'table', 'inet', 'fairlead');
  sendBytes(stranger, host, 8472, bytes);
  await until('without the set', () => received(agent, 'fl.1') === before + 2);
});

test.serial(
  'udp takes datagrams with nothing but a packet in them, from peers only, and sends such',
  async (t) => {
    const nodes = await Nodes.open(t, 2);
    const [agent, other] = (await nodes.startAll(2, config({ Type: 'udp' }))) as [Agent, Agent];
    const pod = await nodes.pod(0, 'a');
    const [host = ''] = agent.machine.addresses;
    const bytes = packet('10.244.77.1', pod.ips[0] ?? '');
    const before = received(agent, 'fl-udp');
    for (let n = 0; n < 5; n += 1) sendBytes(nodes.lab.outside.namespace, host, 8285, bytes);
    t.is(received(agent, 'fl-udp'), before, 'strangers');
    sendBytes(nodes.machine(1).namespace, host, 8285, Buffer.from('this is no packet'));
    sendBytes(nodes.machine(1).namespace, host, 8285, bytes);
    await until('the peer', () => received(agent, 'fl-udp') === before + 1);

    // In the place of the other node's agent, a socket.
    await other.end('SIGKILL');
    const script = `
    const socket = require('node:dgram').createSocket('udp4');
    socket.bind(8285, () => console.log('bound'));
    socket.on('message', (bytes) => { console.log(bytes.toString('hex')); process.exit(); });`;
    const [command, args] = inNamespace(other.machine.namespace, [process.execPath, '-e', script]);
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    t.teardown(() => child.kill('SIGKILL'));
    let said = '';
    child.stdout.on('data', (part: Buffer) => {
      said += part;
    });
    await until('the socket is bound', () => said.includes('bound'));
    const exit = once(child, 'exit');
    const target = `${(other.file('subnet.env').match(/FLANNEL_SUBNET=(\d+\.\d+\.\d+)/) ?? [])[1]}.99`;
    const [program, more] = inNamespace(pod.namespace, [process.execPath, DATAGRAM, target, '9999', '100']);
    const sender = spawn(program, more, { stdio: 'ignore' });
    t.teardown(() => sender.kill('SIGKILL'));
    await exit;
    const [, hex = ''] = said.split('\n');
    const got = Buffer.from(hex, 'hex');
    t.is(got.length, 20 + 8 + 100);
    t.is(got[0], 0x45);
    t.is([...got.subarray(12, 16)].join('.'), pod.ips[0] ?? '');
    t.is([...got.subarray(16, 20)].join('.'), target);
    t.is(got.readUInt16BE(22), 9999);
    t.is(checksum(got), 0, 'the checksum of the datagram is complete');
  },
);

/** Of UDP in IPv4 with its pseudo header: 0 when it is right. */
function checksum(bytes: Buffer): number {
  const pseudo = Buffer.concat([bytes.subarray(12, 20), Buffer.from([0, 17, 0, bytes.length - 20])]);
  const all = Buffer.concat([pseudo, bytes.subarray(20)]);
  let sum = 0;
  for (let at = 0; at < all.length; at += 2) sum += all.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

test.serial('over udp packets cross again when the device, or the agent, is back', async (t) => {
  const nodes = await Nodes.open(t, 2);
  const text = config({ Type: 'udp' }, networks['IPv4 and IPv6']);
  const [agent] = (await nodes.startAll(2, text)) as [Agent, Agent];
  const [a, b] = [await nodes.pod(0, 'a'), await nodes.pod(1, 'b')];
  const answers = async () => {
    const got = await Promise.all(b.ips.map((host) => a.workload.get(urlOf(host), 2_000)));
    return got.every(({ ok }) => ok);
  };
  await until('packets cross', answers);
  agent.run('ip', 'link', 'del', 'fl-udp');
  await until('the device is back', answers);
  const routes = agent.run('ip', 'route', 'show', 'dev', 'fl-udp');
  await agent.end('SIGKILL');
  t.regex(agent.run('ip', 'link', 'show', 'dev', 'fl-udp'), /fl-udp/);
  t.is(
    agent.run('ip', 'route', 'show', 'dev', 'fl-udp').replaceAll('linkdown ', ''),
    routes,
    'no packet goes astray',
  );
  const again = nodes.start(0, text);
  await again.ready();
  await until('packets cross again', answers);
});

test.serial('a node that changes its backend has nothing of the old one left', async (t) => {
  const nodes = await Nodes.open(t, 1);
  let [agent] = (await nodes.startAll(1, config({ Type: 'udp' }))) as [Agent];
  const devices = () => agent.run('ip', '-o', 'link').match(/fl-udp|fl\.1/g) ?? [];
  for (const [type, own] of [
    ['vxlan', ['fl.1']],
    ['udp', ['fl-udp']],
    ['alloc', []],
  ] as const) {
    await agent.end('SIGTERM');
    agent = nodes.start(0, config({ Type: type }));
    await agent.ready();
    t.deepEqual([...new Set(devices())], own, type);
    t.deepEqual((await agent.status()).problems, []);
  }
});
