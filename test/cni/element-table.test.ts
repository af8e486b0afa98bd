import test from 'ava';
import { ElementTable } from '../../cni/element-table.ts';
import type { Change } from '../../core/rows.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import { LAYOUT_MISSING } from '../../kernel/nftables.ts';
import { FakeKernel, FakeTable } from '../fake/table.ts';

function setUp() {
  const fake = new FakeTable<NftElement>({ name: 'elements', kernel: new FakeKernel(), atomic: true });
  return { fake, table: new ElementTable(fake) };
}

const element = (key: string): NftElement => ({ set: 'ports', key });
const make = (...keys: string[]): Change<string, NftElement>[] =>
  keys.map((key) => ({ kind: 'create', key, wanted: element(key) }));
const remove = (...keys: string[]): Change<string, NftElement>[] =>
  keys.map((key) => ({ kind: 'delete', key, actual: element(key) }));

test('what is wanted while a transaction is under way goes in the next one together', async (t) => {
  const { fake, table } = setUp();
  const writes = ['a', 'b', 'c', 'd'].map((key) => table.write(make(key)));
  t.deepEqual(await Promise.all(writes), [[], [], [], []]);
  t.deepEqual(
    fake.batches.map((batch) => batch.map(({ key }) => key)),
    [['a'], ['b', 'c', 'd']],
  );
});

test('one bad change does not spoil those of others', async (t) => {
  const { fake, table } = setUp();
  fake.forbidden.add('bad');
  const [, good, bad] = await Promise.all([
    table.write(make('first')),
    table.write(make('good')),
    table.write(make('bad')),
  ]);
  t.deepEqual(good, []);
  t.is(bad?.[0]?.error.message, 'create elements bad: EPERM');
  t.deepEqual([...fake.rows().keys()], ['first', 'good']);
});

test('what is there is not made again, and what is gone is not removed', async (t) => {
  const { fake, table } = setUp();
  fake.put('a', element('a'));
  await table.write(make('a'));
  await table.write(remove('b'));
  t.deepEqual(fake.batches, []);
  await table.write(remove('a'));
  t.is(fake.rows().size, 0);
});

test('a repair makes what is missing and removes what nobody wants', async (t) => {
  const { fake, table } = setUp();
  await table.write(make('a', 'b'));
  fake.stored.clear();
  fake.put('stale', element('stale'));
  const wanted = new Map(['a', 'b'].map((key) => [key, element(key)]));
  t.is((await table.repair(() => wanted)).writes, 3);
  t.deepEqual([...fake.rows().keys()].sort(), ['a', 'b']);
  t.is((await table.repair(() => wanted)).writes, 0);
});

test('a repair asks what is wanted only when nobody writes', async (t) => {
  const { fake, table } = setUp();
  const wanted = new Map<string, NftElement>();
  const add = (key: string) => {
    wanted.set(key, element(key));
    return table.write(make(key));
  };
  await Promise.all([add('a'), table.repair(() => wanted), add('b'), table.repair(() => wanted), add('c')]);
  t.deepEqual([...fake.rows().keys()].sort(), ['a', 'b', 'c']);
});

test('a row that goes and comes again in one transaction stays', async (t) => {
  const { fake, table } = setUp();
  await table.write(make('a'));
  await Promise.all([table.write(make('first')), table.write(remove('a')), table.write(make('a', 'b'))]);
  t.deepEqual([...fake.rows().keys()].sort(), ['a', 'b', 'first']);
  await Promise.all([table.write(make('second')), table.write(make('c')), table.write(remove('c'))]);
  t.false(fake.rows().has('c'));
});

test('what a writer waits to do is no damage', async (t) => {
  const { fake, table } = setUp();
  await table.write(make('a'));
  const rows = new Map(['a', 'b'].map((key) => [key, element(key)]));
  const repaired = table.repair(() => rows);
  const written = table.write(make('b'));
  t.is((await repaired).writes, 0);
  await written;
  t.deepEqual([...fake.rows().keys()].sort(), ['a', 'b']);
});

test('a table that nobody needs is not made', async (t) => {
  const { fake, table } = setUp();
  fake.put(LAYOUT_MISSING, { set: '', key: '' });
  t.is((await table.repair(() => new Map())).writes, 0);
  t.deepEqual(fake.batches, []);
  t.true((await table.repair(() => new Map([['a', element('a')]]))).writes > 0);
});

test('a kernel that cannot be read is a failure of every change', async (t) => {
  const { fake, table } = setUp();
  fake.read = () => Promise.reject(new Error('EIO'));
  const failures = await table.write(make('a', 'b'));
  t.deepEqual(
    failures.map(({ key, error }) => `${key} ${error.message}`),
    ['a EIO', 'b EIO'],
  );
});
