import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { startControlPlane } from '../../../controlplane/main.ts';
import { loadKubeConfig } from '../../../kube/config.ts';
import { native } from '../../../native/index.ts';
import { cidrs, configured, silent, startTestServer } from '../server.ts';

const AF_INET = 2;
const SOCK_STREAM = 1;

const server = await startTestServer();
test.after.always(() => server[Symbol.asyncDispose]());
const { call } = server;

test('without the token, or with another, everything but health and version is 401', async (t) => {
  for (const authorization of [
    '',
    'Bearer',
    'Bearer x',
    `Basic ${server.token}`,
    `Bearer ${server.token}x`,
  ]) {
    const { status, body } = await call('GET', '/api/v1/nodes', undefined, { authorization });
    t.is(status, 401, authorization);
    t.is(body.reason, 'Unauthorized');
  }
  for (const path of ['/healthz', '/livez', '/readyz', '/version']) {
    t.is((await call('GET', path, undefined, { authorization: '' })).status, 200, path);
  }
  t.is((await call('GET', '/nothing', undefined, { authorization: '' })).status, 401);
});

test('token and kubeconfig are for the owner only, and lead to the server', async (t) => {
  for (const file of ['token', 'kubeconfig', 'state.db']) {
    t.is(statSync(join(server.stateDir, file)).mode & 0o777, 0o600, file);
  }
  t.is(statSync(server.stateDir).mode & 0o777, 0o700);
  t.is(readFileSync(join(server.stateDir, 'token'), 'utf8').trim(), server.token);
  const config = await loadKubeConfig(server.kubeconfigPath);
  t.is(config.server, server.url);
  t.is(await config.authorization?.(), `Bearer ${server.token}`);
});

test('a body without content type counts as JSON', async (t) => {
  const namespace = await server.namespace();
  const body = Buffer.from(JSON.stringify(configured('a', namespace)));
  const answer = await fetch(`${server.url}/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.token}` },
    body,
  });
  t.is(answer.status, 201);
});

test('a body of another type is 415, one that is no JSON 400, one that is too large 413', async (t) => {
  const path = '/api/v1/nodes';
  const protobuf = await call('POST', path, 'k8s', { 'content-type': 'application/vnd.kubernetes.protobuf' });
  t.is(protobuf.status, 415);
  t.is((await call('POST', path, '{"metadata":')).status, 400);
  t.is((await call('POST', path, '[]')).status, 400);
  t.is((await call('POST', path)).status, 400);
  t.is((await call('POST', path, `${'{"a":'.repeat(50_000)}1${'}'.repeat(50_000)}`)).status, 400);
  const large = await call('POST', path, {
    metadata: { name: 'n', annotations: { x: 'x'.repeat(4 << 20) } },
  });
  t.is(large.status, 413);
  t.is(large.body.reason, 'RequestEntityTooLarge');
});

test('a client that does not take JSON is answered 406, one that takes it among others is served', async (t) => {
  const accept = (text: string) => call('GET', '/api/v1/nodes', undefined, { accept: text });
  t.is((await accept('application/yaml')).status, 406);
  t.is((await accept('application/json;as=Table;v=v1;g=meta.k8s.io')).status, 406);
  t.is((await accept('application/json;as=Table;v=v1;g=meta.k8s.io,application/json')).status, 200);
  t.is((await accept('application/vnd.kubernetes.protobuf,application/json')).status, 200);
});

test('a method that a path does not have is 405', async (t) => {
  for (const [method, path] of [
    ['PUT', '/api/v1/nodes'],
    ['POST', '/api/v1/nodes/n'],
    ['POST', '/api/v1/pods'],
    ['DELETE', '/api/v1/namespaces'],
    ['DELETE', '/api/v1/nodes/n/status'],
  ] as const) {
    const { status, body } = await call(method, path, {});
    t.is(status, 405, `${method} ${path}`);
    t.is(body.reason, 'MethodNotAllowed');
  }
});

