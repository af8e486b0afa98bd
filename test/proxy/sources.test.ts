import test from 'ava';
import { pino } from 'pino';
import type { KubeObject, V1Node, V1Service } from '../../kube/types.ts';
import { ENDPOINT_SLICES, NODES, SERVICES } from '../../kube/types.ts';
import { startProxy } from '../../proxy/proxy.ts';
import { service, startTestServer, until } from '../controlplane/server.ts';
import { RecordingBackend } from './recording-backend.ts';

// A proxy and an API server, over HTTP.

const NAME_LABEL = 'service.kubernetes.io/service-proxy-name';

function slice(namespace: string, name: string, address: string, labels: object = {}): KubeObject {
  const all = { 'kubernetes.io/service-name': 'web', ...labels };
  const ports = [{ name: '', port: 8080, protocol: 'TCP' }];
  const endpoints = [{ addresses: [address], conditions: { ready: true } }];
  const metadata = { name, namespace, labels: all };
  return { metadata, addressType: 'IPv4', ports, endpoints } as KubeObject;
}

test('the server picks what the proxy sees: no other proxy, no headless service, no other node', async (t) => {
  await using server = await startTestServer();
  const { client } = server;
  const namespace = await server.namespace();
  const key = `${namespace}/web`;
  await client.create(SERVICES, service('web', namespace) as unknown as V1Service);
  await client.create(
    SERVICES,
    service('headless', namespace, { clusterIP: 'None' }) as unknown as V1Service,
  );
  await client.create(ENDPOINT_SLICES, slice(namespace, 'web-1', '10.244.1.5'));
  await client.create(
    ENDPOINT_SLICES,
    slice(namespace, 'web-2', '10.244.1.6', { 'service.kubernetes.io/headless': '' }),
  );
  for (const name of ['here', 'there']) await client.create<V1Node>(NODES, { metadata: { name } });
  const backend = new RecordingBackend();
  const log = pino({ level: 'silent' });
  await using proxy = startProxy({ client, nodeName: 'here', nodeAddresses: [], log, backend });
  await proxy.synced;
  const [port] = proxy.views.get(key) ?? [];
  t.deepEqual(
    port?.clusterEndpoints.map(({ ip }) => ip as string),
    ['10.244.1.5'],
  );
  t.is(proxy.node?.metadata?.name, 'here');
  t.false(proxy.views.has(`${namespace}/headless`));

  const label = (value: string | null) =>
    client.patch(SERVICES, 'web', { metadata: { labels: { [NAME_LABEL]: value } } }, { namespace });
  await label('other');
  await until(() => !proxy.views.has(key));
  await label(null);
  await until(() => proxy.views.has(key));
  t.deepEqual(backend.calls.slice(-2), [`update ${key}=gone`, `update ${key}=1`]);
});
