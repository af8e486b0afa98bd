import {
  CoreV1Api,
  DiscoveryV1Api,
  KubeConfig,
  makeInformer,
  PatchStrategy,
  setHeaderOptions,
  type V1Node,
} from '@kubernetes/client-node';
import test from 'ava';
import { startTestServer, until } from './server.ts';

const server = await startTestServer({ clusterCidrs: [] });
test.after.always(() => server[Symbol.asyncDispose]());

const config = new KubeConfig();
config.loadFromFile(server.kubeconfigPath);
const core = config.makeApiClient(CoreV1Api);

test('the official client creates, reads, changes and deletes', async (t) => {
  const namespace = await server.namespace();
  const body = { metadata: { name: 'web' }, spec: { ports: [{ port: 80 }], selector: { app: 'web' } } };
  const created = await core.createNamespacedService({ namespace, body });
  t.true(created.metadata?.creationTimestamp instanceof Date);
  t.truthy(created.spec?.clusterIP);
  const read = await core.readNamespacedService({ namespace, name: 'web' });
  t.deepEqual(read, created);
  const type = 'NodePort';
  const replaced = await core.replaceNamespacedService({
    namespace,
    name: 'web',
    body: { ...read, spec: { ...read.spec, type } },
  });
  t.true((replaced.spec?.ports?.[0]?.nodePort ?? 0) >= 30_000);
  const patched = await core.patchNamespacedService(
    { namespace, name: 'web', body: { metadata: { labels: { tier: 'front' } } } },
    setHeaderOptions('Content-Type', PatchStrategy.StrategicMergePatch),
  );
  t.deepEqual(patched.metadata?.labels, { tier: 'front' });
  const list = await core.listNamespacedService({ namespace, labelSelector: 'tier=front', limit: 1 });
  t.is(list.items.length, 1);
  await core.deleteNamespacedService({ namespace, name: 'web' });
  const error = await t.throwsAsync(core.readNamespacedService({ namespace, name: 'web' }));
  t.is((error as { code?: number } | undefined)?.code, 404);
});

test('the official client reads every kind that is served', async (t) => {
  const discovery = config.makeApiClient(DiscoveryV1Api);
  t.true((await core.listNamespace()).items.length >= 4);
  for (const list of [
    core.listNode(),
    core.listPodForAllNamespaces(),
    discovery.listEndpointSliceForAllNamespaces(),
  ]) {
    t.true(Array.isArray((await list).items));
  }
});

test("the official client's informer follows along", async (t) => {
  const informer = makeInformer(config, '/api/v1/nodes', () => core.listNode());
  const seen: string[] = [];
  for (const verb of ['add', 'update', 'delete'] as const) {
    informer.on(verb, (node: V1Node) => seen.push(`${verb} ${node.metadata?.name}`));
  }
  const errors: unknown[] = [];
  informer.on('error', (error) => errors.push(error));
  t.teardown(() => informer.stop());
  await core.createNode({ body: { metadata: { name: 'n1' } } });
  await informer.start();
  await core.createNode({ body: { metadata: { name: 'n2' } } });
  await core.patchNode(
    { name: 'n1', body: { metadata: { labels: { x: '1' } } } },
    setHeaderOptions('Content-Type', PatchStrategy.MergePatch),
  );
  await core.deleteNode({ name: 'n2' });
  await until(() => seen.length >= 4, seen.join(', '));
  t.deepEqual(seen, ['add n1', 'add n2', 'update n1', 'delete n2']);
  t.deepEqual(errors, []);
});
