import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { ENDPOINT_SLICES, SERVICES } from '../../kube/types.ts';
import type { FakeApi } from './fake-api.ts';
import { parseService, parseSlice } from './objects.ts';
import { setUp, until } from './stage.ts';

const web = parseService('default/web ips=10.96.0.10 ports=http:80');
/** Another one each time. */
function changes(api: FakeApi): () => void {
  let count = 0;
  return () => {
    count += 1;
    api.put(
      ENDPOINT_SLICES,
      parseSlice(`default/web-1 service=web ports=http:8080 10.244.1.${1 + (count % 9)}`),
    );
  };
}

const webSlice = parseSlice('default/web-1 service=web ports=http:8080 10.244.1.5 10.244.1.6');

test('an endpoint slice of no service waits for nothing', async (t) => {
  const { api, start, called } = setUp(t);
  api.put(SERVICES, web);
  const proxy = start();
  await proxy.synced;
  api.put(ENDPOINT_SLICES, { ...webSlice, metadata: { ...webSlice.metadata, name: 'alone', labels: {} } });
  await sleep(50);
  t.is(proxy.status().waitingSinceMs, undefined);
  api.put(ENDPOINT_SLICES, webSlice);
  t.is((await called(2))[1], 'update default/web=2');
  t.is(proxy.status().waitingSinceMs, undefined);
});

test('others’ changes are noticed while services change all the time', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  await start({ minSyncPeriodMs: 50 }).synced;
  backend.onSync = changes(api);
  backend.onSync();
  await sleep(200);
  backend.disturbed = true;
  await until(() => backend.calls.filter((call) => call.startsWith('replace')).length === 2);
  t.pass();
});

test('where others change things all the time, what is gone is made again at once all the same', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  backend.staysDisturbed = true;
  backend.disturbed = true;
  // Each pass of this length is paid for by six seconds without looking.
  backend.replaceMs = 600;
  await start().synced;
  await sleep(1_500);
  const passes = backend.calls.length;
  t.true(passes <= 2);
  const startMs = performance.now();
  backend.damaged = true;
  await until(() => backend.calls.length === passes + 1);
  t.true(performance.now() - startMs < 3_000);
});

test('everything is compared from time to time while services change all the time', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  await start({ minSyncPeriodMs: 50, fullSyncIntervalMs: 100 }).synced;
  backend.onSync = changes(api);
  backend.onSync();
  await until(() => backend.calls.filter((call) => call.startsWith('replace')).length === 3);
  t.pass();
});

test('nothing waits while the first lists are awaited; then the first pass does, until one succeeds', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  api.hold(ENDPOINT_SLICES);
  backend.failNext = 1;
  const proxy = start();
  await sleep(50);
  t.is(proxy.status().waitingSinceMs, undefined);
  const readyAtMs = Date.now();
  api.release(ENDPOINT_SLICES);
  await until(() => proxy.status().failures === 1);
  const { waitingSinceMs } = proxy.status();
  t.true(waitingSinceMs !== undefined && waitingSinceMs >= readyAtMs);
  await proxy.synced;
  t.is(proxy.status().waitingSinceMs, undefined);
});

test('what others did and cannot be put right is late as well', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  const proxy = start();
  await proxy.synced;
  backend.failNext = 2;
  backend.disturbed = true;
  await until(() => proxy.status().failures === 2);
  t.not(proxy.status().waitingSinceMs, undefined);
  await until(() => proxy.status().failures === 0);
  t.is(proxy.status().waitingSinceMs, undefined);
});

test('a change counts as queued when it comes, and a failed pass says of what kind it was', async (t) => {
  const { api, backend, start } = setUp(t);
  api.put(SERVICES, web);
  const failed: string[] = [];
  const proxy = start({ observers: [{ failed: (_, kind) => failed.push(kind) }] });
  await proxy.synced;
  const beforeMs = proxy.status().lastQueuedAtMs ?? Number.NaN;
  await sleep(20);
  backend.failNext = 2;
  api.put(ENDPOINT_SLICES, webSlice);
  await until(() => failed.length === 1);
  t.true((proxy.status().lastQueuedAtMs ?? 0) > beforeMs);
  await until(() => failed.length === 2);
  t.deepEqual(failed, ['update', 'full']);
});
