import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import { service, startTestServer } from './server.ts';

const run = promisify(execFile);
const server = await startTestServer();
test.after.always(() => server[Symbol.asyncDispose]());

/** kubectl sends its token over TLS only, so something before the server adds it. */
async function startFront(): Promise<{ url: string; close(): void }> {
  const front = http.createServer((request, response) => {
    const headers = { ...request.headers, authorization: `Bearer ${server.token}` };
    const onward = http.request(server.url + request.url, { method: request.method, headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 500, answer.headers);
      response.flushHeaders();
      answer.pipe(response);
    });
    request.pipe(onward);
    response.on('close', () => onward.destroy());
  });
  await new Promise<void>((resolve) => front.listen(0, '127.0.0.1', resolve));
  const close = () => {
    front.closeAllConnections();
    front.close();
  };
  return { url: `http://127.0.0.1:${(front.address() as AddressInfo).port}`, close };
}

test('kubectl reads, creates, changes, watches and deletes', async (t) => {
  const namespace = await server.namespace();
  const front = await startFront();
  t.teardown(() => front.close());
  const common = ['--server', front.url, '--cache-dir', join(server.stateDir, 'cache'), '-n', namespace];
  const kubectl = async (...args: string[]) => (await run('kubectl', [...common, ...args])).stdout.trim();
  const manifest = join(server.stateDir, 'service.json');
  writeFileSync(
    manifest,
    JSON.stringify({ apiVersion: 'v1', kind: 'Service', ...service('web', namespace) }),
  );
  t.true((await kubectl('api-resources', '-o', 'name')).includes('endpointslices.discovery.k8s.io'));
  t.is(await kubectl('create', '--validate=false', '-f', manifest), 'service/web created');
  t.is(await kubectl('get', 'svc', '-o', 'name'), 'service/web');
  t.is(await kubectl('label', 'svc', 'web', 'tier=front'), 'service/web labeled');
  t.is(await kubectl('patch', 'svc', 'web', '-p', '{"spec":{"type":"NodePort"}}'), 'service/web patched');
  t.regex(
    await kubectl('get', 'svc', '-l', 'tier=front', '-o', 'jsonpath={.items[0].spec.ports[0].nodePort}'),
    /^3\d{4}$/,
  );
  t.is(await kubectl('get', 'svc', 'web', '-o', 'jsonpath={.spec.type}'), 'NodePort');
  t.is(await kubectl('delete', 'svc', 'web', '--timeout=5s'), 'service "web" deleted');
  const missing = await t.throwsAsync(kubectl('get', 'svc', 'web'));
  t.true(missing?.message.includes('Error from server (NotFound): services "web" not found'));
});
