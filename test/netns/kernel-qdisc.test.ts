import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import test, { type ExecutionContext } from 'ava';
import type { Mac } from '../../core/address.ts';
import { type QdiscRow, QdiscTable, qdiscKey } from '../../kernel/qdisc.ts';
import { make, openSpace, type Shown, type Space, settle } from './kernel-space.ts';

//   node namespace                                   pod namespace
//   ┌───────────────────────────────────────┐       ┌──────────────┐
//   │ host ─ tbf (transmit) ────────────────┼───────┼─► eth0       │
//   │ host ◄ ingress, u32 ──────────────────┼───────┼── eth0       │
//   │          └─► bwp0 ─ tbf (receive) ─► on as if it came by host │
//   └───────────────────────────────────────┘       └──────────────┘

/** 8 Mbit/s. */
const slow = { rateBytes: 1_000_000, burstBytes: 65_536 };
const transmitOnly: QdiscRow = { device: 'host', transmit: slow };
const receiveOnly: QdiscRow = {
  device: 'host',
  receive: { ...slow, ifb: 'bwp0', mac: '02:00:00:00:00:b0' as Mac, mtuBytes: 1450 },
};
const both: QdiscRow = { ...transmitOnly, ...receiveOnly };

function openPair(t: ExecutionContext): { node: Space; pod: Space } {
  const [node, pod] = [openSpace(t), openSpace(t)];
  node.ip(`
    link add host type veth peer name eth0 netns ${pod.name}
    address add 192.0.2.1/24 dev host
    link set host up`);
  pod.ip('address add 192.0.2.2/24 dev eth0\nlink set eth0 up');
  return { node, pod };
}

