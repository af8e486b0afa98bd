import test from 'ava';
import { configured, pod, service, startTestServer } from '../server.ts';

const server = await startTestServer();
test.after.always(() => server[Symbol.asyncDispose]());
const { call } = server;

const leases = (namespace: string, name = '') =>
  `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases${name === '' ? '' : `/${name}`}`;
const pods = (namespace: string, name = '') =>
  `/api/v1/namespaces/${namespace}/pods${name === '' ? '' : `/${name}`}`;
const services = (namespace: string, name = '') =>
  `/api/v1/namespaces/${namespace}/services${name === '' ? '' : `/${name}`}`;

test('a created object has uid, time and version, and is read back equal', async (t) => {
  const namespace = await server.namespace();
  const created = await call('POST', leases(namespace), {
    ...configured('a', namespace),
    spec: { holderIdentity: 'x' },
  });
  t.is(created.status, 201);
  t.is(created.body.apiVersion, 'coordination.k8s.io/v1');
  t.is(created.body.kind, 'Lease');
  t.regex(created.body.metadata.uid, /^[0-9a-f]{8}-[0-9a-f-]{27}$/);
  t.regex(created.body.metadata.creationTimestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
  t.regex(created.body.metadata.resourceVersion, /^\d+$/);
  const read = await call('GET', leases(namespace, 'a'));
  t.is(read.status, 200);
  t.deepEqual(read.body, created.body);
});

test('what a client says about the fields of the server is ignored', async (t) => {
  const namespace = await server.namespace();
  const metadata = {
    ...configured('a', namespace).metadata,
    uid: 'mine',
    creationTimestamp: '2001-01-01T00:00:00Z',
    deletionTimestamp: '2001-01-01T00:00:00Z',
    generation: 7,
    managedFields: [{}],
  };
  const { body } = await call('POST', pods(namespace), { ...pod('a', namespace), metadata });
  t.not(body.metadata.uid, 'mine');
  t.not(body.metadata.creationTimestamp, '2001-01-01T00:00:00Z');
  t.is(body.metadata.deletionTimestamp, undefined);
  t.is(body.metadata.generation, 1);
  t.is(body.metadata.managedFields, undefined);
});

test('the namespace of the URL is filled in, and null counts as left out', async (t) => {
  const namespace = await server.namespace();
  const { status, body } = await call('POST', leases(namespace), {
    metadata: { name: 'a', creationTimestamp: null },
    spec: null,
  });
  t.is(status, 201);
  t.is(body.metadata.namespace, namespace);
  t.false('spec' in body);
});

test('a second object of the same name is refused with 409 AlreadyExists', async (t) => {
  const namespace = await server.namespace();
  await call('POST', leases(namespace), configured('a', namespace));
  const { status, body } = await call('POST', leases(namespace), configured('a', namespace));
  t.is(status, 409);
  t.deepEqual(body, {
    kind: 'Status',
    apiVersion: 'v1',
    metadata: {},
    status: 'Failure',
    message: 'leases.coordination.k8s.io "a" already exists',
    reason: 'AlreadyExists',
    details: { name: 'a', group: 'coordination.k8s.io', kind: 'leases' },
    code: 409,
  });
});

test('what is not there is 404 NotFound for every verb', async (t) => {
  const namespace = await server.namespace();
  for (const [method, body] of [['GET'], ['PUT', configured('a', namespace)], ['DELETE']] as const) {
    const answer = await call(method, services(namespace, 'a'), body);
    t.is(answer.status, 404, method);
    t.is(answer.body.message, 'services "a" not found');
    t.is(answer.body.reason, 'NotFound');
    t.deepEqual(answer.body.details, { name: 'a', kind: 'services' });
  }
});

test('a generated name is the base and five letters', async (t) => {
  const namespace = await server.namespace();
  const long = 'l'.repeat(60);
  for (const generateName of ['lease-', long]) {
    const { status, body } = await call('POST', leases(namespace), { metadata: { generateName } });
    t.is(status, 201);
    t.regex(body.metadata.name, new RegExp(`^${generateName.slice(0, 58)}[bcdfghjklmnpqrstvwxz2456789]{5}$`));
  }
});

test('a body that contradicts the URL is refused with 400', async (t) => {
  const namespace = await server.namespace();
  const other = await call('POST', leases(namespace), configured('a', 'default'));
  t.is(other.status, 400);
  t.regex(
    other.body.message,
    /namespace of the provided object does not match the namespace sent on the request/,
  );
  await call('POST', leases(namespace), configured('a', namespace));
  const renamed = await call('PUT', leases(namespace, 'a'), configured('b', namespace));
  t.is(renamed.status, 400);
  t.is(renamed.body.message, 'the name of the object (b) does not match the name on the URL (a)');
  const kind = await call('POST', leases(namespace), {
    ...configured('c', namespace),
    kind: 'Pod',
    apiVersion: 'v1',
  });
  t.is(kind.body.message, 'Pod in version "v1" cannot be handled as a Lease');
});

test('fields of a wrong type are refused with 400, all at once', async (t) => {
  const namespace = await server.namespace();
  const wrong = {
    ...configured('a', namespace),
    spec: { ports: [{ port: '80' }], selector: { app: 1 }, type: [] },
  };
  const { status, body } = await call('POST', services(namespace), wrong);
  t.is(status, 400);
  t.is(body.reason, 'BadRequest');
  for (const path of ['spec.ports[0].port', 'spec.selector.app', 'spec.type'])
    t.true(body.message.includes(path), path);
});

test('an invalid object is refused with 422 that names every problem', async (t) => {
  const namespace = await server.namespace();
  const wrong = {
    metadata: { name: 'Not_A_Name', namespace, labels: { '-': 'x' } },
    spec: { ports: [{ port: 0, targetPort: 1, protocol: 'ICMP' }] },
  };
  const { status, body } = await call('POST', services(namespace), wrong);
  t.is(status, 422);
  t.is(body.reason, 'Invalid');
  t.is(body.details.kind, 'Service');
  t.deepEqual(
    body.details.causes.map(({ field, reason }: { field: string; reason: string }) => [field, reason]),
    [
      ['metadata.name', 'FieldValueInvalid'],
      ['metadata.labels', 'FieldValueInvalid'],
      ['spec.ports[0].port', 'FieldValueInvalid'],
      ['spec.ports[0].protocol', 'FieldValueNotSupported'],
    ],
  );
  t.true(
    body.message.startsWith(
      'Service "Not_A_Name" is invalid: [metadata.name: Invalid value: "Not_A_Name": a DNS-1035',
    ),
  );
  t.true(
    body.message.includes('spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive'),
  );
});

test('an object in a namespace that is not there is refused with 404', async (t) => {
  const { status, body } = await call('POST', leases('nowhere'), configured('a', 'nowhere'));
  t.is(status, 404);
  t.is(body.message, 'namespaces "nowhere" not found');
});

test('a node keeps the status that it is created with', async (t) => {
  const status = { addresses: [{ type: 'InternalIP', address: '192.0.2.1' }], capacity: { cpu: '2' } };
  const { body } = await call('POST', '/api/v1/nodes', { metadata: { name: 'n-status' }, status });
  t.deepEqual(body.status, { ...status, allocatable: { cpu: '2' } });
  await call('DELETE', '/api/v1/nodes/n-status');
});

test('a dry run answers like the real thing and changes nothing', async (t) => {
  const namespace = await server.namespace();
  const { status, body } = await call(
    'POST',
    `${services(namespace)}?dryRun=All`,
    service('a', namespace, { type: 'NodePort' }),
  );
  t.is(status, 201);
  t.truthy(body.spec.clusterIP);
  t.is((await call('GET', services(namespace, 'a'))).status, 404);
  await call('POST', services(namespace), service('a', namespace));
  const patched = await call(
    'PATCH',
    `${services(namespace, 'a')}?dryRun=All`,
    { metadata: { labels: { x: '1' } } },
    { 'content-type': 'application/merge-patch+json' },
  );
  t.deepEqual(patched.body.metadata.labels, { x: '1' });
  await call('DELETE', services(namespace, 'a'), { dryRun: ['All'] });
  t.is((await call('GET', services(namespace, 'a'))).body.metadata.labels, undefined);
  t.is((await call('POST', `${services(namespace)}?dryRun=Some`, service('b', namespace))).status, 400);
});
