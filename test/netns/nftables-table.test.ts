import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { reconcile } from '../../core/reconcile.ts';
import { layer } from '../../core/rows.ts';
import type { KernelError } from '../../kernel/errors.ts';
import { openLane } from '../../kernel/lane.ts';
import { drop, inSet, rule, setMetaFromMap, vmap } from '../../kernel/netlink/nftables/expressions.ts';
import { ipDaddr, ipSaddr, masked, metaMark } from '../../kernel/netlink/nftables/fields.ts';
import { hexU32, nftKey, nftRange, writeHex } from '../../kernel/netlink/nftables/keys.ts';
import {
  hookPriorities,
  type NftElement,
  type NftLayout,
  nftElementKey,
} from '../../kernel/netlink/nftables/spec.ts';
import { LAYOUT_MISSING, NftTable, openNftSocket, readGeneration } from '../../kernel/nftables.ts';
import { largeLayout, largeRows } from './nftables-killed.ts';
import { NSENTER, openNftSpace, settle } from './nftables-space.ts';

const layout: NftLayout = {
  family: 'ip',
  table: 'fairlead-test',
  chains: [
    {
      name: 'forward',
      hook: { type: 'filter', hook: 'forward', priority: hookPriorities.filter },
      rules: [
        rule('mark', setMetaFromMap('mark', [ipDaddr], 'marks')),
        rule('where to', vmap([masked(metaMark, 0xff)], 'ways')),
        rule('blocked', inSet([ipSaddr], 'networks'), drop()),
      ],
    },
    { name: 'way', rules: [rule('nowhere', drop())] },
  ],
  sets: [
    { name: 'marks', key: [ipDaddr], data: [metaMark], size: 200_000 },
    { name: 'ways', key: [metaMark], data: 'verdict', size: 4 },
    { name: 'networks', key: [ipSaddr], interval: true },
    { name: 'seen', key: [ipSaddr], size: 16, dynamic: true, timeoutMs: 60_000 },
  ],
};

const mark = (host: number, value: number): NftElement => ({
  set: 'marks',
  key: nftKey([ipDaddr], `10.${host >> 16}.${(host >> 8) & 255}.${host & 255}`),
  data: hexU32(value),
});
const network = (cidr: string): NftElement => ({
  set: 'networks',
  ...nftRange(cidr as Parameters<typeof nftRange>[0]),
});
const way = (value: number): NftElement => ({
  set: 'ways',
  key: hexU32(value),
  data: { verdict: 'goto', chain: 'way' },
});
const byKey = (...rows: readonly NftElement[]) => new Map(rows.map((row) => [nftElementKey(row), row]));

const sorted = (rows: ReadonlyMap<string, NftElement>) =>
  [...rows.values()].map((row) => JSON.stringify(row)).toSorted();

const some = byKey(mark(1, 1), mark(2, 2), way(1), network('10.1.0.0/16'));
const damaged = new Map([[LAYOUT_MISSING, { set: '', key: '' }]]);

test('a table is made in one transaction, even when no element is wanted', async (t) => {
  const { socket, nft } = openNftSpace(t);
  const table = new NftTable({ socket, layout });
  const before = await readGeneration(socket);
  t.deepEqual(await table.read(), damaged);
  t.is(await settle(t, table, new Map()), 1);
  t.is(await readGeneration(socket), before + 1);
  t.regex(nft('list ruleset'), /table ip fairlead-test/);
  t.is(await settle(t, table, new Map()), 0);
});

test('any rows become any others, in one transaction each', async (t) => {
  const { socket } = openNftSpace(t);
  const table = new NftTable({ socket, layout });
  const states = [
    some,
    byKey(mark(1, 7), mark(3, 3), way(2), network('10.0.0.0/8')),
    byKey(
      network('10.1.2.0/24'),
      network('10.1.3.0/24'),
      network('0.0.0.0/8'),
      network('255.255.255.255/32'),
    ),
    new Map(),
    some,
  ];
  await settle(t, table, new Map());
  for (const rows of states) {
    const before = await readGeneration(socket);
    t.true((await settle(t, table, rows)) > 0);
    t.is(await readGeneration(socket), before + 1);
    t.deepEqual(sorted(await table.read()), sorted(rows));
    t.is(await settle(t, table, rows), 0);
  }
});

