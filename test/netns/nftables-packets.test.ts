import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import test from 'ava';
import type { Family } from '../../core/address.ts';
import {
  dnatFromMap,
  match,
  matchAny,
  rejectTcpReset,
  rule,
  setMetaFromMap,
  vmap,
} from '../../kernel/netlink/nftables/expressions.ts';
import * as fields from '../../kernel/netlink/nftables/fields.ts';
import { hexU32, nftKey } from '../../kernel/netlink/nftables/keys.ts';
import {
  hookPriorities,
  type NftElement,
  type NftLayout,
  nftElementKey,
} from '../../kernel/netlink/nftables/spec.ts';
import { NftTable } from '../../kernel/nftables.ts';
import { type NftSpace, NSENTER, openNftSpace, settle } from './nftables-space.ts';

/*
 * One machine, no wire: a client connects to a service's address, and the output hook sends it to one of two servers
 * on the same machine. The service's number and its count of endpoints travel in the packet's priority:
 *
 *   connect 10.96.0.1:80 → services: priority = number << 15 | slots → vmap: slots-2
 *     → endpoints[number << 15 . random of 2] → 127.0.0.1:8001 or :8002
 */
const run = promisify(execFile);
const NUMBER = 1 << 15;
const CONNECTIONS = 32;
const places = {
  4: { service: '10.96.0.1', server: '127.0.0.1' },
  6: { service: 'fd00:96::1', server: '::1' },
} as const;

function proxyLayout(family: Family): NftLayout {
  const target = family === 4 ? fields.ipDaddr : fields.ip6Daddr;
  const frontend = [target, fields.metaL4proto, fields.thDport];
  const slot = [fields.masked(fields.metaPriority, 0xffff8000), fields.numgenRandom(2)];
  return {
    family: family === 4 ? 'ip' : 'ip6',
    table: 'fairlead-packets',
    chains: [
      {
        name: 'output',
        hook: { type: 'nat', hook: 'output', priority: hookPriorities.dstnat },
        rules: [
          rule('service', setMetaFromMap('priority', frontend, 'services')),
          rule('slots', vmap([fields.masked(fields.metaPriority, 0x7fff)], 'slots')),
        ],
      },
      {
        name: 'slots-2',
        rules: [
          rule('of two', matchAny(fields.metaL4proto, [6, 17]), dnatFromMap(family, slot, 'endpoints')),
        ],
      },
      {
        name: 'filter',
        hook: { type: 'filter', hook: 'output', priority: hookPriorities.filter },
        rules: [
          rule(
            'closed',
            match(fields.metaL4proto, '==', 6),
            match(fields.thDport, '==', 81),
            rejectTcpReset(),
          ),
        ],
      },
    ],
    sets: [
      { name: 'services', key: frontend, data: [fields.metaPriority], size: 16 },
      { name: 'slots', key: [fields.metaPriority], data: 'verdict' },
      {
        name: 'endpoints',
        key: [fields.metaPriority, fields.numgenRandom(65536)],
        data: [target, fields.thDport],
        size: 16,
      },
    ],
  };
}

function rowsOf(family: Family, ports: readonly number[]): Map<string, NftElement> {
  const { service, server } = places[family];
  const target = family === 4 ? fields.ipDaddr : fields.ip6Daddr;
  const rows: NftElement[] = [
    {
      set: 'services',
      key: nftKey([target, fields.metaL4proto, fields.thDport], service, 6, 80),
      data: hexU32(NUMBER | 2),
    },
    { set: 'slots', key: hexU32(2), data: { verdict: 'goto', chain: 'slots-2' } },
    ...ports.map((port, slot) => ({
      set: 'endpoints',
      key: hexU32(NUMBER) + hexU32(slot),
      data: nftKey([target, fields.thDport], server, port),
    })),
  ];
  return new Map(rows.map((row) => [nftElementKey(row), row]));
}

/** Servers on ports 8001 to 8003 that say their port, and a client: what it heard how often, or its error. */
const program = `
  const net = require('node:net');
  const [service, port, count] = process.argv.slice(1);
  const servers = [8001, 8002, 8003].map((p) => net.createServer((s) => s.end(String(p))).listen(p, '::'));
  const ask = () => new Promise((resolve) => {
    let text = '';
    net.connect(Number(port), service)
      .on('data', (data) => { text += data; }).on('end', () => resolve(text)).on('error', (e) => resolve(e.code));
  });
  (async () => {
    const heard = {};
    for (let i = 0; i < count; i++) { const answer = await ask(); heard[answer] = (heard[answer] ?? 0) + 1; }
    console.log(JSON.stringify(heard));
    process.exit();
  })();`;

async function ask({ path }: NftSpace, address: string, port: number, count: number): Promise<object> {
  const { stdout } = await run(NSENTER, [
    `--net=${path}`,
    process.execPath,
    '-e',
    program,
    address,
    `${port}`,
    `${count}`,
  ]);
  return JSON.parse(stdout);
}

for (const family of [4, 6] as const) {
  test(`IPv${family} connections to a service reach each of its endpoints and nothing else`, async (t) => {
    const space = openNftSpace(t);
    const { service } = places[family];
    for (const words of ['link set lo up', `address add ${service} dev lo`]) {
      await run(NSENTER, [`--net=${space.path}`, '/usr/sbin/ip', ...words.split(' ')]);
    }
    const table = new NftTable({ socket: space.socket, layout: proxyLayout(family) });
    await settle(t, table, rowsOf(family, [8001, 8002]));
    const heard = await ask(space, service, 80, CONNECTIONS);
    t.deepEqual(Object.keys(heard), ['8001', '8002'], 'each is left out of 32 once in two billion runs');

    await settle(t, table, rowsOf(family, [8003, 8003]));
    t.deepEqual(await ask(space, service, 80, 8), { 8003: 8 });
    t.deepEqual(await ask(space, service, 81, 1), { ECONNREFUSED: 1 });
  });
}
