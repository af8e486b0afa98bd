import test from 'ava';
import { configured, pod, startTestServer } from '../server.ts';

const server = await startTestServer({ clusterCidrs: [] });
test.after.always(() => server[Symbol.asyncDispose]());
const { call } = server;
const merge = { 'content-type': 'application/merge-patch+json' };

const paths = {
  nodes: () => '/api/v1/nodes',
  namespaces: () => '/api/v1/namespaces',
  pods: (namespace: string) => `/api/v1/namespaces/${namespace}/pods`,
  leases: (namespace: string) => `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`,
  slices: (namespace: string) => `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices`,
};

const slice = (fields: object) => ({ addressType: 'IPv4', endpoints: [], ...fields });
const container = (fields: object) => ({ spec: { containers: [{ name: 'c', image: 'i', ...fields }] } });
const endpoint = (...addresses: string[]) => slice({ endpoints: [{ addresses }] });

const cases: readonly (readonly [
  what: string,
  kind: keyof typeof paths,
  object: object,
  fields: readonly string[],
])[] = [
  ['addressType', 'slices', { endpoints: [] }, ['addressType']],
  ['addressType', 'slices', slice({ addressType: 'IPv5' }), ['addressType']],
  ['no address', 'slices', endpoint(), ['endpoints[0].addresses']],
  ['an address of the other family', 'slices', endpoint('fd00::1'), ['endpoints[0].addresses[0]']],
  ['a host name', 'slices', endpoint('10.0.0.1', 'x'), ['endpoints[0].addresses[1]']],
  ['loopback', 'slices', endpoint('127.0.0.1'), ['endpoints[0].addresses[0]']],
  ['link-local', 'slices', endpoint('169.254.1.1'), ['endpoints[0].addresses[0]']],
  ['a port', 'slices', slice({ ports: [{ port: 0 }, { port: 1 }] }), ['ports[0].port', 'ports[1].name']],
  ['a protocol', 'slices', slice({ ports: [{ protocol: 'X' }] }), ['ports[0].protocol']],
  [
    'a node name',
    'slices',
    slice({ endpoints: [{ addresses: ['10.0.0.1'], nodeName: 'N' }] }),
    ['endpoints[0].nodeName'],
  ],
  [
    'too many endpoints',
    'slices',
    slice({ endpoints: Array(1001).fill({ addresses: ['10.0.0.1'] }) }),
    ['endpoints'],
  ],
  ['podCIDRs', 'nodes', { spec: { podCIDRs: ['10.0.0.1/24'] } }, ['spec.podCIDRs[0]']],
  ['podCIDRs', 'nodes', { spec: { podCIDRs: ['10.0.0.0/24', '10.0.1.0/24'] } }, ['spec.podCIDRs']],
  ['podCIDR', 'nodes', { spec: { podCIDR: '10.0.1.0/24', podCIDRs: ['10.0.0.0/24'] } }, ['spec.podCIDR']],
  [
    'taints',
    'nodes',
    { spec: { taints: [{ effect: 'X' }] } },
    ['spec.taints[0].key', 'spec.taints[0].effect'],
  ],
  ['no containers', 'pods', { spec: {} }, ['spec.containers']],
  ['no spec', 'pods', {}, ['spec.containers']],
  [
    'a container',
    'pods',
    { spec: { containers: [{}] } },
    ['spec.containers[0].name', 'spec.containers[0].image'],
  ],
  [
    'a container port',
    'pods',
    container({ ports: [{ containerPort: 0 }] }),
    ['spec.containers[0].ports[0].containerPort'],
  ],
  [
    'a port name',
    'pods',
    container({ ports: [{ containerPort: 1, name: '1' }] }),
    ['spec.containers[0].ports[0].name'],
  ],
  [
    'restartPolicy',
    'pods',
    { spec: { containers: [{ name: 'c', image: 'i' }], restartPolicy: 'X' } },
    ['spec.restartPolicy'],
  ],
  ['leaseDurationSeconds', 'leases', { spec: { leaseDurationSeconds: 0 } }, ['spec.leaseDurationSeconds']],
];