const damages = {
  'a chain flushed': ['flush chain ip fairlead-test forward'],
  'a rule put in': ['insert rule ip fairlead-test forward ip saddr 1.2.3.4 accept'],
  'a rule edited': [
    'flush chain ip fairlead-test way',
    'add rule ip fairlead-test way accept comment "nowhere"',
  ],
  'a set deleted': ['delete set ip fairlead-test seen'],
  'a set made otherwise': [
    'delete set ip fairlead-test seen',
    'add set ip fairlead-test seen { type inet_service; }',
  ],
  'a policy changed': ['chain ip fairlead-test forward { policy drop; }'],
  'the table switched off': ['add table ip fairlead-test { flags dormant; }'],
  'the table deleted': ['delete table ip fairlead-test'],
  'everything flushed': ['flush ruleset'],
};

for (const [what, commands] of Object.entries(damages)) {
  test(`${what} by somebody else is seen and repaired`, async (t) => {
    const { socket, nft, load } = openNftSpace(t);
    const table = new NftTable({ socket, layout });
    await settle(t, table, some);
    const listing = nft('list ruleset');
    load(commands.join('\n'));
    t.deepEqual(await table.read(), damaged);
    t.true((await settle(t, table, some)) > 0);
    t.is(nft('list ruleset'), listing);
  });
}

test('elements changed by somebody else are repaired one by one', async (t) => {
  const { socket, nft, load } = openNftSpace(t);
  const table = new NftTable({ socket, layout });
  await settle(t, table, some);
  const listing = nft('list ruleset');
  load(`delete element ip fairlead-test marks { 10.0.0.1 }
    delete element ip fairlead-test marks { 10.0.0.2 }
    add element ip fairlead-test marks { 10.0.0.2 : 99, 10.0.0.3 : 3 }`);
  t.is(await settle(t, table, some), 3);
  t.is(nft('list ruleset'), listing);
});

test('a change that meets another state than it expects makes the table anew', async (t) => {
  const { socket, nft } = openNftSpace(t);
  const refused: KernelError[] = [];
  const table = new NftTable({ socket, layout, onRefused: (error) => refused.push(error) });
  await settle(t, table, some);
  for (const command of [
    'delete element ip fairlead-test marks { 10.0.0.1 }',
    'delete table ip fairlead-test',
  ]) {
    nft(command);
    const actual = mark(1, 1);
    const wanted = mark(1, 5);
    t.deepEqual(await table.write([{ kind: 'update', key: nftElementKey(wanted), wanted, actual }]), []);
    t.deepEqual(sorted(await table.read()), sorted(byKey(...some.values(), wanted)));
    await settle(t, table, some);
  }
  t.deepEqual(
    refused.map(({ code }) => code),
    ['ENOENT', 'ENOENT'],
  );
});

test('rows that cannot be elements fail alone', async (t) => {
  const { socket } = openNftSpace(t);
  const table = new NftTable({ socket, layout });
  const bad: readonly (readonly [row: NftElement, message: RegExp])[] = [
    [{ set: 'nowhere', key: '00' }, /there is no set "nowhere"/],
    [{ set: 'marks', key: '0a00', data: hexU32(1) }, /"marks 0a00": a key of 8 hex digits is expected/],
    [{ set: 'marks', key: '0a000009' }, /data of 8 hex digits is expected/],
    [{ set: 'marks', key: '0a00000a', data: { verdict: 'drop' } }, /data of 8 hex digits is expected/],
    [{ set: 'networks', key: '0a00000a' }, /a keyEnd of 8 hex digits is expected/],
    [{ set: 'ways', key: '0a00000a', data: '01000000' }, /a verdict is expected/],
    [{ set: 'ways', key: '0b00000a', data: { verdict: 'goto', chain: 'gone' } }, /there is no chain "gone"/],
    [{ set: 'seen', key: '0a00000a' }, /the elements of "seen" are made by packets/],
  ];
  const { failures } = await reconcile([layer(table, byKey(...some.values(), ...bad.map(([row]) => row)))]);
  t.is(failures.length, bad.length);
  for (const [index, [, message]] of bad.entries()) t.regex(failures[index]?.error.message ?? '', message);
  t.deepEqual((await table.read()).size, some.size);
});