function tc({ name }: Space, line: string): string {
  return execFileSync('/usr/sbin/tc', ['-n', name, ...line.split(' ')], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

function showQdiscs(space: Space): Shown[] {
  const shown = JSON.parse(tc(space, '-j qdisc show')) as Shown[];
  return shown.filter(({ kind }) => kind !== 'noqueue');
}

function filtersOf(space: Space, device = 'host'): string {
  return tc(space, `filter show dev ${device} parent ffff:`);
}

function linksOf({ show }: Space): unknown[] {
  return show('link show').map(({ ifname }) => ifname);
}

test('limits of both directions are made as tc shows them, and removed without a trace', async (t) => {
  const { node } = openPair(t);
  const table = new QdiscTable(node);
  t.is(await settle(t, table, qdiscKey, [both]), 1);
  const shown = showQdiscs(node);
  for (const device of ['host', 'bwp0']) {
    const tbf = shown.find(({ dev, kind }) => dev === device && kind === 'tbf');
    t.like(tbf, { handle: 'fa1:', root: true, options: { rate: slow.rateBytes } });
  }
  t.like(
    shown.find(({ kind }) => kind === 'ingress'),
    { dev: 'host', handle: 'ffff:' },
  );
  t.regex(filtersOf(node), /match 00000000\/00000000 at 0[\s\S]*Egress Redirect to device bwp0/);
  const [ifb] = node.show('link show dev bwp0');
  t.like(ifb, { ifalias: 'fairlead bandwidth host', address: '02:00:00:00:00:b0', mtu: 1450 });
  t.like(ifb, { group: 'default', inet6_addr_gen_mode: 'none', num_tx_queues: 1 });
  t.regex(`${ifb?.flags}`, /\bUP\b/);
  t.is(await settle(t, table, qdiscKey, []), 1);
  t.deepEqual(showQdiscs(node), []);
  t.deepEqual(linksOf(node), ['lo', 'host']);
});

const shapes: readonly (readonly [what: string, row: QdiscRow])[] = [
  ['1 byte a second', { device: 'host', transmit: { rateBytes: 1, burstBytes: 1 } }],
  ['a bucket of more than 274 s', { device: 'host', transmit: { rateBytes: 1000, burstBytes: 268_435_455 } }],
  ['the largest bucket', { device: 'host', transmit: { rateBytes: 125_000, burstBytes: 2 ** 32 - 1 } }],
  ['1 Gbit/s', { device: 'host', transmit: { rateBytes: 125_000_000, burstBytes: 268_435_455 } }],
  ['100 Gbit/s', { device: 'host', transmit: { rateBytes: 12_500_000_000, burstBytes: 12_345_678 } }],
  ['the largest 32-bit rate', { device: 'host', transmit: { rateBytes: 2 ** 32 - 1, burstBytes: 1 << 20 } }],
  ['the smallest 64-bit rate', { device: 'host', transmit: { rateBytes: 2 ** 32, burstBytes: 1 << 20 } }],
  ['1 Pbit/s', { device: 'host', transmit: { rateBytes: 125e12, burstBytes: 2 ** 32 - 1 } }],
];

for (const [what, row] of shapes) {
  test(`${what}: the kernel reads back what was set`, async (t) => {
    const { node } = openPair(t);
    t.is(await settle(t, new QdiscTable(node), qdiscKey, [row]), 1);
  });
}

test('a limit is changed in place, and each direction comes and goes alone', async (t) => {
  const { node } = openPair(t);
  const table = new QdiscTable(node);
  const faster: QdiscRow = { device: 'host', transmit: { rateBytes: 5e9, burstBytes: 1 << 20 } };
  const otherIfb: QdiscRow = { device: 'host', receive: { ...slow, ifb: 'bwp1' } };
  for (const row of [transmitOnly, both, faster, receiveOnly, otherIfb, both, transmitOnly, otherIfb]) {
    t.is(await settle(t, table, qdiscKey, [row]), 1);
  }
  t.deepEqual(linksOf(node), ['lo', 'host', 'bwp1']);
});

const damages: readonly (readonly [what: string, damage: (node: Space) => void])[] = [
  ['the root qdisc is removed', (node) => void tc(node, 'qdisc del dev host root')],
  ['the filter is removed', (node) => void tc(node, 'filter del dev host parent ffff: prio 1')],
  ['the ingress qdisc is removed', (node) => void tc(node, 'qdisc del dev host ingress')],
  ['the ifb is removed', (node) => node.ip('link del bwp0')],
  ["the ifb's qdisc is removed", (node) => void tc(node, 'qdisc del dev bwp0 root')],
  [
    'a rate is changed',
    (node) => void tc(node, 'qdisc change dev bwp0 root handle fa1: tbf rate 1mbit burst 9k latency 1ms'),
  ],
];

for (const [what, damage] of damages) {
  test(`a limit is made again after ${what}`, async (t) => {
    const { node } = openPair(t);
    const table = new QdiscTable(node);
    await settle(t, table, qdiscKey, [both]);
    damage(node);
    t.is(await settle(t, table, qdiscKey, [both]), 1);
    damage(node);
    await settle(t, table, qdiscKey, []);
    t.deepEqual(linksOf(node), ['lo', 'host']);
    // An ingress qdisc without our filter may be somebody else's by now.
    t.false(showQdiscs(node).some(({ kind }) => kind === 'tbf'));
  });
}

test('removing is no failure when it is gone, when the device is gone and when the ifb is', async (t) => {
  const { node } = openPair(t);
  const table = new QdiscTable(node);
  const removal = [{ kind: 'delete', key: 'host', actual: both } as const];
  t.deepEqual(await table.write(removal), []);
  await settle(t, table, qdiscKey, [both]);
  node.ip('link del host');
  t.deepEqual([...(await table.read()).keys()], ['host']);
  t.deepEqual(await table.write(removal), []);
  t.deepEqual(linksOf(node), ['lo']);
  t.deepEqual(await table.write(removal), []);
});

test('a root qdisc of somebody else is neither replaced nor removed', async (t) => {
  const { node } = openPair(t);
  const table = new QdiscTable(node);
  tc(node, 'qdisc add dev host root handle 1: tbf rate 1mbit burst 9k latency 1ms');
  const before = showQdiscs(node);
  t.deepEqual(await make(table, qdiscKey, [both]), { writes: 1, failures: ['create host: EEXIST'] });
  t.is((await table.read()).size, 0);
  t.deepEqual(await table.write([{ kind: 'delete', key: 'host', actual: both }]), []);
  t.deepEqual(showQdiscs(node), before);
  t.deepEqual(linksOf(node), ['lo', 'host']);
});

test("filters and an ifb of somebody else's are neither replaced nor removed", async (t) => {
  const { node } = openPair(t);
  const table = new QdiscTable(node);
  node.ip('link add bwp0 type ifb\nlink add other type ifb');
  tc(node, 'qdisc add dev host ingress');
  tc(
    node,
    'filter add dev host parent ffff: prio 7 u32 match u32 0 0 action mirred egress redirect dev other',
  );
  const before = filtersOf(node);
  for (const ifb of ['bwp0', 'bwp1']) {
    const row: QdiscRow = { device: 'host', receive: { ...slow, ifb } };
    t.deepEqual((await make(table, qdiscKey, [row])).failures, ['create host: EEXIST']);
    t.deepEqual(await table.write([{ kind: 'delete', key: 'host', actual: row }]), []);
  }
  t.is((await table.read()).size, 0);
  t.is(filtersOf(node), before);
  t.deepEqual(linksOf(node), ['lo', 'host', 'bwp0', 'other']);
});

test('a filter that somebody put beside ours stays, with its qdisc', async (t) => {
  const { node } = openPair(t);
  const table = new QdiscTable(node);
  await settle(t, table, qdiscKey, [both]);
  node.ip('link add other type ifb');
  tc(
    node,
    'filter add dev host parent ffff: prio 7 u32 match u32 0 0 action mirred egress redirect dev other',
  );
  await settle(t, table, qdiscKey, []);
  t.regex(filtersOf(node), /device other/);
  t.notRegex(filtersOf(node), /pref 1 /);
});

test('a device that is not there is a failure that names it, and others get their limits', async (t) => {
  const { node } = openPair(t);
  const { failures } = await make(new QdiscTable(node), qdiscKey, [
    { ...both, device: 'gone' },
    transmitOnly,
  ]);
  t.deepEqual(failures, ['create gone: ENODEV']);
  t.deepEqual(linksOf(node), ['lo', 'host']);
  t.is(showQdiscs(node).length, 1);
});

const RECEIVE_MS = 1500;
const receiver = `
  const server = require('node:net').createServer((socket) => {
    let bytes = 0;
    const beganMs = performance.now();
    socket.on('data', (data) => { bytes += data.length; }).on('error', () => {});
    setTimeout(() => { console.log(bytes, performance.now() - beganMs); process.exit(0); }, ${RECEIVE_MS});
  }).listen(5000, '0.0.0.0', () => console.log('listening'));`;
const sender = `
  const socket = require('node:net').connect(5000, process.argv[1]);
  const data = Buffer.alloc(1 << 16);
  const send = () => { while (socket.write(data)); };
  socket.on('connect', send).on('drain', send).on('error', () => process.exit(0));`;

function node(t: ExecutionContext, { path }: Space, program: string, ...args: string[]): ChildProcess {
  const child = spawn('/usr/bin/nsenter', [`--net=${path}`, process.execPath, '-e', program, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  return child;
}

interface Transfer {
  readonly bytes: number;
  readonly ms: number;
}

/** What one TCP connection carries in about {@link RECEIVE_MS}. */
async function transfer(t: ExecutionContext, from: Space, to: Space, address: string): Promise<Transfer> {
  const target = node(t, to, receiver);
  if (target.stdout === null) throw new Error('no pipe');
  const [first] = (await once(target.stdout, 'data')) as [Buffer];
  node(t, from, sender, address);
  const said = `${first}${await text(target.stdout)}`.trim().split('\n').at(-1) ?? '';
  const [bytes = 0, ms = 0] = said.split(' ').map(Number);
  return { bytes, ms };
}

/** From a fifth of the rate up to what it allows, the bucket, and half as much again. */
function assertLimited(t: ExecutionContext, { bytes, ms }: Transfer): void {
  const allowed = (slow.rateBytes * ms) / 1000 + slow.burstBytes;
  t.true(bytes > allowed / 5 && bytes < allowed * 1.5, `${bytes} bytes, ${allowed} allowed`);
}

test.serial('TCP to the container goes no faster than the limit', async (t) => {
  const { node, pod } = openPair(t);
  await settle(t, new QdiscTable(node), qdiscKey, [transmitOnly]);
  assertLimited(t, await transfer(t, node, pod, '192.0.2.2'));
});

test.serial('TCP from the container goes no faster than the limit', async (t) => {
  const { node, pod } = openPair(t);
  await settle(t, new QdiscTable(node), qdiscKey, [receiveOnly]);
  assertLimited(t, await transfer(t, pod, node, '192.0.2.1'));
});

test.serial('the other direction is not limited, and neither is any after removal', async (t) => {
  const { node, pod } = openPair(t);
  const table = new QdiscTable(node);
  const many = (slow.rateBytes * RECEIVE_MS * 4) / 1000;
  await settle(t, table, qdiscKey, [transmitOnly]);
  t.true((await transfer(t, pod, node, '192.0.2.1')).bytes > many);
  await settle(t, table, qdiscKey, [receiveOnly]);
  t.true((await transfer(t, node, pod, '192.0.2.2')).bytes > many);
  await settle(t, table, qdiscKey, []);
  t.true((await transfer(t, pod, node, '192.0.2.1')).bytes > many);
});
