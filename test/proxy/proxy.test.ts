import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { ENDPOINT_SLICES, SERVICES } from '../../kube/types.ts';
import type { Backend, SyncResult, Views } from '../../proxy/backend.ts';
import { startProxy } from '../../proxy/proxy.ts';
import { FakeApi } from './fake-api.ts';
import { parseService, parseSlice } from './objects.ts';

/** Writes down what it is asked to do. */
class RecordingBackend implements Backend {
  readonly name = 'nftables';
  readonly calls: string[] = [];
  disturbed = false;
  disposed = false;
  failNext = 0;

  async replace(views: Views): Promise<SyncResult> {
    this.disturbed = false;
    return this.#record('replace', views);
  }

  async update(changed: Views): Promise<SyncResult> {
    return this.#record('update', changed);
  }

  #record(call: string, views: Views): SyncResult {
    const texts = Array.from(views, ([service, ports]) => {
      return `${service}=${ports.map(({ clusterEndpoints }) => clusterEndpoints.length).join('+') || 'gone'}`;
    });
    this.calls.push([call, ...texts.sort()].join(' '));
    const fails = this.failNext > 0;
    if (fails) this.failNext -= 1;
    const failures = fails ? [{ key: 'x', kind: 'create', error: new Error('refused') } as const] : [];
    return { writes: 1, failures };
  }

  async updateNode(): Promise<SyncResult> {
    return { writes: 0, failures: [] };
  }

  async isDisturbed(): Promise<boolean> {
    return this.disturbed;
  }

  problems(): ReadonlyMap<string, string> {
    return new Map();
  }

  [Symbol.dispose](): void {
    this.disposed = true;
  }
}

function setUp(t: ExecutionContext) {
  const api = new FakeApi();
  const backend = new RecordingBackend();
  const lines: string[] = [];
  const log = pino({ level: 'info' }, { write: (line) => lines.push(line) });
  const start = () => {
    const proxy = startProxy({
      client: api,
      nodeName: 'here',
      nodeAddresses: [],
      clusterCidrs: [],
      log,
      backend,
    });
    t.teardown(() => proxy[Symbol.asyncDispose]());
    return proxy;
  };
  const called = async (count: number) => {
    const deadline = performance.now() + 5_000;
    while (backend.calls.length < count && performance.now() < deadline) await sleep(5);
    return backend.calls;
  };
  return { api, backend, lines, start, called };
}

const web = parseService('default/web ips=10.96.0.10 ports=http:80');
const webSlice = parseSlice('default/web-1 service=web ports=http:8080 10.244.1.5 10.244.1.6');

test('nothing is written before both services and endpoint slices are known', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  api.put(ENDPOINT_SLICES, webSlice);
  api.hold(ENDPOINT_SLICES);
  const proxy = start();
  await sleep(50);
  t.deepEqual(backend.calls, []);
  t.false(proxy.status().synced);
  api.release(ENDPOINT_SLICES);
  await proxy.synced;
  t.deepEqual(backend.calls, ['replace default/web=2']);
  t.like(proxy.status(), { synced: true, services: 1, endpoints: 2, writes: 1, fullSyncs: 1, failures: 0 });
});

test('services of other proxies, headless services and their slices are not asked for', async (t) => {
  const { api, start } = setUp(t);
  await start().synced;
  t.deepEqual(api.selectors.get('services'), {
    labelSelector: '!service.kubernetes.io/service-proxy-name',
    fieldSelector: 'spec.clusterIP!=None',
  });
  t.deepEqual(api.selectors.get('endpointslices'), {
    labelSelector: '!service.kubernetes.io/headless',
    fieldSelector: undefined,
  });
});

