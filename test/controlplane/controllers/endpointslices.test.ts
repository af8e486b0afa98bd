import test from 'ava';
import {
  ENDPOINT_SLICES,
  NODES,
  PODS,
  SERVICES,
  type V1EndpointSlice,
  type V1Pod,
  type V1Service,
} from '../../../kube/types.ts';
import { pod, service, startTestServer, until } from '../server.ts';

const server = await startTestServer({ clusterCidrs: [] });
test.after.always(() => server[Symbol.asyncDispose]());
const { client } = server;

interface PodState {
  readonly ready?: boolean;
  readonly ips?: readonly string[];
  readonly phase?: string;
  readonly spec?: object;
  readonly labels?: Record<string, string>;
}

const web = { selector: { app: 'web' }, ports: [{ name: 'http', port: 80, targetPort: 8080 }] };

async function running(namespace: string, name: string, state: PodState = {}): Promise<void> {
  const { ready = true, ips = ['10.244.0.2'], phase = 'Running', spec = {}, labels = { app: 'web' } } = state;
  await client.create<V1Pod>(PODS, pod(name, namespace, spec, labels) as V1Pod);
  await report(namespace, name, { phase, podIPs: ips.map((ip) => ({ ip })), conditions: readiness(ready) });
}

const readiness = (ready: boolean) => [{ type: 'Ready', status: ready ? 'True' : 'False' }];

async function report(namespace: string, name: string, status: object): Promise<void> {
  await client.patch(PODS, name, { status }, { namespace, subresource: 'status' });
}

async function slices(namespace: string): Promise<V1EndpointSlice[]> {
  return (await client.list<V1EndpointSlice>(ENDPOINT_SLICES, { namespace })).items;
}

/** "IPv4 http:8080 10.244.0.2 ready,serving", one for each endpoint and port, sorted. */
async function rendered(namespace: string): Promise<string[]> {
  const lines = (await slices(namespace)).flatMap(({ addressType, endpoints = [], ports = [] }) =>
    endpoints.map(({ addresses, conditions }) => {
      const portTexts = ports.map(({ name, port }) => `${name}:${port}`).join(',');
      const flags = (['ready', 'serving', 'terminating'] as const).filter((flag) => conditions?.[flag]);
      return `${addressType} ${portTexts} ${addresses.join(',')} ${flags.join(',')}`;
    }),
  );
  return lines.sort();
}

async function become(namespace: string, expected: readonly string[]): Promise<void> {
  let seen: string[] = [];
  await until(async () => {
    seen = await rendered(namespace);
    return JSON.stringify(seen) === JSON.stringify(expected);
  }, expected.join('; ')).catch((error) => {
    throw new Error(`${error.message}: ${seen.join('; ')}`);
  });
}

async function webService(
  namespace: string,
  spec: object = {},
  labels?: Record<string, string>,
): Promise<V1Service> {
  return await client.create<V1Service>(
    SERVICES,
    service('web', namespace, { ...web, ...spec }, labels) as V1Service,
  );
}

test('a service has the ready pods that it selects, of each of its families', async (t) => {
  const namespace = await server.namespace();
  await webService(namespace, { ipFamilyPolicy: 'PreferDualStack' });
  await running(namespace, 'a', { ips: ['10.244.0.2', 'fd00::2'] });
  await running(namespace, 'b', { ips: ['10.244.0.3'], ready: false });
  await running(namespace, 'other', { ips: ['10.244.0.4'], labels: { app: 'db' } });
  await become(namespace, [
    'IPv4 http:8080 10.244.0.2 ready,serving',
    'IPv4 http:8080 10.244.0.3 ',
    'IPv6 http:8080 fd00::2 ready,serving',
  ]);
  t.pass();
});

