import http from 'node:http';
import type { AddressInfo } from 'node:net';
import test from 'ava';
import { KubeClient } from '../../kube/client.ts';
import { ApiError } from '../../kube/errors.ts';
import {
  type KubeList,
  type KubeObject,
  LEASES,
  type ListOptions,
  type ListWatcher,
  type WatchEvent,
  type WatchOptions,
} from '../../kube/types.ts';
import { configured, startTestServer, until } from '../controlplane/server.ts';
import { start, untilEqual, versionOf } from './leases-informer.ts';

/** One list or watch after another as the script says; the last entry goes on for ever. */
class ScriptedServer implements ListWatcher {
  readonly asked: string[] = [];
  /** Of each watch. */
  readonly limits: Pick<WatchOptions, 'timeoutSeconds' | 'inactivityTimeoutMs'>[] = [];
  readonly #lists: KubeList<KubeObject>[];
  readonly #watches: (WatchEvent<KubeObject> | Error)[][];

  constructor(lists: KubeList<KubeObject>[], watches: (WatchEvent<KubeObject> | Error)[][]) {
    this.#lists = lists;
    this.#watches = watches;
  }

  async list<T extends KubeObject>(_resource: unknown, options: ListOptions = {}): Promise<KubeList<T>> {
    this.asked.push(`list ${options.continue ?? ''}`.trim());
    const list = this.#lists.shift();
    if (list === undefined) throw new Error('no more lists');
    return list as KubeList<T>;
  }

