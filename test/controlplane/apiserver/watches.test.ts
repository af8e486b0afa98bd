import { connect } from 'node:net';
import test from 'ava';
import { configured, startTestServer } from '../server.ts';
import { Watcher } from '../watcher.ts';

const server = await startTestServer({ bookmarkIntervalMs: 100 });
test.after.always(() => server[Symbol.asyncDispose]());
const { call } = server;

const leases = (namespace: string, query = '') =>
  `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases${query}`;
const create = (name: string, namespace: string, labels?: Record<string, string>) =>
  call('POST', leases(namespace), configured(name, namespace, labels));
const label = (name: string, namespace: string, labels: Record<string, string | null>) =>
  call(
    'PATCH',
    `${leases(namespace)}/${name}`,
    { metadata: { labels } },
    { 'content-type': 'application/merge-patch+json' },
  );
const remove = (name: string, namespace: string) => call('DELETE', `${leases(namespace)}/${name}`);
const newest = async () => (await call('GET', '/api/v1/nodes')).body.metadata.resourceVersion as string;

test('a watch without a version begins with the state and goes on with the changes', async (t) => {
  const namespace = await server.namespace();
  await create('a', namespace);
  for (const query of ['?watch=true', '?watch=1&resourceVersion=0']) {
    using watcher = await Watcher.open(server, leases(namespace, query));
    await watcher.untilCount(1);
    await label('a', namespace, { x: query.length.toString() });
    await watcher.untilCount(2);
    t.deepEqual(watcher.changes, ['ADDED a', 'MODIFIED a']);
  }
});

test('a watch from a version has what came strictly after it', async (t) => {
  const namespace = await server.namespace();
  const { body } = await create('a', namespace);
  await label('a', namespace, { x: '1' });
  await create('b', namespace);
  using watcher = await Watcher.open(
    server,
    leases(namespace, `?watch=true&resourceVersion=${body.metadata.resourceVersion}`),
  );
  await watcher.untilCount(2);
  await remove('a', namespace);
  await watcher.untilCount(3);
  t.deepEqual(watcher.changes, ['MODIFIED a', 'ADDED b', 'DELETED a']);
});

test('the headers of a watch come before its first event', async (t) => {
  const namespace = await server.namespace();
  using watcher = await Watcher.open(
    server,
    leases(namespace, `?watch=true&resourceVersion=${await newest()}`),
  );
  t.is(watcher.headers.get('content-type'), 'application/json');
  t.is(watcher.headers.get('transfer-encoding'), 'chunked');
  t.deepEqual(watcher.lines, []);
});

test('a DELETED event has the last content and the version of the deletion', async (t) => {
  const namespace = await server.namespace();
  const { body } = await create('a', namespace, { x: '1' });
  await remove('a', namespace);
  using watcher = await Watcher.open(
    server,
    leases(namespace, `?watch=true&resourceVersion=${body.metadata.resourceVersion}`),
  );
  await watcher.untilCount(1);
  const { object } = watcher.lines[0] ?? {};
  t.deepEqual(object.metadata.labels, { x: '1' });
  t.true(Number(object.metadata.resourceVersion) > Number(body.metadata.resourceVersion));
});

test('an object that ceases to match a selector is DELETED, and ADDED when it matches again', async (t) => {
  const namespace = await server.namespace();
  const from = await newest();
  using watcher = await Watcher.open(
    server,
    leases(namespace, `?watch=true&resourceVersion=${from}&labelSelector=app%3Da`),
  );
  await create('a', namespace, { app: 'a' });
  await create('other', namespace);
  await label('a', namespace, { app: 'b' });
  await label('a', namespace, { x: '1' });
  await label('a', namespace, { app: 'a' });
  await remove('a', namespace);
  await watcher.untilCount(4);
  t.deepEqual(watcher.changes, ['ADDED a', 'DELETED a', 'ADDED a', 'DELETED a']);
  t.is(watcher.lines[1]?.object.metadata.labels.app, 'a');
  const versions = watcher.lines.map(({ object }) => Number(object.metadata.resourceVersion));
  t.deepEqual(
    versions,
    versions.toSorted((a, b) => a - b),
  );
  t.is(new Set(versions).size, 4);
});

test('one object is watched by its name', async (t) => {
  const namespace = await server.namespace();
  await create('a', namespace);
  await create('b', namespace);
  using watcher = await Watcher.open(server, `${leases(namespace)}/b?watch=true`);
  await label('a', namespace, { x: '1' });
  await label('b', namespace, { x: '1' });
  await watcher.untilCount(2);
  t.deepEqual(watcher.changes, ['ADDED b', 'MODIFIED b']);
});

