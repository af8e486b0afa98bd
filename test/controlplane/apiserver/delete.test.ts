import test from 'ava';
import { configured, pod, startTestServer } from '../server.ts';

const server = await startTestServer();
test.after.always(() => server[Symbol.asyncDispose]());
const { call } = server;

const leases = (namespace: string, name = '') =>
  `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases${name === '' ? '' : `/${name}`}`;
const pods = (namespace: string, name = '') =>
  `/api/v1/namespaces/${namespace}/pods${name === '' ? '' : `/${name}`}`;

test('a deletion answers with the uid of what it deleted', async (t) => {
  const namespace = await server.namespace();
  const { body } = await call('POST', leases(namespace), configured('a', namespace));
  const deleted = await call('DELETE', leases(namespace, 'a'));
  t.is(deleted.status, 200);
  t.is(deleted.body.status, 'Success');
  t.is(deleted.body.details.uid, body.metadata.uid);
  t.is((await call('GET', leases(namespace, 'a'))).status, 404);
});

test('a deletion with preconditions that do not hold is refused with 409', async (t) => {
  const namespace = await server.namespace();
  const { body } = await call('POST', leases(namespace), configured('a', namespace));
  const { uid, resourceVersion } = body.metadata;
  for (const preconditions of [{ uid: 'other' }, { uid, resourceVersion: '1' }]) {
    const { status, body: refusal } = await call('DELETE', leases(namespace, 'a'), { preconditions });
    t.is(status, 409);
    t.true(refusal.message.includes('Precondition failed'));
  }
  t.is(
    (await call('DELETE', leases(namespace, 'a'), { preconditions: { uid, resourceVersion } })).status,
    200,
  );
});

test('a pod on a node is given time to end, which later deletions may only shorten', async (t) => {
  const namespace = await server.namespace();
  await call('POST', pods(namespace), pod('a', namespace, { nodeName: 'n' }));
  const first = await call('DELETE', pods(namespace, 'a'));
  t.is(first.body.kind, 'Pod');
  t.is(first.body.metadata.deletionGracePeriodSeconds, 30);
  t.is(first.body.metadata.generation, 2);
  t.truthy(first.body.metadata.deletionTimestamp);
  t.is(
    (await call('DELETE', pods(namespace, 'a'), { gracePeriodSeconds: 60 })).body.metadata
      .deletionGracePeriodSeconds,
    30,
  );
  const shorter = await call('DELETE', pods(namespace, 'a'), { gracePeriodSeconds: 5 });
  t.is(shorter.body.metadata.deletionGracePeriodSeconds, 5);
  t.is((await call('DELETE', `${pods(namespace, 'a')}?gracePeriodSeconds=0`)).body.status, 'Success');
  t.is((await call('GET', pods(namespace, 'a'))).status, 404);
});

test('a pod that no node has goes at once', async (t) => {
  const namespace = await server.namespace();
  await call('POST', pods(namespace), pod('a', namespace));
  t.is((await call('DELETE', pods(namespace, 'a'))).body.kind, 'Status');
});

test('a finalizer keeps a deleted object until it is taken off', async (t) => {
  const namespace = await server.namespace();
  await call('POST', leases(namespace), {
    metadata: { name: 'a', namespace, finalizers: ['example.com/x'] },
  });
  const { body } = await call('DELETE', leases(namespace, 'a'));
  t.is(body.kind, 'Lease');
  t.truthy(body.metadata.deletionTimestamp);
  const more = { ...body, metadata: { ...body.metadata, finalizers: ['example.com/x', 'example.com/y'] } };
  t.is((await call('PUT', leases(namespace, 'a'), more)).status, 422);
  await call('PUT', leases(namespace, 'a'), { ...body, metadata: { ...body.metadata, finalizers: [] } });
  t.is((await call('GET', leases(namespace, 'a'))).status, 404);
});

test('a collection is deleted by its selector', async (t) => {
  const namespace = await server.namespace();
  for (const name of ['a', 'b', 'c'])
    await call('POST', leases(namespace), configured(name, namespace, { keep: String(name === 'b') }));
  const { body } = await call('DELETE', `${leases(namespace)}?labelSelector=keep%3Dfalse`);
  t.is(body.items.length, 2);
  const { body: rest } = await call('GET', leases(namespace));
  t.deepEqual(
    rest.items.map((item: { metadata: { name: string } }) => item.metadata.name),
    ['b'],
  );
});
