import type { ExecutionContext, TestFn } from 'ava';
import fc from 'fast-check';
import {
  type Storage,
  StorageError,
  type StorageErrorCode,
  type StorageEvent,
  type StorageWatch,
} from '../../controlplane/storage/storage.ts';

/** What every {@link Storage} does. `open` gives an empty one. */
export function storageConformance(test: TestFn, open: () => Promise<Storage>): void {
  for (const [title, body] of Object.entries({ ...writes, ...lists, ...watches, ...randomly })) {
    test(title, async (t) => {
      await using storage = await open();
      await body(t, storage);
    });
  }
}

type Cases = Readonly<Record<string, (t: ExecutionContext, storage: Storage) => Promise<void>>>;

const writes: Cases = {
  'an empty database is at revision 1': async (t, storage) => {
    t.is(await storage.revision(), 1);
    t.deepEqual(await storage.list('/a/'), { entries: [], revision: 1, remaining: 0 });
  },
  'every write takes the next revision, over all keys': async (t, storage) => {
    t.is(await storage.create('/a/x', '1'), 2);
    t.is(await storage.create('/b/x', '2'), 3);
    t.is(await storage.update('/a/x', '3', 2), 4);
    t.is(await storage.delete('/b/x', 3), 5);
    t.is(await storage.revision(), 5);
    t.deepEqual(await storage.get('/a/x'), { key: '/a/x', value: '3', revision: 4 });
    t.is(await storage.get('/b/x'), undefined);
  },
  'a key is created once, and again after it was deleted': async (t, storage) => {
    t.is(await storage.create('/a/x', '1'), 2);
    t.is(await storage.create('/a/x', '2'), undefined);
    t.is(await storage.delete('/a/x', 2), 3);
    t.is(await storage.create('/a/x', '2'), 4);
    t.is(await storage.revision(), 4);
  },
  'a write that expects another revision does nothing': async (t, storage) => {
    await storage.create('/a/x', '1');
    t.is(await storage.update('/a/x', '2', 1), undefined);
    t.is(await storage.delete('/a/x', 3), undefined);
    t.is(await storage.update('/a/none', '2', 2), undefined);
    t.is(await storage.delete('/a/none', 0), undefined);
    t.deepEqual(await storage.get('/a/x'), { key: '/a/x', value: '1', revision: 2 });
    t.is(await storage.revision(), 2);
  },
  'of two writers with the same expectation one succeeds': async (t, storage) => {
    await storage.create('/a/x', '1');
    const answers = await Promise.all(['2', '3'].map((value) => storage.update('/a/x', value, 2)));
    t.is(answers.filter((answer) => answer === undefined).length, 1);
  },
};

const lists: Cases = {
  'a list is in the order of keys and only of the prefix': async (t, storage) => {
    for (const key of ['/a/b/2', '/a/b/10', '/a/b-c/1', '/ab/1', '/a/b/é']) await storage.create(key, key);
    t.deepEqual(keysOf((await storage.list('/a/b/')).entries), ['/a/b/10', '/a/b/2', '/a/b/é']);
    t.deepEqual(keysOf((await storage.list('/a/')).entries).length, 4);
  },
  'a list comes in pages, all of the same revision if asked so': async (t, storage) => {
    for (let i = 0; i < 5; i += 1) await storage.create(`/a/${i}`, 'old');
    const first = await storage.list('/a/', { limit: 2 });
    await storage.update('/a/3', 'new', 5);
    await storage.delete('/a/4', 6);
    await storage.create('/a/5', 'new');
    t.is(first.remaining, 3);
    const rest = await storage.list('/a/', { limit: 10, after: '/a/1', revision: first.revision });
    t.deepEqual(
      rest.entries.map(({ key, value, revision }) => [key, value, revision]),
      [
        ['/a/2', 'old', 4],
        ['/a/3', 'old', 5],
        ['/a/4', 'old', 6],
      ],
    );
    t.is(rest.remaining, 0);
  },
  'a revision that is compacted or yet to come cannot be listed': async (t, storage) => {
    for (let i = 0; i < 4; i += 1) await storage.create(`/a/${i}`, 'x');
    await storage.compact(3);
    t.is((await storage.list('/a/', { revision: 3 })).entries.length, 2);
    await throwsCode(t, storage.list('/a/', { revision: 2 }), 'compacted');
    await throwsCode(t, storage.list('/a/', { revision: 6 }), 'future');
  },
  'compaction keeps everything that is current': async (t, storage) => {
    await storage.create('/a/x', '1');
    await storage.create('/a/y', '1');
    await storage.update('/a/x', '2', 2);
    await storage.delete('/a/y', 3);
    await storage.compact(5);
    t.deepEqual((await storage.list('/a/')).entries, [{ key: '/a/x', value: '2', revision: 4 }]);
    t.is(await storage.create('/a/y', '3'), 6);
    t.is(await storage.update('/a/x', '3', 4), 7);
  },
};