test('a slice says whose it is and where its endpoints are', async (t) => {
  const namespace = await server.namespace();
  await client.create(NODES, {
    metadata: { name: 'zoned', labels: { 'topology.kubernetes.io/zone': 'z1' } },
  });
  const owner = await webService(namespace, {}, { tier: 'front' });
  await running(namespace, 'a', { spec: { nodeName: 'zoned', hostname: 'h', subdomain: 'web' } });
  await become(namespace, ['IPv4 http:8080 10.244.0.2 ready,serving']);
  const [slice] = await slices(namespace);
  t.regex(slice?.metadata?.name ?? '', /^web-[a-z0-9]{5}$/);
  t.deepEqual(slice?.metadata?.labels, {
    tier: 'front',
    'kubernetes.io/service-name': 'web',
    'endpointslice.kubernetes.io/managed-by': 'endpointslice-controller.k8s.io',
  });
  t.is(slice?.metadata?.ownerReferences?.[0]?.uid, owner.metadata?.uid);
  t.truthy(slice?.metadata?.annotations?.['endpoints.kubernetes.io/last-change-trigger-time']);
  t.deepEqual(slice?.ports, [{ name: 'http', protocol: 'TCP', port: 8080 }]);
  const { uid } = (await client.get(PODS, 'a', namespace))?.metadata ?? {};
  t.deepEqual(slice?.endpoints, [
    {
      addresses: ['10.244.0.2'],
      conditions: { ready: true, serving: true, terminating: false },
      hostname: 'h',
      nodeName: 'zoned',
      targetRef: { kind: 'Pod', namespace, name: 'a', uid },
      zone: 'z1',
    },
  ]);
});

test('a pod comes, becomes unready, ends and goes', async (t) => {
  const namespace = await server.namespace();
  await webService(namespace);
  await running(namespace, 'a', { spec: { nodeName: 'n' } });
  await become(namespace, ['IPv4 http:8080 10.244.0.2 ready,serving']);
  await report(namespace, 'a', { conditions: readiness(false) });
  await become(namespace, ['IPv4 http:8080 10.244.0.2 ']);
  await report(namespace, 'a', { conditions: readiness(true) });
  await client.delete(PODS, 'a', { namespace });
  await become(namespace, ['IPv4 http:8080 10.244.0.2 serving,terminating']);
  await client.delete(PODS, 'a', { namespace, gracePeriodSeconds: 0 });
  await become(namespace, []);
  t.is((await slices(namespace)).length, 1, 'an empty slice says that there is none');
});

test('pods that are over, or have no address, are left out', async (t) => {
  const namespace = await server.namespace();
  await webService(namespace);
  await running(namespace, 'done', { phase: 'Succeeded' });
  await running(namespace, 'waiting', { ips: [] });
  await running(namespace, 'a', { ips: ['10.244.0.9'] });
  await become(namespace, ['IPv4 http:8080 10.244.0.9 ready,serving']);
  t.pass();
});

test('a named port is looked up in each pod, with its protocol', async (t) => {
  const namespace = await server.namespace();
  await webService(namespace, {
    ports: [
      { name: 'http', port: 80, targetPort: 'web' },
      { name: 'x', port: 81, targetPort: 1 },
    ],
  });
  const ports = (containerPort: number, protocol: string) => ({
    containers: [{ name: 'c', image: 'i', ports: [{ name: 'web', containerPort, protocol }] }],
  });
  await running(namespace, 'a', { ips: ['10.244.0.2'], spec: ports(8080, 'TCP') });
  await running(namespace, 'b', { ips: ['10.244.0.3'], spec: ports(9090, 'TCP') });
  await running(namespace, 'c', { ips: ['10.244.0.4'], spec: ports(8080, 'UDP') });
  await become(namespace, [
    'IPv4 http:8080,x:1 10.244.0.2 ready,serving',
    'IPv4 http:9090,x:1 10.244.0.3 ready,serving',
    'IPv4 x:1 10.244.0.4 ready,serving',
  ]);
  t.is((await slices(namespace)).length, 3);
});

test('a change of the selector or of labels moves pods in and out', async (t) => {
  const namespace = await server.namespace();
  await webService(namespace);
  await running(namespace, 'a', { ips: ['10.244.0.2'] });
  await running(namespace, 'b', { ips: ['10.244.0.3'], labels: { app: 'new' } });
  await become(namespace, ['IPv4 http:8080 10.244.0.2 ready,serving']);
  await client.patch(SERVICES, 'web', { spec: { selector: { app: 'new' } } }, { namespace });
  await become(namespace, ['IPv4 http:8080 10.244.0.3 ready,serving']);
  await client.patch(PODS, 'a', { metadata: { labels: { app: 'new' } } }, { namespace });
  await client.patch(PODS, 'b', { metadata: { labels: { app: 'old' } } }, { namespace });
  await become(namespace, ['IPv4 http:8080 10.244.0.2 ready,serving']);
  t.pass();
});