test('a path that leads nowhere is 404', async (t) => {
  for (const path of [
    '/',
    '/api/v2',
    '/api/v1/things',
    '/apis/none/v1/nodes',
    '/api/v1/nodes/n/exec',
    '/api/v1/pods/p',
    '/api/v1/nodes/%zz',
  ]) {
    const { status, body } = await call('GET', path);
    t.is(status, 404, path);
    t.is(body.message, 'the server could not find the requested resource');
  }
});

test('discovery names every kind with its verbs and parts', async (t) => {
  t.deepEqual((await call('GET', '/api')).body.versions, ['v1']);
  const { body: groups } = await call('GET', '/apis');
  const names = groups.groups.map(({ name }: { name: string }) => name);
  t.deepEqual(names.sort(), ['coordination.k8s.io', 'discovery.k8s.io']);
  t.is(
    (await call('GET', '/apis/discovery.k8s.io')).body.preferredVersion.groupVersion,
    'discovery.k8s.io/v1',
  );
  const { body: core } = await call('GET', '/api/v1');
  t.is(core.kind, 'APIResourceList');
  t.is(core.groupVersion, 'v1');
  const resources = core.resources.map(({ name }: { name: string }) => name);
  for (const name of [
    'namespaces',
    'nodes',
    'nodes/status',
    'pods',
    'pods/status',
    'services',
    'services/status',
  ]) {
    t.true(resources.includes(name), name);
  }
  const service = core.resources.find(({ name }: { name: string }) => name === 'services');
  t.deepEqual(service, {
    name: 'services',
    singularName: 'service',
    namespaced: true,
    kind: 'Service',
    verbs: ['create', 'delete', 'deletecollection', 'get', 'list', 'patch', 'update', 'watch'],
    shortNames: ['svc'],
    categories: ['all'],
  });
  t.is((await call('GET', '/apis/discovery.k8s.io/v1')).body.resources[0].name, 'endpointslices');
});

test('the version is two whole numbers and a release', async (t) => {
  const { body } = await call('GET', '/version?timeout=32s');
  t.regex(body.major, /^\d+$/);
  t.regex(body.minor, /^\d+$/);
  t.regex(body.gitVersion, /^v1\.\d+\.\d+/);
});

test('one server serves several listeners, also a socket that was opened elsewhere', async (t) => {
  const fd = native.openSocket(-1, AF_INET, SOCK_STREAM, 0, 0);
  const anyPortOfLoopback = Uint8Array.from([AF_INET, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
  native.bind(fd, anyPortOfLoopback, 16);
  const urls: string[] = [];
  const stateDir = mkdtempSync(join(tmpdir(), 'fairlead-listeners-'));
  t.teardown(() => rmSync(stateDir, { recursive: true }));
  await using other = await startControlPlane({
    stateDir,
    listeners: [{ host: '127.0.0.1', port: 0 }, { fd }],
    clusterCidrs: [],
    serviceCidrs: cidrs('10.96.0.0/16'),
    log: silent,
  });
  urls.push(...other.urls);
  t.is(new Set(urls).size, 2);
  for (const url of urls) t.is(await (await fetch(`${url}/healthz`)).text(), 'ok', url);
});

test('the namespaces of every cluster are there at start', async (t) => {
  const { body } = await call('GET', '/api/v1/namespaces');
  const names = body.items.map(({ metadata }: { metadata: { name: string } }) => metadata.name);
  for (const name of ['default', 'kube-system', 'kube-public', 'kube-node-lease'])
    t.true(names.includes(name), name);
  const first = body.items.find(
    ({ metadata }: { metadata: { name: string } }) => metadata.name === 'default',
  );
  t.is(first.metadata.labels['kubernetes.io/metadata.name'], 'default');
  t.is(first.status.phase, 'Active');
  t.is((await call('DELETE', '/api/v1/namespaces/default')).status, 403);
});

test('wrong settings are refused together, by name', async (t) => {
  const error = await t.throwsAsync(startTestServer({ listeners: [], serviceCidrs: [] }));
  t.regex(error?.message ?? '', /listeners: at least one.*serviceCidrs: at least one/);
});