test('what the kernel refuses twice is reported, and what was there stays in force', async (t) => {
  const { socket, nft } = openNftSpace(t);
  const table = new NftTable({ socket, layout });
  await settle(t, table, some);
  const listing = nft('list ruleset');
  const tooMany = byKey(...some.values(), ...[2, 3, 4, 5].map(way));
  const { failures } = await reconcile([layer(table, tooMany)]);
  t.deepEqual(
    failures.map(({ key, error }) => [key, (error as KernelError).code]),
    [2, 3, 4, 5].map((value) => [nftElementKey(way(value)), 'ENFILE']),
  );
  t.is(nft('list ruleset'), listing);
  t.is(await settle(t, table, some), 0);
});

test('after a refusal no row is forgotten, even when the table is gone by then', async (t) => {
  const { socket, nft } = openNftSpace(t);
  const table = new NftTable({ socket, layout });
  await settle(t, table, some);
  const create = (wanted: NftElement) => ({ kind: 'create', key: nftElementKey(wanted), wanted }) as const;
  t.is((await table.write([2, 3, 4, 5].map((value) => create(way(value))))).length, 4);
  nft('flush ruleset');
  t.deepEqual(await table.write([create(mark(9, 9))]), []);
  t.deepEqual(sorted(await table.read()), sorted(byKey(...some.values(), mark(9, 9))));
});

test('elements that packets made are not rows, and others’ tables are left alone', async (t) => {
  const { socket, nft, load } = openNftSpace(t);
  load('add table ip other\nadd set ip other kept { type ipv4_addr; elements = { 1.2.3.4 }; }');
  const table = new NftTable({ socket, layout });
  await settle(t, table, some);
  nft('add element ip fairlead-test seen { 9.9.9.9 }');
  t.is((await table.read()).size, some.size);
  await table.remove();
  await table.remove();
  t.is(nft('list tables'), 'table ip other\n');
  t.regex(nft('list table ip other'), /1\.2\.3\.4/);
});

test('120,000 elements are written in one transaction, read back, and changed one by one', async (t) => {
  const { socket } = openNftSpace(t);
  const table = new NftTable({ socket, layout });
  const rows = byKey(...Array.from({ length: 120_000 }, (_, host) => mark(host, host + 1)));
  const before = await readGeneration(socket);
  await settle(t, table, rows);
  t.is(await readGeneration(socket), before + 1);
  const actual = await table.read();
  t.is(actual.size, rows.size);
  t.true([...rows].every(([key, row]) => actual.get(key)?.data === row.data));
  for (let host = 0; host < 100; host += 1) {
    const wanted = mark(host, 0);
    const key = nftElementKey(wanted);
    t.deepEqual(await table.write([{ kind: 'update', key, wanted, actual: mark(host, host + 1) }]), []);
  }
  t.is([...(await table.read()).values()].filter(({ data }) => data === hexU32(0)).length, 100);
});

test('a table that is filled in several transactions is the one that is made in one', async (t) => {
  const { socket, nft } = openNftSpace(t);
  const table = new NftTable({ socket, layout: largeLayout, rows: largeRows });
  const before = await readGeneration(socket);
  t.deepEqual(await table.fill(largeRows()), { writes: 25_002, failures: [] });
  const filled = await readGeneration(socket);
  t.true(filled > before + 3);
  const elements = /elements = {[^}]*}/g;
  const listing = nft('list ruleset');
  t.is((await table.read()).size, 25_002);
  t.deepEqual(await table.rebuild(), { writes: 25_002, failures: [] });
  t.is(await readGeneration(socket), filled + 1);
  t.is(nft('list ruleset').replaceAll(elements, ''), listing.replaceAll(elements, ''));
  t.is((await table.read()).size, 25_002);
  t.is(table.timesMade, 2);
});

