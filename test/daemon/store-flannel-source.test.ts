import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { InputError } from '../../core/errors.ts';
import { parseFlannelFlags } from '../../daemon/flannel-flags.ts';
import { openFlannelSource } from '../../daemon/flannel-source.ts';
import { NODES, PODS, type V1Node } from '../../kube/types.ts';
import { startTestServer } from '../controlplane/server.ts';
import { certificates } from './certificates.ts';
import { EtcdServer, until } from './etcd-server.ts';

function setUp(t: ExecutionContext) {
  const directory = mkdtempSync(join(tmpdir(), 'fairlead-flannel-'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const told: string[] = [];
  const warn = (fields: object) => told.push((fields as { problem: string }).problem);
  const stop = new AbortController();
  t.teardown(() => stop.abort());
  const log = { info: () => {}, warn, error: () => {} };
  const open = (args: string[], environment: Record<string, string> = {}) => {
    const home = { hostname: 'host', log, signal: stop.signal, accountDir: directory };
    return openFlannelSource(parseFlannelFlags(args, environment), home);
  };
  return { directory, told, open, signal: stop.signal };
}

test('with kube-subnet-mgr: the node is that of the pod, the network that of net-conf.json, and Kubernetes cuts it', async (t) => {
  await using server = await startTestServer();
  const { directory, open, signal } = setUp(t);
  const path = join(directory, 'net-conf.json');
  writeFileSync(path, '{"Network":"10.244.0.0/16","SubnetLen":31,"Backend":{"Type":"vxlan"}}');
  const metadata = { name: 'flannel-x', namespace: 'default' };
  const spec = { nodeName: 'node-7', containers: [{ name: 'a', image: 'a' }] };
  await server.client.create(PODS, { apiVersion: 'v1', kind: 'Pod', metadata, spec });
  const args = [
    '--kube-subnet-mgr',
    `--kubeconfig-file=${server.kubeconfigPath}`,
    `--net-config-path=${path}`,
  ];
  using source = await open(args, { POD_NAME: 'flannel-x', POD_NAMESPACE: 'default' });
  t.is(source.nodeName, 'node-7');
  t.is(source.store.name, 'kubernetes');
  t.is(source.config.networks[4]?.network as string, '10.244.0.0/16');
  t.is(source.configSource.name, path);
  await server.client.create(NODES, { apiVersion: 'v1', kind: 'Node', metadata: { name: 'node-7' } });
  await source.store.announceReady?.(signal);
  const node = await server.client.get<V1Node>(NODES, 'node-7');
  const [condition] = node?.status?.conditions?.filter(({ type }) => type === 'NetworkUnavailable') ?? [];
  t.like(condition, { status: 'False', reason: 'FlannelIsUp', message: 'Flannel is running on this node' });
  using named = await open(args, { NODE_NAME: 'node-8' });
  t.is(named.nodeName, 'node-8');
  await t.throwsAsync(open(args), {
    instanceOf: InputError,
    message: 'environment: NODE_NAME: is missing, and so are POD_NAME and POD_NAMESPACE',
  });
});

test('files that cannot be read are named by their flag', async (t) => {
  const { open } = setUp(t);
  await t.throwsAsync(open(['--kube-subnet-mgr', '--net-config-path=/nowhere/x']), {
    instanceOf: InputError,
    message: /^options: --net-config-path: ENOENT.*\/nowhere\/x/,
  });
  await t.throwsAsync(open(['--etcd-cafile=/nowhere/ca']), {
    instanceOf: InputError,
    message: /^options: --etcd-cafile: ENOENT/,
  });
});

test('with etcd, a network that is not there yet is waited for, and its changes are told', async (t) => {
  await using etcd = await EtcdServer.start();
  const { open, told, signal } = setUp(t);
  const opening = open([`--etcd-endpoints=${etcd.endpoint}`, '--etcd-prefix=/net']);
  await until('the wait is told', () => told.length === 1);
  t.deepEqual(told, ['etcd: the key /net/config does not exist']);
  await etcd.ctlAsync('put', '/net/config', '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}');
  using source = await opening;
  t.is(source.nodeName, 'host');
  t.is(source.config.backend.type, 'vxlan');
  const texts: string[] = [];
  for await (const text of source.configSource.texts(signal)) {
    texts.push(text);
    if (texts.length === 3) break;
    if (texts.length === 2) {
      await etcd.stop();
      await etcd.run();
    }
    await etcd.ctlAsync('put', '/net/config', `{"Network":"10.${5 + texts.length}.0.0/16"}`);
    await etcd.ctlAsync('put', '/net/config2', 'x');
  }
  t.deepEqual(texts.slice(1), ['{"Network":"10.6.0.0/16"}', '{"Network":"10.7.0.0/16"}']);
});

test('with the URL of an API server alone, the pod’s account says who asks, and not in the clear', async (t) => {
  const { directory, open } = setUp(t);
  const { ca, cert, key } = certificates(t);
  const asked: (string | undefined)[] = [];
  const answer = (request: IncomingMessage, response: ServerResponse) => {
    asked.push(request.headers.authorization);
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end('{"spec":{"nodeName":"node-7"}}');
  };
  const secure = https.createServer({ cert: readFileSync(cert), key: readFileSync(key) }, answer);
  const clear = http.createServer(answer);
  writeFileSync(join(directory, 'net-conf.json'), '{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}');
  writeFileSync(join(directory, 'token'), 'secret\n');
  writeFileSync(join(directory, 'ca.crt'), readFileSync(ca));
  for (const [scheme, server] of [
    ['https', secure],
    ['http', clear],
  ] as const) {
    await once(server.listen(0, '127.0.0.1'), 'listening');
    t.teardown(() => server.close());
    const url = `${scheme}://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const args = ['--kube-subnet-mgr', `--kube-api-url=${url}`];
    const path = `--net-config-path=${join(directory, 'net-conf.json')}`;
    using source = await open([...args, path], { POD_NAME: 'flannel-x', POD_NAMESPACE: 'kube-flannel' });
    t.is(source.nodeName, 'node-7');
  }
  t.deepEqual(asked, ['Bearer secret', undefined]);
});
