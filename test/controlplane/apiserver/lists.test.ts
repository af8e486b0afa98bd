import test from 'ava';
import { configured, pod, service, startTestServer } from '../server.ts';

const server = await startTestServer();
test.after.always(() => server[Symbol.asyncDispose]());
const { call } = server;

const leases = (namespace: string, query = '') =>
  `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases${query}`;
const names = (list: { items: { metadata: { name: string } }[] }) =>
  list.items.map(({ metadata }) => metadata.name);

async function someLeases(count: number): Promise<string> {
  const namespace = await server.namespace();
  for (let i = 0; i < count; i += 1) await call('POST', leases(namespace), configured(`l${i}`, namespace));
  return namespace;
}

test('a list has its kind, the version of the whole state and the objects in order', async (t) => {
  const namespace = await someLeases(3);
  const { status, body } = await call('GET', leases(namespace));
  t.is(status, 200);
  t.is(body.kind, 'LeaseList');
  t.is(body.apiVersion, 'coordination.k8s.io/v1');
  t.deepEqual(names(body), ['l0', 'l1', 'l2']);
  t.true(Number(body.metadata.resourceVersion) >= Number(body.items[2].metadata.resourceVersion));
});

test('a list over all namespaces holds those of each', async (t) => {
  const [one, two] = [await someLeases(1), await someLeases(1)];
  const { body } = await call('GET', '/apis/coordination.k8s.io/v1/leases');
  const found = new Set(
    body.items.map((item: { metadata: { namespace: string } }) => item.metadata.namespace),
  );
  t.true(found.has(one) && found.has(two));
});

test('pages show one state, whatever is written between them', async (t) => {
  const namespace = await someLeases(5);
  const first = (await call('GET', leases(namespace, '?limit=2'))).body;
  t.deepEqual(names(first), ['l0', 'l1']);
  t.is(first.metadata.remainingItemCount, 3);
  await call('POST', leases(namespace), configured('l2a', namespace));
  await call('DELETE', `${leases(namespace)}/l3`);
  const second = (await call('GET', leases(namespace, `?limit=2&continue=${first.metadata.continue}`))).body;
  t.deepEqual(names(second), ['l2', 'l3']);
  t.is(second.metadata.resourceVersion, first.metadata.resourceVersion);
  t.is(second.metadata.remainingItemCount, 1);
  const last = (await call('GET', leases(namespace, `?limit=2&continue=${second.metadata.continue}`))).body;
  t.deepEqual(names(last), ['l4']);
  t.false('continue' in last.metadata);
});

test('a page that ends with the last object has no continuation', async (t) => {
  const namespace = await someLeases(2);
  const { body } = await call('GET', leases(namespace, '?limit=2'));
  t.false('continue' in body.metadata);
});

test('pages with a selector are full and say no remaining count', async (t) => {
  const namespace = await server.namespace();
  for (let i = 0; i < 6; i += 1) {
    await call('POST', leases(namespace), configured(`l${i}`, namespace, { odd: String(i % 2 === 1) }));
  }
  const first = (await call('GET', leases(namespace, '?limit=2&labelSelector=odd%3Dtrue'))).body;
  t.deepEqual(names(first), ['l1', 'l3']);
  t.false('remainingItemCount' in first.metadata);
  const rest = await call(
    'GET',
    leases(namespace, `?limit=2&labelSelector=odd%3Dtrue&continue=${first.metadata.continue}`),
  );
  t.deepEqual(names(rest.body), ['l5']);
  t.false('continue' in rest.body.metadata);
});

test('a continuation that cannot be read, or with a version beside it, is refused with 400', async (t) => {
  const namespace = await someLeases(2);
  t.is((await call('GET', leases(namespace, '?limit=1&continue=x'))).status, 400);
  const { body } = await call('GET', leases(namespace, '?limit=1'));
  const both = `?limit=1&continue=${body.metadata.continue}&resourceVersion=${body.metadata.resourceVersion}`;
  t.is((await call('GET', leases(namespace, both))).status, 400);
});

test('a list at an exact version shows the state of then', async (t) => {
  const namespace = await someLeases(2);
  const { body } = await call('GET', leases(namespace));
  await call('DELETE', `${leases(namespace)}/l0`);
  const version = body.metadata.resourceVersion;
  const exact = await call(
    'GET',
    leases(namespace, `?resourceVersion=${version}&resourceVersionMatch=Exact`),
  );
  t.deepEqual(names(exact.body), ['l0', 'l1']);
  t.is(exact.body.metadata.resourceVersion, version);
  t.deepEqual(names((await call('GET', leases(namespace, `?limit=5&resourceVersion=${version}`))).body), [
    'l0',
    'l1',
  ]);
  t.deepEqual(names((await call('GET', leases(namespace, `?resourceVersion=${version}`))).body), ['l1']);
  t.deepEqual(names((await call('GET', leases(namespace, '?resourceVersion=0&limit=500'))).body), ['l1']);
});

