import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { SqliteStorage } from '../../../controlplane/storage/sqlite.ts';
import { storageConformance } from '../../conformance/storage.ts';

const folder = mkdtempSync(join(tmpdir(), 'fairlead-sqlite-'));
test.after.always(() => rmSync(folder, { recursive: true }));
let files = 0;
const newPath = () => join(folder, `${files++}.db`);

storageConformance(test, async () => SqliteStorage.open(newPath()));

test('what was written is there after opening again, and revisions go on', async (t) => {
  const path = newPath();
  {
    await using storage = SqliteStorage.open(path);
    await storage.create('/a/x', '1');
    await storage.create('/a/y', '1');
    await storage.delete('/a/y', 3);
    await storage.compact(4);
  }
  await using storage = SqliteStorage.open(path);
  t.is(await storage.revision(), 4);
  t.deepEqual((await storage.list('/a/')).entries, [{ key: '/a/x', value: '1', revision: 2 }]);
  t.throws(() => storage.watch('/a/', 3), { message: /compacted/ });
  t.is(await storage.create('/a/y', '2'), 5);
});

test('the database and its side files are for the owner only', async (t) => {
  const path = newPath();
  await using storage = SqliteStorage.open(path);
  await storage.create('/a/x', '1');
  for (const file of [path, `${path}-wal`]) t.is(statSync(file).mode & 0o777, 0o600, file);
});

test('a second opening of the same file is refused by name', async (t) => {
  const path = newPath();
  await using storage = SqliteStorage.open(path);
  await storage.create('/a/x', '1');
  t.throws(() => SqliteStorage.open(path), { message: `${path}: database is locked` });
});

test('a reader slower than the writers goes on from the file, in order', async (t) => {
  await using storage = SqliteStorage.open(newPath());
  using watch = storage.watch('/a/', 1);
  const iterator = watch[Symbol.asyncIterator]();
  const first = iterator.next();
  const total = 10_000;
  for (let i = 0; i < total; i += 1) await storage.create(`/a/${i}`, 'x');
  const revisions: number[] = [];
  for (let next = await first; !next.done; next = await iterator.next()) {
    for (const event of next.value.events) revisions.push(event.revision);
    if (revisions.length === total) break;
  }
  t.true(revisions.every((revision, index) => revision === index + 2));
});