test('addresses may be published before pods are ready', async (t) => {
  const namespace = await server.namespace();
  await webService(namespace, { publishNotReadyAddresses: true });
  await running(namespace, 'a', { ready: false });
  await become(namespace, ['IPv4 http:8080 10.244.0.2 ready']);
  t.pass();
});

test('a headless service is marked so', async (t) => {
  const namespace = await server.namespace();
  await webService(namespace, { clusterIP: 'None' });
  await until(async () => (await slices(namespace)).length === 1);
  t.is((await slices(namespace))[0]?.metadata?.labels?.['service.kubernetes.io/headless'], '');
});

test('hints name the zones and nodes that are near', async (t) => {
  const namespace = await server.namespace();
  await client.create(NODES, { metadata: { name: 'near', labels: { 'topology.kubernetes.io/zone': 'z2' } } });
  await webService(namespace, { trafficDistribution: 'PreferSameNode' });
  await running(namespace, 'a', { spec: { nodeName: 'near' } });
  const hints = async () => (await slices(namespace))[0]?.endpoints?.[0]?.hints;
  await until(async () => (await hints()) !== undefined);
  t.deepEqual(await hints(), { forZones: [{ name: 'z2' }], forNodes: [{ name: 'near' }] });
  await client.patch(NODES, 'near', { metadata: { labels: { 'topology.kubernetes.io/zone': 'z3' } } });
  await until(async () => (await hints())?.forZones?.[0]?.name === 'z3');
});

test('slices of a service that is gone, or points elsewhere, go', async (t) => {
  const [gone, elsewhere] = [await server.namespace(), await server.namespace()];
  for (const namespace of [gone, elsewhere]) {
    await webService(namespace);
    await until(async () => (await slices(namespace)).length === 1);
  }
  await client.delete(SERVICES, 'web', { namespace: gone });
  const external = { spec: { type: 'ExternalName', externalName: 'example.com' } };
  await client.patch(SERVICES, 'web', external, { namespace: elsewhere });
  for (const namespace of [gone, elsewhere]) await until(async () => (await slices(namespace)).length === 0);
  t.pass();
});

test('slices that somebody else makes are left alone', async (t) => {
  const namespace = await server.namespace();
  await webService(namespace, { selector: undefined });
  const own = {
    metadata: { name: 'own', namespace, labels: { 'kubernetes.io/service-name': 'web' } },
    addressType: 'IPv4',
    endpoints: [{ addresses: ['192.0.2.1'] }],
  };
  const made = await client.create<V1EndpointSlice>(ENDPOINT_SLICES, own);
  await running(namespace, 'a');
  await client.delete(SERVICES, 'web', { namespace });
  await new Promise((resolve) => setTimeout(resolve, 200));
  t.deepEqual(await slices(namespace), [made]);
});

test('a slice holds a hundred endpoints, and one that leaves moves no other', async (t) => {
  const namespace = await server.namespace();
  await webService(namespace);
  const names = Array.from({ length: 150 }, (_, i) => `p${i}`);
  await Promise.all(names.map((name, i) => running(namespace, name, { ips: [`10.244.1.${i + 1}`] })));
  await until(async () => (await rendered(namespace)).length === 150);
  const sizes = (await slices(namespace)).map(({ endpoints = [] }) => endpoints.length);
  t.is(Math.max(...sizes), 100);
  t.is(sizes.length, 2);
  const before = new Map(
    (await slices(namespace)).map((slice) => [slice.metadata?.name, slice.metadata?.generation]),
  );
  await client.delete(PODS, 'p0', { namespace });
  await until(async () => (await rendered(namespace)).length === 149);
  const changed = (await slices(namespace)).filter(
    ({ metadata }) => before.get(metadata?.name) !== metadata?.generation,
  );
  t.is(changed.length, 1);
});