test('a version that is yet to come is refused with 504 ResourceVersionTooLarge', async (t) => {
  const namespace = await someLeases(1);
  for (const path of [leases(namespace), leases(namespace, '/l0')]) {
    const { status, body } = await call('GET', `${path}?resourceVersion=99999999`);
    t.is(status, 504);
    t.is(body.reason, 'Timeout');
    t.is(body.details.causes[0].reason, 'ResourceVersionTooLarge');
  }
});

test('a version that is no number is refused with 400', async (t) => {
  t.is((await call('GET', '/api/v1/nodes?resourceVersion=abc')).status, 400);
  t.is((await call('GET', '/api/v1/nodes?limit=abc')).status, 400);
  t.is((await call('GET', '/api/v1/nodes?watch=maybe')).status, 400);
});

const labelCases: readonly (readonly [selector: string, expected: readonly string[]])[] = [
  ['app=a', ['both', 'only-a']],
  ['app==a', ['both', 'only-a']],
  ['app!=a', ['bare', 'only-b']],
  ['app in (a, b)', ['both', 'only-a', 'only-b']],
  ['app notin (a)', ['bare', 'only-b']],
  ['app', ['both', 'only-a', 'only-b']],
  ['!app', ['bare']],
  ['app,tier', ['both']],
  ['app in (a,b),!tier', ['only-a', 'only-b']],
  ['tier>1', ['both']],
  ['tier<2', []],
  ['', ['bare', 'both', 'only-a', 'only-b']],
];

test('label selectors choose as kubectl users know them', async (t) => {
  const namespace = await server.namespace();
  const objects = {
    bare: undefined,
    both: { app: 'a', tier: '2' },
    'only-a': { app: 'a' },
    'only-b': { app: 'b' },
  };
  for (const [name, labels] of Object.entries(objects))
    await call('POST', leases(namespace), configured(name, namespace, labels));
  for (const [selector, expected] of labelCases) {
    const { body } = await call('GET', leases(namespace, `?labelSelector=${encodeURIComponent(selector)}`));
    t.deepEqual(names(body), [...expected], selector);
  }
});

test('a label selector that cannot be read is refused with 400', async (t) => {
  for (const selector of ['a b', 'a in b', 'a in (b', 'a=b=c', ',a', 'a,,b', '-a=b', 'a>x']) {
    const { status } = await call('GET', `/api/v1/nodes?labelSelector=${encodeURIComponent(selector)}`);
    t.is(status, 400, selector);
  }
});

test('field selectors choose by the fields of their kind', async (t) => {
  const namespace = await server.namespace();
  const pods = `/api/v1/namespaces/${namespace}/pods`;
  await call('POST', pods, pod('p1', namespace, { nodeName: 'n1' }));
  await call('POST', pods, pod('p2', namespace, { nodeName: 'n2' }));
  const services = `/api/v1/namespaces/${namespace}/services`;
  await call('POST', services, service('plain', namespace));
  await call('POST', services, service('headless', namespace, { clusterIP: 'None' }));
  await call('POST', services, service('open', namespace, { type: 'NodePort' }));
  const cases: readonly (readonly [string, string, readonly string[]])[] = [
    [pods, 'spec.nodeName=n1', ['p1']],
    [pods, 'spec.nodeName!=n1', ['p2']],
    [pods, 'status.phase=Pending,metadata.name=p2', ['p2']],
    [pods, `metadata.namespace=${namespace}`, ['p1', 'p2']],
    [services, 'spec.clusterIP!=None', ['open', 'plain']],
    [services, 'spec.clusterIP=None', ['headless']],
    [services, 'spec.type=NodePort', ['open']],
  ];
  for (const [path, selector, expected] of cases) {
    const { body } = await call('GET', `${path}?fieldSelector=${encodeURIComponent(selector)}`);
    t.deepEqual(names(body), [...expected], selector);
  }
});

test('a field that cannot be selected by is refused with 400', async (t) => {
  const { status, body } = await call('GET', '/api/v1/nodes?fieldSelector=spec.podCIDR%3Dx');
  t.is(status, 400);
  t.is(body.message, 'field label not supported: spec.podCIDR');
});