const watches: Cases = {
  'a watch gives what came after its revision, then what comes': async (t, storage) => {
    await storage.create('/a/x', '1');
    await storage.update('/a/x', '2', 2);
    await storage.create('/b/x', '1');
    using watch = storage.watch('/a/', 2);
    const events = take(watch, 3);
    await storage.create('/a/y', '1');
    await storage.delete('/a/x', 3);
    t.deepEqual(await events, [
      { key: '/a/x', revision: 3, value: '2', previous: { value: '1', revision: 2 } },
      { key: '/a/y', revision: 5, value: '1', previous: undefined },
      { key: '/a/x', revision: 6, value: undefined, previous: { value: '2', revision: 3 } },
    ]);
  },
  'a key made again has no previous value': async (t, storage) => {
    await storage.create('/a/x', '1');
    await storage.delete('/a/x', 2);
    await storage.create('/a/x', '2');
    using watch = storage.watch('/a/', 3);
    t.deepEqual(await take(watch, 1), [{ key: '/a/x', revision: 4, value: '2', previous: undefined }]);
  },
  'progress is reported when asked for': async (t, storage) => {
    using watch = storage.watch('/a/', 1);
    await storage.create('/b/x', '1');
    await storage.create('/b/y', '1');
    watch.requestProgress();
    for await (const batch of watch) {
      t.deepEqual(batch, { events: [], revision: 3 });
      break;
    }
  },
  'a watch from before the compaction is refused, one from there is not': async (t, storage) => {
    await storage.create('/a/x', '1');
    await storage.update('/a/x', '2', 2);
    await storage.update('/a/x', '3', 3);
    await storage.compact(3);
    t.is(t.throws(() => storage.watch('/a/', 2), { instanceOf: StorageError })?.code, 'compacted');
    t.is(t.throws(() => storage.watch('/a/', 5), { instanceOf: StorageError })?.code, 'future');
    using watch = storage.watch('/a/', 3);
    t.deepEqual(await take(watch, 1), [
      { key: '/a/x', revision: 4, value: '3', previous: { value: '2', revision: 3 } },
    ]);
  },
  'an idle watch outlives the compaction of what others wrote': async (t, storage) => {
    await storage.create('/a/x', '1');
    using watch = storage.watch('/a/', 2);
    const events = take(watch, 1);
    await new Promise(setImmediate);
    let revision = (await storage.create('/b/x', '')) ?? 0;
    for (let i = 0; i < 20; i += 1) revision = (await storage.update('/b/x', `${i}`, revision)) ?? 0;
    await storage.compact(revision);
    await storage.create('/a/y', '2');
    t.is((await events)[0]?.key, '/a/y');
  },
  'a watch ends when it is disposed of': async (t, storage) => {
    const watch = storage.watch('/a/', 1);
    const events = take(watch, 1);
    watch[Symbol.dispose]();
    t.deepEqual(await events, []);
  },
  'all watches end when the storage is closed': async (t, storage) => {
    const events = take(storage.watch('/a/', 1), 1);
    await storage[Symbol.asyncDispose]();
    t.deepEqual(await events, []);
  },
};

const randomly: Cases = {
  'after any writes and compactions, a list plus the events after it is the newest list': async (
    t,
    storage,
  ) => {
    const step = fc.record({
      key: fc.integer({ min: 0, max: 4 }),
      action: fc.constantFrom('put', 'put', 'delete'),
    });
    const run = fc.asyncProperty(fc.array(step, { maxLength: 40 }), fc.nat(100), async (steps, percent) => {
      for (const { key, action } of steps) await randomWrite(storage, `/a/${key}`, action);
      const newest = await storage.revision();
      const from = newest - Math.floor((steps.length * percent) / 200);
      await storage.compact(from - 3);
      const state = new Map(
        (await storage.list('/a/', { revision: from })).entries.map((e) => [e.key, e.value]),
      );
      for (const event of await eventsUpTo(storage, from, newest)) {
        t.is(event.previous?.value, state.get(event.key));
        if (event.value === undefined) state.delete(event.key);
        else state.set(event.key, event.value);
      }
      const list = new Map((await storage.list('/a/')).entries.map((e) => [e.key, e.value]));
      t.deepEqual(new Map([...state].sort()), new Map([...list].sort()));
    });
    await fc.assert(run, { numRuns: 40 });
  },
};

async function randomWrite(storage: Storage, key: string, action: string): Promise<void> {
  const entry = await storage.get(key);
  const value = `${Math.random()}`;
  if (entry === undefined) await storage.create(key, value);
  else if (action === 'delete') await storage.delete(key, entry.revision);
  else await storage.update(key, value, entry.revision);
}

async function eventsUpTo(storage: Storage, from: number, newest: number): Promise<StorageEvent[]> {
  using watch = storage.watch('/a/', from);
  watch.requestProgress();
  const events: StorageEvent[] = [];
  for await (const batch of watch) {
    events.push(...batch.events);
    if (batch.revision >= newest) break;
  }
  return events;
}

async function take(watch: StorageWatch, count: number): Promise<StorageEvent[]> {
  const events: StorageEvent[] = [];
  for await (const batch of watch) {
    events.push(...batch.events);
    if (events.length >= count) break;
  }
  return events;
}

async function throwsCode(
  t: ExecutionContext,
  promise: Promise<unknown>,
  code: StorageErrorCode,
): Promise<void> {
  t.is((await t.throwsAsync(promise, { instanceOf: StorageError }))?.code, code);
}

function keysOf(entries: readonly { key: string }[]): string[] {
  return entries.map((entry) => entry.key);
}
