import test from 'ava';
import { ENDPOINT_SLICES, NAMESPACES, PODS, SERVICES, type V1Namespace } from '../../../kube/types.ts';
import { pod, service, startTestServer, until } from '../server.ts';

const server = await startTestServer({ clusterCidrs: [] });
test.after.always(() => server[Symbol.asyncDispose]());
const { client, call } = server;

test('a deleted namespace is emptied and then gone', async (t) => {
  const namespace = await server.namespace();
  await client.create(SERVICES, service('a', namespace, { selector: { app: 'x' } }));
  await client.create(PODS, pod('p', namespace));
  await until(async () => (await client.list(ENDPOINT_SLICES, { namespace })).items.length === 1);
  t.true(await client.delete(NAMESPACES, namespace));
  await until(async () => (await client.get(NAMESPACES, namespace)) === undefined);
  for (const resource of [SERVICES, PODS, ENDPOINT_SLICES]) {
    t.deepEqual((await client.list(resource, { namespace })).items, []);
  }
});

test('a namespace stays while something in it has time to end, and takes nothing new', async (t) => {
  const namespace = await server.namespace();
  await client.create(PODS, pod('p', namespace, { nodeName: 'n' }));
  await client.delete(NAMESPACES, namespace);
  const terminating = await client.get<V1Namespace>(NAMESPACES, namespace);
  t.is(terminating?.status?.phase, 'Terminating');
  const refused = await call('POST', `/api/v1/namespaces/${namespace}/pods`, pod('q', namespace));
  t.is(refused.status, 403);
  t.is(refused.body.details.causes[0].reason, 'NamespaceTerminating');
  await client.delete(PODS, 'p', { namespace, gracePeriodSeconds: 0 });
  await until(async () => (await client.get(NAMESPACES, namespace)) === undefined);
});