for (const [index, [what, kind, object, fields]] of cases.entries()) {
  test(`an invalid object of ${kind} is refused by field: ${what} (${index})`, async (t) => {
    const namespace = await server.namespace();
    const { status, body } = await call('POST', paths[kind](namespace), {
      metadata: { name: `x${index}` },
      ...object,
    });
    t.is(status, 422);
    t.deepEqual(
      body.details.causes.map(({ field }: { field: string }) => field),
      [...fields],
    );
  });
}

test('a namespace must have the name of a DNS label, other objects that of a subdomain', async (t) => {
  t.is((await call('POST', paths.namespaces(), { metadata: { name: 'a.b' } })).status, 422);
  t.is((await call('POST', paths.nodes(), { metadata: { name: 'a.b' } })).status, 201);
  t.is((await call('POST', paths.nodes(), { metadata: { name: 'A' } })).status, 422);
  t.is(
    (await call('POST', paths.nodes(), { metadata: {} })).body.details.causes[0].reason,
    'FieldValueRequired',
  );
});

test('ports of an EndpointSlice have a name and a protocol, be it the empty one', async (t) => {
  const namespace = await server.namespace();
  const { body } = await call('POST', paths.slices(namespace), {
    ...configured('a', namespace),
    ...slice({ ports: [{ port: 80 }] }),
  });
  t.deepEqual(body.ports, [{ port: 80, name: '', protocol: 'TCP' }]);
  t.is(body.metadata.generation, 1);
});

test('an EndpointSlice keeps its address type', async (t) => {
  const namespace = await server.namespace();
  await call('POST', paths.slices(namespace), { ...configured('a', namespace), ...slice({}) });
  const { status, body } = await call(
    'PATCH',
    `${paths.slices(namespace)}/a`,
    { addressType: 'IPv6' },
    merge,
  );
  t.is(status, 422);
  t.is(body.details.causes[0].message, 'Invalid value: "IPv6": field is immutable');
});

test('podCIDR and podCIDRs follow one another, and stay once they are set', async (t) => {
  const { body } = await call('POST', paths.nodes(), {
    metadata: { name: 'cidrs' },
    spec: { podCIDR: '10.0.0.0/24' },
  });
  t.deepEqual(body.spec.podCIDRs, ['10.0.0.0/24']);
  const { status } = await call(
    'PATCH',
    `${paths.nodes()}/cidrs`,
    { spec: { podCIDR: '10.0.1.0/24', podCIDRs: ['10.0.1.0/24'] } },
    merge,
  );
  t.is(status, 422);
  t.is(
    (await call('PATCH', `${paths.nodes()}/cidrs`, { spec: { podCIDR: null, podCIDRs: null } }, merge))
      .status,
    422,
  );
});

test('a pod has the defaults that kubelets rely on, and its containers stay', async (t) => {
  const namespace = await server.namespace();
  const { body } = await call('POST', paths.pods(namespace), pod('a', namespace));
  const { containers, ...spec } = body.spec;
  t.deepEqual(spec, {
    restartPolicy: 'Always',
    dnsPolicy: 'ClusterFirst',
    terminationGracePeriodSeconds: 30,
    schedulerName: 'default-scheduler',
    enableServiceLinks: true,
    securityContext: {},
    serviceAccountName: 'default',
  });
  t.is(containers[0].imagePullPolicy, 'Always');
  const path = `${paths.pods(namespace)}/a`;
  t.is((await call('PATCH', path, { spec: { nodeName: 'n' } }, merge)).status, 422);
  t.is((await call('PATCH', path, { spec: { terminationGracePeriodSeconds: 5 } }, merge)).status, 200);
});

test('labels and annotations are checked', async (t) => {
  const bad = { labels: { 'a/b/c': 'x', ok: 'not ok' }, annotations: { 'a b': 'x' } };
  const { body } = await call('POST', paths.nodes(), { metadata: { name: 'n', ...bad } });
  t.deepEqual(
    body.details.causes.map(({ field }: { field: string }) => field),
    ['metadata.labels', 'metadata.labels', 'metadata.annotations'],
  );
  const large = await call('POST', paths.nodes(), {
    metadata: { name: 'n', annotations: { x: 'x'.repeat(300_000) } },
  });
  t.is(large.body.details.causes[0].reason, 'FieldValueTooLong');
});
