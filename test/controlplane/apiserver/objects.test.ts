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

test('an update with the version of before another one is refused with 409 Conflict', async (t) => {
  const namespace = await server.namespace();
  const { body: first } = await call('POST', leases(namespace), configured('a', namespace));
  const { body: second } = await call('PUT', leases(namespace, 'a'), {
    ...first,
    spec: { holderIdentity: 'x' },
  });
  t.true(Number(second.metadata.resourceVersion) > Number(first.metadata.resourceVersion));
  const late = await call('PUT', leases(namespace, 'a'), { ...first, spec: { holderIdentity: 'y' } });
  t.is(late.status, 409);
  t.is(late.body.reason, 'Conflict');
  t.is(
    late.body.message,
    'Operation cannot be fulfilled on leases.coordination.k8s.io "a": the object has been modified; please apply your changes to the latest version and try again',
  );
});

test('an update without a version replaces whatever there is', async (t) => {
  const namespace = await server.namespace();
  await call('POST', leases(namespace), {
    ...configured('a', namespace, { x: '1' }),
    spec: { holderIdentity: 'x' },
  });
  const { status, body } = await call('PUT', leases(namespace, 'a'), configured('a', namespace));
  t.is(status, 200);
  t.is(body.metadata.labels, undefined);
  t.is(body.spec, undefined);
});

test('an update with the uid of another object is refused with 409', async (t) => {
  const namespace = await server.namespace();
  const { body } = await call('POST', leases(namespace), configured('a', namespace));
  const metadata = { ...body.metadata, uid: 'other', resourceVersion: undefined };
  const answer = await call('PUT', leases(namespace, 'a'), { ...body, metadata });
  t.is(answer.status, 409);
  t.true(answer.body.message.includes('Precondition failed: UID in precondition: other'));
});

test('an update that changes nothing keeps the version', async (t) => {
  const namespace = await server.namespace();
  const { body } = await call('POST', pods(namespace), pod('a', namespace));
  const reordered = Object.fromEntries(Object.entries(body).toReversed());
  t.deepEqual((await call('PUT', pods(namespace, 'a'), reordered)).body, body);
  const patched = await call(
    'PATCH',
    pods(namespace, 'a'),
    { metadata: { labels: null } },
    { 'content-type': 'application/merge-patch+json' },
  );
  t.deepEqual(patched.body, body);
});

test('generation counts changes of the wanted state only', async (t) => {
  const namespace = await server.namespace();
  const { body } = await call('POST', pods(namespace), pod('a', namespace));
  const labelled = await call('PUT', pods(namespace, 'a'), {
    ...body,
    metadata: { ...body.metadata, labels: { x: '1' } },
  });
  t.is(labelled.body.metadata.generation, 1);
  const image = {
    ...labelled.body,
    spec: { ...body.spec, containers: [{ ...body.spec.containers[0], image: 'j' }] },
  };
  t.is((await call('PUT', pods(namespace, 'a'), image)).body.metadata.generation, 2);
});

test('status is written on its own path only', async (t) => {
  const namespace = await server.namespace();
  const created = await call('POST', pods(namespace), {
    ...pod('a', namespace),
    status: { phase: 'Running' },
  });
  t.deepEqual(created.body.status, { phase: 'Pending' });
  const status = { phase: 'Running', podIPs: [{ ip: '10.244.0.2' }, { ip: 'fd00::2' }] };
  const main = await call('PUT', pods(namespace, 'a'), { ...created.body, status });
  t.deepEqual(main.body.status, { phase: 'Pending' });
  const part = await call('PUT', `${pods(namespace, 'a')}/status`, {
    ...created.body,
    status,
    spec: { containers: [] },
  });
  t.deepEqual(part.body.status, { ...status, podIP: '10.244.0.2' });
  t.deepEqual(part.body.spec, created.body.spec);
  t.is((await call('GET', `${pods(namespace, 'a')}/status`)).body.status.phase, 'Running');
});

test('a node keeps the status that it is created with', async (t) => {
  const status = { addresses: [{ type: 'InternalIP', address: '192.0.2.1' }], capacity: { cpu: '2' } };
  const { body } = await call('POST', '/api/v1/nodes', { metadata: { name: 'n-status' }, status });
  t.deepEqual(body.status, { ...status, allocatable: { cpu: '2' } });
  await call('DELETE', '/api/v1/nodes/n-status');
});

test('a node takes annotations by a strategic patch on its status path, as flannel writes them', async (t) => {
  await call('POST', '/api/v1/nodes', { metadata: { name: 'n-patch', annotations: { kept: 'yes' } } });
  const conditions = [{ type: 'Ready', status: 'True' }];
  const patch = (body: unknown) =>
    call('PATCH', '/api/v1/nodes/n-patch/status', body, {
      'content-type': 'application/strategic-merge-patch+json',
    });
  await patch({ status: { conditions } });
  await patch({ metadata: { annotations: { 'flannel.alpha.coreos.com/public-ip': '192.0.2.1' } } });
  const { body } = await patch({ status: { conditions: [{ type: 'NetworkUnavailable', status: 'False' }] } });
  t.deepEqual(body.metadata.annotations, { kept: 'yes', 'flannel.alpha.coreos.com/public-ip': '192.0.2.1' });
  t.deepEqual(body.status.conditions, [...conditions, { type: 'NetworkUnavailable', status: 'False' }]);
  await call('DELETE', '/api/v1/nodes/n-patch');
});

test('a merge patch removes with null and is refused with the wrong version', async (t) => {
  const namespace = await server.namespace();
  const { body } = await call('POST', leases(namespace), configured('a', namespace, { x: '1', y: '2' }));
  const patch = (patched: unknown) =>
    call('PATCH', leases(namespace, 'a'), patched, { 'content-type': 'application/merge-patch+json' });
  t.deepEqual((await patch({ metadata: { labels: { x: null, z: '3' } } })).body.metadata.labels, {
    y: '2',
    z: '3',
  });
  const late = await patch({
    metadata: { resourceVersion: body.metadata.resourceVersion, labels: { x: '4' } },
  });
  t.is(late.status, 409);
  t.is((await patch({ metadata: { name: 'b' } })).status, 400);
});

test('patches that come at the same time are all there in the end', async (t) => {
  const namespace = await server.namespace();
  await call('POST', leases(namespace), configured('a', namespace));
  const names = Array.from({ length: 20 }, (_, i) => `l${i}`);
  const answers = await Promise.all(
    names.map((name) =>
      call(
        'PATCH',
        leases(namespace, 'a'),
        { metadata: { labels: { [name]: 'x' } } },
        { 'content-type': 'application/merge-patch+json' },
      ),
    ),
  );
  t.true(answers.every(({ status }) => status === 200));
  const { body } = await call('GET', leases(namespace, 'a'));
  t.deepEqual(Object.keys(body.metadata.labels).sort(), names.sort());
});

test('a patch type that is not served is refused with 415 that names those which are', async (t) => {
  const namespace = await server.namespace();
  await call('POST', leases(namespace), configured('a', namespace));
  const { status, body } = await call('PATCH', leases(namespace, 'a'), [], {
    'content-type': 'application/json-patch+json',
  });
  t.is(status, 415);
  t.is(body.reason, 'UnsupportedMediaType');
  t.true(body.message.includes('application/merge-patch+json, application/strategic-merge-patch+json'));
});

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