test('bookmarks carry the newest version to a watch that asked for them', async (t) => {
  const namespace = await server.namespace();
  const from = await newest();
  using with_ = await Watcher.open(
    server,
    leases(namespace, `?watch=true&resourceVersion=${from}&allowWatchBookmarks=true`),
  );
  using without = await Watcher.open(server, leases(namespace, `?watch=true&resourceVersion=${from}`));
  const elsewhere = await server.namespace();
  const { body } = await create('a', elsewhere);
  const line = await with_.untilLine(
    ({ type, object }) =>
      type === 'BOOKMARK' && Number(object.metadata.resourceVersion) >= Number(body.metadata.resourceVersion),
  );
  t.is(line.object.kind, 'Lease');
  t.is(line.object.apiVersion, 'coordination.k8s.io/v1');
  t.deepEqual(Object.keys(line.object.metadata), ['resourceVersion']);
  t.deepEqual(without.lines, []);
});

test('a streamed list marks where the state ends', async (t) => {
  const namespace = await server.namespace();
  await create('a', namespace);
  await create('b', namespace);
  const query =
    '?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=';
  using watcher = await Watcher.open(server, leases(namespace, query));
  const end = await watcher.untilLine(({ type }) => type === 'BOOKMARK');
  t.deepEqual(end.object.metadata.annotations, { 'k8s.io/initial-events-end': 'true' });
  t.deepEqual(
    watcher.lines.slice(0, 3).map(({ type }) => type),
    ['ADDED', 'ADDED', 'BOOKMARK'],
  );
  await remove('a', namespace);
  await watcher.untilCount(3);
  t.is(watcher.changes[2], 'DELETED a');
});

test('a streamed list of nothing has its mark too', async (t) => {
  const namespace = await server.namespace();
  const query =
    '?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true';
  using watcher = await Watcher.open(server, leases(namespace, query));
  const end = await watcher.untilLine(({ type }) => type === 'BOOKMARK');
  t.truthy(end.object.metadata.annotations);
});

test('a streamed list without its rule for versions is refused with 422', async (t) => {
  for (const query of [
    'sendInitialEvents=true',
    'resourceVersionMatch=NotOlderThan',
    'sendInitialEvents=true&resourceVersionMatch=Exact',
  ]) {
    const { status, body } = await call('GET', `/api/v1/nodes?watch=true&${query}`);
    t.is(status, 422, query);
    t.is(body.reason, 'Invalid');
  }
});

test('a watch ends after its time, with a last bookmark', async (t) => {
  const namespace = await server.namespace();
  const startedMs = performance.now();
  using watcher = await Watcher.open(
    server,
    leases(namespace, '?watch=true&timeoutSeconds=1&allowWatchBookmarks=true'),
  );
  await watcher.ended;
  t.true(performance.now() - startedMs > 500);
  t.is(watcher.lines.at(-1)?.type, 'BOOKMARK');
});

test('a version that is yet to come cannot be watched from', async (t) => {
  const { status, body } = await call('GET', '/api/v1/nodes?watch=true&resourceVersion=99999999');
  t.is(status, 504);
  t.is(body.details.causes[0].reason, 'ResourceVersionTooLarge');
});

test('watches of one kind see the same changes in the same order', async (t) => {
  const namespace = await server.namespace();
  const from = await newest();
  const watchers = await Promise.all(
    Array.from({ length: 5 }, () =>
      Watcher.open(server, leases(namespace, `?watch=true&resourceVersion=${from}`)),
    ),
  );
  await Promise.all(Array.from({ length: 30 }, (_, i) => create(`l${i}`, namespace)));
  for (const watcher of watchers) await watcher.untilCount(30);
  for (const watcher of watchers) {
    t.deepEqual(watcher.changes, watchers[0]?.changes);
    watcher[Symbol.dispose]();
  }
});

test('a client that reads nothing costs the others nothing', async (t) => {
  const namespace = await server.namespace();
  const { port, hostname } = new URL(server.url);
  const deaf = connect(Number(port), hostname);
  t.teardown(() => deaf.destroy());
  deaf.pause();
  deaf.write(
    `GET ${leases(namespace, '?watch=true')} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${server.token}\r\n\r\n`,
  );
  using watcher = await Watcher.open(server, leases(namespace, '?watch=true'));
  const annotations = { big: 'x'.repeat(200_000) };
  const before = process.memoryUsage.rss();
  for (let i = 0; i < 100; i += 1) {
    await call('POST', leases(namespace), { metadata: { name: `l${i}`, namespace, annotations } });
    await remove(`l${i}`, namespace);
  }
  await watcher.untilCount(200);
  t.true(process.memoryUsage.rss() - before < 300 << 20);
});

test('the connections of watches are closed with the server', async (t) => {
  const other = await startTestServer();
  const watcher = await Watcher.open(other, '/api/v1/nodes?watch=true');
  await other[Symbol.asyncDispose]();
  await watcher.ended;
  t.pass();
});