test('a change brings its own service to the backend, several in a burst together', async (t) => {
  const { api, start, called } = setUp(t);
  api.put(SERVICES, web, parseService('default/api ips=10.96.0.11 ports=http:80'));
  api.put(ENDPOINT_SLICES, webSlice);
  await start().synced;
  api.put(ENDPOINT_SLICES, parseSlice('default/web-1 service=web ports=http:8080 10.244.1.5'));
  t.is((await called(2))[1], 'update default/web=1');
  api.delete(SERVICES, 'default/web');
  api.put(ENDPOINT_SLICES, parseSlice('default/api-1 service=api ports=http:8080 10.244.1.9'));
  t.is((await called(3))[2], 'update default/api=1 default/web=gone');
});

test('after a failure everything is read back and written again', async (t) => {
  const { api, backend, start, called } = setUp(t);
  api.put(SERVICES, web);
  const proxy = start();
  await proxy.synced;
  backend.failNext = 1;
  api.put(ENDPOINT_SLICES, webSlice);
  t.deepEqual((await called(3)).slice(1), ['update default/web=2', 'replace default/web=2']);
  t.is(proxy.status().failures, 0);
});

test('passes that fail one after the other are counted', async (t) => {
  const { api, backend, start, called } = setUp(t);
  api.put(SERVICES, web);
  backend.failNext = 2;
  const proxy = start();
  await called(2);
  await sleep(20);
  t.is(proxy.status().failures, 2);
  await proxy.synced;
  t.is(proxy.status().failures, 0);
});

test('the proxy is not synced as long as the first pass fails', async (t) => {
  const { api, backend, start, called } = setUp(t);
  api.put(SERVICES, web);
  backend.failNext = 1;
  const proxy = start();
  await called(1);
  await sleep(20);
  t.like(proxy.status(), { synced: false, failures: 1 });
  await proxy.synced;
  t.deepEqual(backend.calls, ['replace default/web=0', 'replace default/web=0']);
});

test('what others change is noticed within a second', async (t) => {
  const { api, backend, start, called } = setUp(t);
  api.put(SERVICES, web);
  await start().synced;
  backend.disturbed = true;
  const startMs = performance.now();
  t.is((await called(2))[1], 'replace default/web=0');
  t.true(performance.now() - startMs < 1_000);
});

test('a problem with an object is said once, and once that it is over', async (t) => {
  const { api, lines, start, called } = setUp(t);
  api.put(SERVICES, web);
  await start().synced;
  const bad = parseSlice('default/web-1 service=web ports=http:8080 nonsense');
  api.put(ENDPOINT_SLICES, bad);
  await called(2);
  api.put(ENDPOINT_SLICES, bad);
  await called(3);
  api.put(ENDPOINT_SLICES, webSlice);
  await called(4);
  await sleep(5);
  const problems = lines.map((line) => JSON.parse(line)).filter(({ service }) => service !== undefined);
  t.deepEqual(
    problems.map(({ msg, problem }) => [msg, problem]),
    [
      ['service problem', 'endpointslice web-1: endpoints[0].addresses: is no IPv4 address: "nonsense"'],
      ['service is well again', undefined],
    ],
  );
});

test('what cannot be read of an object is left out, and the others go on', async (t) => {
  const { api, start, called } = setUp(t);
  api.put(SERVICES, web, parseService('default/api ips=10.96.0.11 ports=http:80'));
  api.put(ENDPOINT_SLICES, webSlice);
  await start().synced;
  api.put(ENDPOINT_SLICES, { ...webSlice, endpoints: 7 } as object);
  api.put(ENDPOINT_SLICES, parseSlice('default/api-1 service=api ports=http:8080 10.244.1.9'));
  t.is((await called(2))[1], 'update default/api=1 default/web=0');
});

test('a stopped proxy writes nothing more and lets go of its backend', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  const proxy = start();
  await proxy.synced;
  await proxy[Symbol.asyncDispose]();
  t.true(backend.disposed);
  api.put(ENDPOINT_SLICES, webSlice);
  await sleep(50);
  t.deepEqual(backend.calls, ['replace default/web=0']);
});