test('what makes a whole table goes by the socket for what is long, and changes by the other', async (t) => {
  const { socket, fd } = openNftSpace(t);
  using lane = openLane();
  using reader = openNftSocket({ namespaceFd: fd, lane });
  const sent: string[] = [];
  for (const [name, one] of Object.entries({ socket, reader })) {
    const send = one.transaction.bind(one);
    one.transaction = (messages, ...rest) => {
      const bytes = messages.reduce((sum, { payload }) => sum + payload.length, 0);
      sent.push(`${name}: ${bytes > 10_000 ? 'much' : 'little'}`);
      return send(messages, ...rest);
    };
  }
  const change = { kind: 'delete', key: 'marks 0a000001', actual: mark(1, 0) } as const;
  const table = new NftTable({ socket, reader, layout: largeLayout, rows: largeRows });
  await table.rebuild();
  t.deepEqual(sent.splice(0), ['reader: much']);
  t.deepEqual(await table.write([change]), []);
  t.deepEqual(sent.splice(0), ['socket: little']);
  // It is not there any more: the change is refused, and all rows are written.
  t.deepEqual(await table.write([change]), []);
  t.deepEqual(sent, ['socket: little', 'reader: much']);
});

test('a table is filled with elements that were put straight into messages, as with rows', async (t) => {
  const { socket } = openNftSpace(t);
  const table = new NftTable({ socket, layout: largeLayout, rows: largeRows });
  const packer = table.packer('marks');
  const rows: NftElement[] = [];
  for (const row of largeRows()) {
    if (row.set !== 'marks') rows.push(row);
    else {
      const at = packer.add();
      writeHex(packer.bytes, at, row.key);
      writeHex(packer.bytes, at + packer.keyToData, String(row.data));
    }
  }
  t.deepEqual(await table.fill([...rows, ...packer.takeAll()]), { writes: 25_002, failures: [] });
  t.deepEqual(sorted(await table.read()), sorted(byKey(...largeRows())));
  for (const name of ['ways', 'nowhere'])
    t.throws(() => table.packer(name), {
      message: `nftables ip fairlead-large: there is no set "${name}" of plain elements`,
    });
});

test('whoever is killed while a table is filled leaves nothing in force, and the next one makes it anew', async (t) => {
  const { socket, path, nft } = openNftSpace(t);
  const program = fileURLToPath(new URL('./nftables-killed.ts', import.meta.url));
  const { signal } = spawnSync(NSENTER, [`--net=${path}`, process.execPath, program]);
  t.is(signal, 'SIGKILL');
  const left = nft('list ruleset');
  t.regex(left, /10\.0\.39\.15 : /);
  t.notRegex(left, /comment "mark"/);
  const table = new NftTable({ socket, layout: largeLayout, rows: largeRows });
  t.deepEqual(await table.read(), damaged);
  t.deepEqual(await table.rebuild(), { writes: 25_002, failures: [] });
  t.is((await table.read()).size, 25_002);
  t.regex(nft('list ruleset'), /chain forward/);
});

test('rows that cannot be are left out of a table that is filled; what the kernel refuses is said', async (t) => {
  const { socket, nft } = openNftSpace(t);
  const rows = [...some.values(), { set: 'marks', key: '0a00' }];
  const refused: string[] = [];
  const onRefused = ({ code }: KernelError) => refused.push(code);
  const table = new NftTable({ socket, layout, rows: () => rows, onRefused });
  const { writes, failures } = await table.fill(rows);
  t.is(writes, some.size);
  t.deepEqual(
    failures.map(({ key }) => key),
    ['marks 0a00'],
  );
  t.deepEqual(sorted(await table.read()), sorted(some));
  await table.remove();
  rows.push(...[2, 3, 4, 5].map(way));
  const again = await table.fill(rows);
  t.deepEqual([again.writes, again.failures.length, refused], [0, 2, ['ENFILE']]);
  t.is(nft('list ruleset'), '');
});

test('a table whose rows somebody else keeps is made of them after a refusal', async (t) => {
  const { socket, nft } = openNftSpace(t);
  const rows = new Map(some);
  const table = new NftTable({ socket, layout, rows: () => rows.values() });
  await settle(t, table, rows);
  nft('delete table ip fairlead-test');
  const [wanted, later] = [mark(9, 9), mark(10, 10)];
  for (const row of [wanted, later]) rows.set(nftElementKey(row), row);
  t.deepEqual(await table.write([{ kind: 'create', key: nftElementKey(wanted), wanted }]), []);
  t.deepEqual(sorted(await table.read()), sorted(rows));
});
