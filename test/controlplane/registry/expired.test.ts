import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { TokenAccess } from '../../../controlplane/apiserver/access.ts';
import { ApiServer } from '../../../controlplane/apiserver/server.ts';
import { kinds } from '../../../controlplane/kinds/table.ts';
import { LocalClient } from '../../../controlplane/registry/local-client.ts';
import { Registry } from '../../../controlplane/registry/registry.ts';
import { compactionTarget } from '../../../controlplane/storage/compactor.ts';
import { SqliteStorage } from '../../../controlplane/storage/sqlite.ts';
import { KubeClient } from '../../../kube/client.ts';
import { ApiError } from '../../../kube/errors.ts';
import { Informer } from '../../../kube/informer.ts';
import { NODES, type V1Node } from '../../../kube/types.ts';
import { silent, until } from '../server.ts';

/** A server whose history the test cuts off as it likes. */
async function startCuttable() {
  const folder = mkdtempSync(join(tmpdir(), 'fairlead-expired-'));
  const storage = SqliteStorage.open(join(folder, 'db'));
  const registry = await Registry.open({ storage, kinds });
  const server = new ApiServer({
    registry,
    access: new TokenAccess('t'),
    log: silent,
    bookmarkIntervalMs: 1_000,
  });
  const url = await server.listen({ host: '127.0.0.1', port: 0 });
  const get = async (path: string) => {
    const response = await fetch(url + path, { headers: { authorization: 'Bearer t' } });
    return { status: response.status, body: JSON.parse(await response.text()) };
  };
  return {
    storage,
    api: new LocalClient(registry),
    client: new KubeClient({ server: url, token: 't' }),
    get,
    async [Symbol.asyncDispose]() {
      this.client[Symbol.dispose]();
      await server[Symbol.asyncDispose]();
      await storage[Symbol.asyncDispose]();
      rmSync(folder, { recursive: true });
    },
  };
}

const nodes = '/api/v1/nodes';

test('a watch from a version that is compacted has one ERROR event with 410 Expired', async (t) => {
  await using server = await startCuttable();
  for (const name of ['a', 'b', 'c']) await server.api.create(NODES, { metadata: { name } });
  await server.storage.compact(3);
  const { status, body } = await server.get(`${nodes}?watch=true&resourceVersion=2`);
  t.is(status, 200);
  t.is(body.type, 'ERROR');
  t.deepEqual([body.object.kind, body.object.code, body.object.reason], ['Status', 410, 'Expired']);
  t.is(body.object.message, 'too old resource version: 2 (3)');
});

test('a list at a compacted version is 410 Expired', async (t) => {
  await using server = await startCuttable();
  for (const name of ['a', 'b', 'c']) await server.api.create(NODES, { metadata: { name } });
  await server.storage.compact(4);
  const { status, body } = await server.get(`${nodes}?resourceVersion=3&resourceVersionMatch=Exact`);
  t.is(status, 410);
  t.is(body.reason, 'Expired');
});

test('a page whose state is compacted is 410 with a token that goes on in the newest state', async (t) => {
  await using server = await startCuttable();
  for (const name of ['a', 'b', 'c']) await server.api.create(NODES, { metadata: { name } });
  const first = await server.get(`${nodes}?limit=1`);
  await server.api.create(NODES, { metadata: { name: 'd' } });
  await server.storage.compact(5);
  const late = await server.get(`${nodes}?limit=1&continue=${first.body.metadata.continue}`);
  t.is(late.status, 410);
  t.is(late.body.reason, 'Expired');
  const rest = await server.get(`${nodes}?limit=10&continue=${late.body.metadata.continue}`);
  t.deepEqual(
    rest.body.items.map((item: V1Node) => item.metadata?.name),
    ['b', 'c', 'd'],
  );
});

test('an informer that was away too long lists again and reports what it missed', async (t) => {
  await using server = await startCuttable();
  for (const name of ['a', 'b']) await server.api.create(NODES, { metadata: { name } });
  const ending = new AbortController();
  const reported: string[] = [];
  const { client } = server;
  let isAway = false;
  const away = {
    list: client.list.bind(client) as KubeClient['list'],
    watch: ((resource, options) => {
      if (isAway) throw new Error('away');
      return client.watch(resource, options);
    }) as KubeClient['watch'],
  };
  const { signal } = ending;
  const onChange = (key: string) => reported.push(key);
  const informer = new Informer<V1Node>({ client: away, resource: NODES, signal, onChange, watchSeconds: 1 });
  await informer.synced;
  isAway = true;
  await new Promise((resolve) => setTimeout(resolve, 1_100));
  await server.api.delete(NODES, 'a');
  await server.api.create(NODES, { metadata: { name: 'c' } });
  await server.storage.compact(await server.storage.revision());
  isAway = false;
  await until(() => informer.store.has('c') && !informer.store.has('a'));
  t.deepEqual([...informer.store.keys()].sort(), ['b', 'c']);
  ending.abort();
  await informer.closed;
});

test('in the process, refusals are the same as over HTTP', async (t) => {
  await using server = await startCuttable();
  const error = await t.throwsAsync(server.api.create(NODES, { metadata: { name: 'A' } }), {
    instanceOf: ApiError,
  });
  t.is(error?.status, 422);
  t.is(await server.api.get(NODES, 'none'), undefined);
  t.false(await server.api.delete(NODES, 'none'));
});

test('history is kept for its time, at least so much and at most so much of it', (t) => {
  t.is(compactionTarget(50_000, undefined), 0);
  t.is(compactionTarget(50_000, 20_000), 20_000);
  t.is(compactionTarget(50_000, 45_000), 40_000);
  t.is(compactionTarget(5_000, 4_000), 0);
  t.is(compactionTarget(3_000_000, undefined), 2_000_000);
});
