import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { ENDPOINT_SLICES, SERVICES } from '../../kube/types.ts';
import { parseService, parseSlice } from './objects.ts';
import { setUp } from './stage.ts';

const web = parseService('default/web ips=10.96.0.10 ports=http:80');
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
