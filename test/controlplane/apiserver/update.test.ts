import test from 'ava';
import { configured, pod, startTestServer } from '../server.ts';

const server = await startTestServer();
test.after.always(() => server[Symbol.asyncDispose]());
const { call } = server;

const leases = (namespace: string, name = '') =>
  `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases${name === '' ? '' : `/${name}`}`;
const pods = (namespace: string, name = '') =>
  `/api/v1/namespaces/${namespace}/pods${name === '' ? '' : `/${name}`}`;

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
