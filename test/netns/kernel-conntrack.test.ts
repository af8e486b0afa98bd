import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import {
  deleteFlows,
  type Flow,
  flowStatus,
  openConntrackSocket,
  readFlows,
} from '../../kernel/conntrack.ts';
import { getFlows } from '../../kernel/netlink/conntrack/flow.ts';
import type { NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { NSENTER, openNftSpace } from './nftables-space.ts';

/*
 * One machine and its loopback. A table of nftables makes the kernel look at connections, and sends port 9999 to 9001:
 *
 *   UDP 127.0.0.1:5001 → 127.0.0.1:9001, ::1:5001 → ::1:9001, 127.0.0.1:5002 → 127.0.0.1:9999 → :9001
 */
const run = promisify(execFile);
const UDP = 17;
const ruleset = `
  table inet track {
    chain c { type filter hook input priority 0; ct state new accept; }
    chain n { type nat hook output priority -100; udp dport 9999 dnat ip to 127.0.0.1:9001; }
  }`;
const talk = `
  const dgram = require('node:dgram');
  const send = (type, from, port, host) => new Promise((resolve) => {
    const socket = dgram.createSocket(type);
    socket.bind(from, () => socket.send('x', port, host, () => socket.close(resolve)));
  });
  (async () => {
    await send('udp4', 5001, 9001, '127.0.0.1');
    await send('udp6', 5001, 9001, '::1');
    await send('udp4', 5002, 9999, '127.0.0.1');
  })();`;

interface Tracked {
  readonly socket: NetlinkSocket;
  talk(): Promise<void>;
}

async function openTracked(t: ExecutionContext): Promise<Tracked> {
  const { path, fd, load } = openNftSpace(t);
  const socket = openConntrackSocket({ namespaceFd: fd });
  t.teardown(() => socket[Symbol.dispose]());
  const inside = (...words: string[]) => run(NSENTER, [`--net=${path}`, ...words]);
  await inside('/usr/sbin/ip', 'link', 'set', 'lo', 'up');
  load(ruleset);
  return {
    socket,
    async talk() {
      await inside(process.execPath, '-e', talk);
    },
  };
}

function ends({ original, reply }: Flow): string {
  return `${original.src}:${original.sport} ${original.dst}:${original.dport} < ${reply.src}:${reply.sport}`;
}

function described(flows: readonly Flow[]): string[] {
  return flows.map(ends).toSorted();
}

const plain4 = '127.0.0.1:5001 127.0.0.1:9001 < 127.0.0.1:9001';
const plain6 = '::1:5001 ::1:9001 < ::1:9001';
const translated = '127.0.0.1:5002 127.0.0.1:9999 < 127.0.0.1:9001';

test('flows of both families are found by protocol, ports and addresses of either direction', async (t) => {
  const { socket, talk } = await openTracked(t);
  t.deepEqual(await readFlows(socket, [{}]), []);
  await talk();
  const found = async (...filters: Parameters<typeof readFlows>[1]) =>
    described(await readFlows(socket, filters));
  t.deepEqual(await found({ protocol: UDP }), [translated, plain4, plain6].toSorted());
  t.deepEqual(await found({ family: 6 }), [plain6]);
  t.deepEqual(await found({ protocol: 6 }), []);
  t.deepEqual(await found({ protocol: UDP, original: { dport: 9999 } }), [translated]);
  t.deepEqual(await found({ family: 4, reply: { src: '127.0.0.1' as never, sport: 9001 } }), [
    plain4,
    translated,
  ]);
  t.deepEqual(await found({ family: 6, protocol: UDP, original: { dst: '::1' as never } }), [plain6]);
  t.deepEqual(await found({ original: { dst: '127.0.0.9' as never } }), []);
  t.deepEqual(await found(), []);
  const [flow] = await readFlows(socket, [{ protocol: UDP, original: { dport: 9999 } }]);
  t.true(((flow?.status ?? 0) & flowStatus.dnat) !== 0);
});

test('the kernel itself picks the flows: others are not even sent', async (t) => {
  const { socket, talk } = await openTracked(t);
  await talk();
  const sent = (filter: Parameters<typeof getFlows>[0]) => socket.dump(getFlows(filter));
  t.is((await sent({ family: 4, protocol: UDP })).length, 2);
  t.is((await sent({ family: 4, protocol: UDP, original: { dport: 9999 } })).length, 1);
  t.is((await sent({ family: 4, protocol: UDP, reply: { sport: 9001 } })).length, 2);
  t.is((await sent({ family: 6, protocol: UDP, reply: { sport: 9002 } })).length, 0);
  if (process.env.REWRITE === '1') {
    const payloads = (await sent({})).map(({ payload }) => Buffer.from(payload).toString('hex'));
    const path = join(import.meta.dirname, '../golden/netlink/conntrack.json');
    writeFileSync(path, `${JSON.stringify({ kernel: release(), payloads, decoded: [] }, undefined, 2)}\n`);
  }
});

test('only the flows that are meant are forgotten, and forgetting them again is no failure', async (t) => {
  const { socket, talk } = await openTracked(t);
  await talk();
  const stale = [{ family: 4, protocol: UDP, original: { dport: 9999 } }] as const;
  t.deepEqual(await deleteFlows(socket, stale, () => false), []);
  t.deepEqual(described(await deleteFlows(socket, stale)), [translated]);
  t.deepEqual(described(await readFlows(socket, [{}])), [plain4, plain6]);
  t.deepEqual(await deleteFlows(socket, stale), []);
  t.is((await deleteFlows(socket, [{ protocol: UDP }])).length, 2);
  t.deepEqual(await readFlows(socket, [{}]), []);
});

test('many filters are one question for each family and protocol', async (t) => {
  const { socket, talk } = await openTracked(t);
  await talk();
  const filters = Array.from({ length: 500 }, (_, index) => ({
    family: 4 as const,
    protocol: UDP,
    original: { dport: 9500 + index },
  }));
  t.deepEqual(described(await deleteFlows(socket, filters)), [translated]);
});
