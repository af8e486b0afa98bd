import http from 'node:http';
import type { AddressInfo } from 'node:net';
import test from 'ava';
import fc from 'fast-check';
import { KubeClient, resourcePath } from '../../kube/client.ts';
import { ApiError } from '../../kube/errors.ts';
import { linesOf } from '../../kube/lines.ts';
import { ENDPOINT_SLICES, LEASES, NODES, PODS, type V1Lease, type V1Node } from '../../kube/types.ts';
import { configured, startTestServer } from '../controlplane/server.ts';

const server = await startTestServer();
test.after.always(() => server[Symbol.asyncDispose]());
const { client } = server;

test('every resource has its path', (t) => {
  t.is(resourcePath(NODES, undefined, 'n'), '/api/v1/nodes/n');
  t.is(resourcePath(NODES, 'ignored', 'n', 'status'), '/api/v1/nodes/n/status');
  t.is(resourcePath(PODS), '/api/v1/pods');
  t.is(
    resourcePath(ENDPOINT_SLICES, 'a', 'b/c'),
    '/apis/discovery.k8s.io/v1/namespaces/a/endpointslices/b%2Fc',
  );
});

test('objects are created, read, replaced, patched and deleted', async (t) => {
  const namespace = await server.namespace();
  const created = await client.create<V1Lease>(LEASES, configured('a', namespace));
  t.deepEqual(await client.get<V1Lease>(LEASES, 'a', namespace), created);
  const updated = await client.update<V1Lease>(LEASES, { ...created, spec: { holderIdentity: 'x' } });
  t.is(updated.spec?.holderIdentity, 'x');
  const patched = await client.patch<V1Lease>(LEASES, 'a', { spec: { holderIdentity: 'y' } }, { namespace });
  t.is(patched.spec?.holderIdentity, 'y');
  const { items } = await client.list<V1Lease>(LEASES, { namespace });
  t.deepEqual(items, [patched]);
  t.true(await client.delete(LEASES, 'a', { namespace }));
  t.false(await client.delete(LEASES, 'a', { namespace }));
  t.is(await client.get(LEASES, 'a', namespace), undefined);
});

test('the status of a node is patched on its own path', async (t) => {
  await client.create<V1Node>(NODES, { metadata: { name: 'n' } });
  const patch = {
    metadata: { annotations: { x: '1' } },
    status: { addresses: [{ type: 'InternalIP', address: '192.0.2.1' }] },
  };
  const patched = await client.patch<V1Node>(NODES, 'n', patch, { subresource: 'status', type: 'strategic' });
  t.is(patched.metadata?.annotations?.x, '1');
  t.is(patched.status?.addresses?.[0]?.address, '192.0.2.1');
});

test('a refusal has status, reason and causes', async (t) => {
  const error = await t.throwsAsync(client.create(NODES, { metadata: { name: 'Not A Name' } }), {
    instanceOf: ApiError,
  });
  t.is(error?.status, 422);
  t.is(error?.reason, 'Invalid');
  t.is(error?.causes[0]?.field, 'metadata.name');
  const conflict = await t.throwsAsync(client.create(NODES, { metadata: {} }), { instanceOf: ApiError });
  t.is(conflict?.reason, 'Invalid');
});

test('a wrong token is a refusal, no server an error of the connection', async (t) => {
  using stranger = new KubeClient({ server: server.url, token: 'x' });
  t.is((await t.throwsAsync(stranger.list(NODES), { instanceOf: ApiError }))?.status, 401);
  using nowhere = new KubeClient({ server: 'http://127.0.0.1:9' });
  await t.throwsAsync(nowhere.list(NODES), { code: 'ECONNREFUSED' });
  t.throws(() => new KubeClient({ server: 'ftp://x' }), { message: /not http/ });
});

test('a watch gives the events until it is aborted', async (t) => {
  const namespace = await server.namespace();
  const ending = new AbortController();
  const seen: string[] = [];
  const watching = (async () => {
    for await (const { type, object } of client.watch<V1Lease>(LEASES, {
      namespace,
      signal: ending.signal,
    })) {
      seen.push(`${type} ${object.metadata?.name}`);
      if (seen.length === 2) ending.abort();
    }
  })();
  await client.create(LEASES, configured('a', namespace));
  await client.create(LEASES, configured('b', namespace));
  await t.throwsAsync(watching, { name: 'AbortError' });
  t.deepEqual(seen, ['ADDED a', 'ADDED b']);
});

test('leaving a watch closes its connection', async (t) => {
  const namespace = await server.namespace();
  await client.create(LEASES, configured('a', namespace));
  using other = new KubeClient({ server: server.url, token: server.token });
  for await (const { type } of other.watch(LEASES, { namespace })) {
    t.is(type, 'ADDED');
    break;
  }
});

test('an answer that is no Status, or asks to wait, is an ApiError too', async (t) => {
  const busy = http.createServer((_request, response) => {
    response.writeHead(429, { 'retry-after': '7' });
    response.end('busy');
  });
  await new Promise<void>((resolve) => busy.listen(0, '127.0.0.1', resolve));
  t.teardown(() => busy.close());
  using other = new KubeClient({ server: `http://127.0.0.1:${(busy.address() as AddressInfo).port}` });
  const error = await t.throwsAsync(other.list(NODES), { instanceOf: ApiError });
  t.is(error?.status, 429);
  t.is(error?.message, 'busy');
  t.is(error?.retryAfterMs, 7_000);
  busy.closeAllConnections();
});

test('lines come out whole however the bytes are cut', async (t) => {
  const words = fc.array(
    fc.string({ unit: 'grapheme', maxLength: 12 }).map((text) => text.replaceAll('\n', '')),
  );
  const property = fc.asyncProperty(words, fc.integer({ min: 1, max: 9 }), async (lines, size) => {
    const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(''));
    const pieces = async function* () {
      for (let i = 0; i < bytes.length; i += size) yield bytes.subarray(i, i + size);
    };
    const seen: string[] = [];
    for await (const line of linesOf(pieces(), () => {})) seen.push(line);
    t.deepEqual(
      seen,
      lines.filter((line) => line !== ''),
    );
  });
  await fc.assert(property, { numRuns: 100 });
});