  async *watch<T extends KubeObject>(
    _resource: unknown,
    options: WatchOptions = {},
  ): AsyncGenerator<WatchEvent<T>> {
    this.asked.push(`watch ${options.resourceVersion}`);
    this.limits.push(options);
    const events = this.#watches.shift();
    for (const event of events ?? []) {
      if (event instanceof Error) throw event;
      yield event as WatchEvent<T>;
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    options.signal?.addEventListener('abort', () => resolve(), { once: true });
    if (events === undefined && options.signal?.aborted !== true) await promise;
  }
}

const lease = (name: string, resourceVersion: string): KubeObject => ({
  metadata: { name, namespace: 'a', resourceVersion },
});
const list = (resourceVersion: string, items: KubeObject[], next?: string): KubeList<KubeObject> => ({
  items,
  metadata: { resourceVersion, ...(next === undefined ? {} : { continue: next }) },
});
const gone = () => new ApiError(410, 'Expired', 'too old');

test('a list comes in pages, then the watch begins at its version', async (t) => {
  const server = new ScriptedServer([list('5', [lease('x', '3')], 'more'), list('5', [lease('y', '4')])], []);
  const { informer, reported, end } = start({ client: server });
  await informer.synced;
  t.deepEqual([...informer.store.keys()], ['a/x', 'a/y']);
  await until(() => server.asked.length === 3);
  t.deepEqual(server.asked, ['list', 'list more', 'watch 5']);
  t.deepEqual(reported, ['a/x', 'a/y']);
  await end();
});

test('each page is in the store before the next is asked for', async (t) => {
  const pages = [list('5', [lease('x', '3')], 'more'), list('5', [lease('y', '4')])];
  const server = new ScriptedServer(pages, []);
  const there: string[][] = [];
  const answer = server.list.bind(server);
  server.list = (...asked) => {
    there.push([...informer.store.keys()]);
    return answer(...asked);
  };
  const { informer, end } = start({ client: server });
  await informer.synced;
  t.deepEqual(there, [[], ['a/x']]);
  await end();
});

test('a watch that ended is resumed from its last event or bookmark', async (t) => {
  const watches: WatchEvent<KubeObject>[][] = [
    [{ type: 'ADDED', object: lease('x', '7') }],
    [{ type: 'BOOKMARK', object: { metadata: { resourceVersion: '9' } } }],
  ];
  const server = new ScriptedServer([list('5', [])], watches);
  const { informer, end } = start({ client: server });
  await until(() => server.asked.length === 4);
  t.deepEqual(server.asked, ['list', 'watch 5', 'watch 7', 'watch 9']);
  t.true(informer.store.has('a/x'));
  await end();
});

test('watches last five to ten minutes, each another time', async (t) => {
  const server = new ScriptedServer(
    [list('5', [])],
    Array(5).fill([{ type: 'ADDED', object: lease('x', '7') }]),
  );
  const { end } = start({ client: server });
  await until(() => server.limits.length === 6);
  const seconds = server.limits.map(({ timeoutSeconds = 0 }) => timeoutSeconds);
  t.true(seconds.every((each) => each >= 300 && each <= 600 && Number.isInteger(each)));
  t.true(new Set(seconds).size > 1);
  await end();
});

test('where bookmarks come, their absence is a dead connection; where none come, only a watch that does not end', async (t) => {
  const bookmark: WatchEvent<KubeObject> = {
    type: 'BOOKMARK',
    object: { metadata: { resourceVersion: '9' } },
  };
  const added: WatchEvent<KubeObject> = { type: 'ADDED', object: lease('x', '10') };
  const server = new ScriptedServer([list('5', [])], [[added], [bookmark], [added]]);
  const { end } = start({ client: server });
  await until(() => server.limits.length === 4);
  const graces = server.limits.map(({ timeoutSeconds = 0, inactivityTimeoutMs = 0 }) => {
    return inactivityTimeoutMs === 150_000 ? 'bookmarks' : inactivityTimeoutMs - timeoutSeconds * 1000;
  });
  t.deepEqual(graces, [15_000, 15_000, 'bookmarks', 15_000]);
  await end();
});

test('an expired version leads to a new list, which reports what came, changed and went', async (t) => {
  const lists = [
    list('5', [lease('same', '1'), lease('changed', '2'), lease('gone', '3')]),
    list('20', [lease('same', '1'), lease('changed', '15'), lease('new', '16')]),
  ];
  const server = new ScriptedServer(lists, [[gone()]]);
  const { informer, reported, end } = start({ client: server });
  await informer.synced;
  reported.length = 0;
  await until(() => server.asked.includes('watch 20'));
  t.deepEqual(reported.sort(), ['a/changed', 'a/gone', 'a/new']);
  t.deepEqual([...informer.store.keys()].sort(), ['a/changed', 'a/new', 'a/same']);
  await end();
});

test('a version that the server does not have yet leads to a new list', async (t) => {
  const tooLarge = new ApiError(504, 'Timeout', 'Too large', {
    causes: [{ reason: 'ResourceVersionTooLarge' }],
  });
  const server = new ScriptedServer([list('50', [lease('x', '40')]), list('3', [])], [[tooLarge]]);
  const { informer, end } = start({ client: server });
  await until(() => server.asked.includes('watch 3'));
  t.is(informer.store.size, 0);
  await end();
});

test('a kind that may be missing counts as empty where the server does not have it', async (t) => {
  const missing = { list: () => Promise.reject(new ApiError(404, 'NotFound', 'no such kind')) };
  const server = Object.assign(new ScriptedServer([], []), missing);
  const errors: string[] = [];
  const onError = (error: Error) => errors.push(error.message);
  const { informer, end } = start({ client: server, isOptional: true, onError });
  await informer.synced;
  t.is(informer.store.size, 0);
  t.deepEqual(errors, []);
  await end();
});

test('other failures are reported, slowed down, and do not lose the version', async (t) => {
  const errors: string[] = [];
  const failure = new Error('no connection');
  const server = new ScriptedServer([list('5', [])], [[failure], [failure], [failure]]);
  const startedMs = performance.now();
  const { end } = start({ client: server, onError: (error) => errors.push(error.message) });
  await until(() => server.asked.length === 5);
  t.true(performance.now() - startedMs > 50 + 100 + 200);
  t.deepEqual(errors, Array(3).fill('no connection'));
  t.deepEqual(server.asked, ['list', ...Array(4).fill('watch 5')]);
  await end();
});

test('the order of a deletion and a creation of the same name does not matter to the reader', async (t) => {
  const watches: WatchEvent<KubeObject>[][] = [
    [
      { type: 'DELETED', object: lease('x', '6') },
      { type: 'ADDED', object: lease('x', '7') },
      { type: 'DELETED', object: lease('none', '8') },
    ],
  ];
  const server = new ScriptedServer([list('5', [lease('x', '3')])], watches);
  const { informer, reported, end } = start({ client: server });
  await until(() => server.asked.includes('watch 8'));
  t.deepEqual(reported, ['a/x', 'a/x', 'a/x']);
  t.is(versionOf(informer.store.get('a/x')), '7');
  await end();
});

test('an informer that is ended before it is synced says so', async (t) => {
  using client = new KubeClient({ server: 'http://127.0.0.1:9' });
  const { informer, end } = start({ client });
  await end();
  await t.throwsAsync(informer.synced, { name: 'AbortError' });
});

for (const [what, begin] of [
  [
    'after the beginning of an answer',
    (response: http.ServerResponse) => response.writeHead(200).flushHeaders(),
  ],
  ['instead of an answer', () => undefined],
] as const) {
  test(`silence for longer than allowed, ${what}, is a dead connection`, async (t) => {
    let watches = 0;
    const server = http.createServer((request, response) => {
      if (request.url?.includes('watch=true') === true) {
        watches += 1;
        begin(response);
      } else response.end(JSON.stringify(list('5', [])));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => server.close());
    using client = new KubeClient({ server: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
    const errors: string[] = [];
    const { end } = start({
      client,
      inactivityTimeoutMs: 1_000,
      onError: (error) => errors.push(error.message),
    });
    await until(() => watches >= 2 && errors.includes('nothing came for 1000 ms'));
    t.pass();
    await end();
    server.closeAllConnections();
  });
}

test('two informers under a thousand random changes end equal to a list', async (t) => {
  await using server = await startTestServer({ bookmarkIntervalMs: 100, clusterCidrs: [] });
  const { client } = server;
  const one = start({ client, watchSeconds: 1 });
  const two = start({ client });
  const alive = new Set<string>();
  const change = async (i: number) => {
    const name = `l${Math.floor(Math.random() * 60)}-${i % 4}`;
    const known = alive.has(name);
    if (!known) {
      alive.add(name);
      await client.create(LEASES, configured(name, 'default'));
    } else if (Math.random() < 0.3) {
      alive.delete(name);
      await client.delete(LEASES, name, { namespace: 'default' });
    } else
      await client.patch(LEASES, name, { metadata: { labels: { i: `${i}` } } }, { namespace: 'default' });
  };
  // Four writers, each with names of its own.
  const writer = async (first: number) => {
    for (let i = first; i < 1_000; i += 4) await change(i);
  };
  await Promise.all([0, 1, 2, 3].map(writer));
  await untilEqual(one.informer, client);
  await untilEqual(two.informer, client);
  t.is(one.informer.store.size, alive.size);
  await one.end();
  await two.end();
});
