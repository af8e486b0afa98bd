import test from 'ava';
import { healthzAnswer, livezAnswer, serviceHealthAnswer } from '../../../proxy/health/proxy-health.ts';

const NOW_MS = Date.UTC(2026, 0, 1, 12);
const EARLIER_MS = NOW_MS - 3_600_000;
const now = '2026-01-01T12:00:00.000Z';
const earlier = '2026-01-01T11:00:00.000Z';
const well = {
  nowMs: NOW_MS,
  lateMs: 60_000,
  families: [4, 6] as const,
  lastSyncedAtMs: EARLIER_MS,
  waitingSinceMs: undefined,
  node: { metadata: { name: 'node-1' } },
};
const tainted = {
  ...well.node,
  spec: { taints: [{ key: 'ToBeDeletedByClusterAutoscaler', effect: 'NoSchedule' }] },
};
const deleted = { metadata: { name: 'node-1', deletionTimestamp: '2026-01-01T11:59:00Z' } };

test('a proxy that keeps up is healthy, with the times and the shape of kube-proxy', (t) => {
  const { status, type, body } = healthzAnswer(well);
  t.is(status, 200);
  t.is(type, 'application/json');
  t.is(
    body,
    `{"lastUpdated":"${now}","currentTime":"${now}","nodeEligible":true,"healthy":true,` +
      `"status":{"IPv4":{"lastUpdated":"${now}","healthy":true},"IPv6":{"lastUpdated":"${now}","healthy":true}}}`,
  );
  t.is(
    livezAnswer({ ...well, families: [4] }).body,
    `{"lastUpdated":"${now}","currentTime":"${now}","healthy":true,"status":{"IPv4":{"lastUpdated":"${now}","healthy":true}}}`,
  );
});

test('a change that waits for twice the sync period makes it unhealthy, one moment less does not', (t) => {
  t.is(healthzAnswer({ ...well, waitingSinceMs: NOW_MS - 59_999 }).status, 200);
  const late = { ...well, waitingSinceMs: NOW_MS - 60_000 };
  t.is(healthzAnswer(late).status, 503);
  t.is(livezAnswer(late).status, 503);
  t.like(JSON.parse(livezAnswer(late).body), {
    lastUpdated: earlier,
    healthy: false,
    status: { IPv4: { lastUpdated: earlier, healthy: false } },
  });
});

test('while it awaits the first lists it is healthy, whether its Node is known or not', (t) => {
  const starting = { ...well, lastSyncedAtMs: undefined, node: undefined };
  t.is(healthzAnswer(starting).status, 200);
  t.is(livezAnswer(starting).status, 200);
});

test('a proxy whose first pass does not come to its end is unhealthy in time', (t) => {
  const starting = { ...well, lastSyncedAtMs: undefined };
  t.is(livezAnswer({ ...starting, waitingSinceMs: NOW_MS - 59_999 }).status, 200);
  t.is(livezAnswer({ ...starting, waitingSinceMs: NOW_MS - 60_000 }).status, 503);
  t.is(healthzAnswer({ ...starting, waitingSinceMs: NOW_MS - 60_000 }).status, 503);
});

test('a node that goes away is not for load balancers, but no reason to restart the proxy', (t) => {
  for (const node of [tainted, deleted, undefined]) {
    const { status, body } = healthzAnswer({ ...well, node: node as never });
    t.is(status, 503);
    t.like(JSON.parse(body), { nodeEligible: false, healthy: false, lastUpdated: earlier });
    t.is(livezAnswer({ ...well, node: node as never }).status, 200);
  }
});

test('a Service’s health is its ready local endpoints, while the rules are kept up', (t) => {
  const answer = (localEndpoints: number, isProxyHealthy: boolean) =>
    serviceHealthAnswer('shop/web', { localEndpoints, isProxyHealthy });
  t.is(answer(2, true).status, 200);
  t.is(answer(0, true).status, 503);
  t.is(answer(2, false).status, 503);
  t.deepEqual(answer(2, true).headers, { 'X-Load-Balancing-Endpoint-Weight': '2' });
  t.is(
    answer(2, true).body,
    '{\n\t"service": {\n\t\t"namespace": "shop",\n\t\t"name": "web"\n\t},\n\t"localEndpoints": 2,\n\t"serviceProxyHealthy": true\n}',
  );
});
