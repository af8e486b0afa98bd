import test from 'ava';
import type { Ip } from '../../core/address.ts';
import { listenHttp } from '../../proxy/health/http.ts';
import { healthRoutes, metricsRoutes } from '../../proxy/health/routes.ts';
import { type MeteredPass, ProxyMetrics } from '../../proxy/metrics.ts';
import type { Endpoint, ServicePortView } from '../../proxy/view.ts';
import { ask } from './health/ask.ts';

const STARTED_MS = Date.now();
const families = [4, 6] as const;

function open(backend: 'nftables' | 'iptables' | 'ipvs' = 'nftables') {
  const iptablesRules =
    backend === 'iptables' ? () => [{ table: 'nat', family: 4 as const, total: 40, last: 4 }] : undefined;
  return new ProxyMetrics({ backend, families, version: '1.2.3', startedAtMs: STARTED_MS, iptablesRules });
}

/** Lines of ours, without buckets. */
async function linesOf(metrics: ProxyMetrics): Promise<string[]> {
  const text = await metrics.registry.metrics();
  return text.split('\n').filter((line) => /^kubeproxy_/.test(line) && !line.includes('_bucket{'));
}

async function seriesOf(metrics: ProxyMetrics, series: string): Promise<number> {
  const line = (await linesOf(metrics)).find((one) => one.startsWith(`${series} `));
  return line === undefined ? Number.NaN : Number(line.slice(series.length + 1));
}

function endpoint(host: number, local = false): Endpoint {
  return { ip: `10.0.0.${host}` as Ip, port: 80, local, weight: 1 };
}

function port(more: Partial<ServicePortView>): ServicePortView {
  return {
    name: 'a/a:http',
    family: 4,
    protocol: 'tcp',
    frontends: [],
    clusterEndpoints: [],
    localEndpoints: [],
    internalPolicy: 'Cluster',
    externalPolicy: 'Cluster',
    hasAnyEndpoints: true,
    balancing: 'random',
    ...more,
  };
}

function pass(more: Partial<MeteredPass>): MeteredPass {
  return { kind: 'update', durationMs: 3, changed: new Map(), triggers: [], ...more };
}

const common = [
  'conntrack_reconciler_deleted_entries_total{ip_family}',
  'conntrack_reconciler_sync_duration_seconds{ip_family}',
  'network_programming_duration_seconds{ip_family}',
  'proxy_healthz_total{code}',
  'proxy_livez_total{code}',
  'sync_full_proxy_rules_duration_seconds{ip_family}',
  'sync_partial_proxy_rules_duration_seconds{ip_family}',
  'sync_proxy_rules_duration_seconds{ip_family}',
  'sync_proxy_rules_endpoint_changes_pending{}',
  'sync_proxy_rules_endpoint_changes_total{}',
  'sync_proxy_rules_last_queued_timestamp_seconds{ip_family}',
  'sync_proxy_rules_last_timestamp_seconds{ip_family}',
  'sync_proxy_rules_no_local_endpoints_total{ip_family,traffic_policy}',
  'sync_proxy_rules_service_changes_pending{}',
  'sync_proxy_rules_service_changes_total{}',
];
const ofMode = {
  nftables: [
    'sync_proxy_rules_nftables_cleanup_failures_total{ip_family}',
    'sync_proxy_rules_nftables_sync_failures_total{ip_family}',
  ],
  iptables: [
    'sync_proxy_rules_iptables_last{table,ip_family}',
    'sync_proxy_rules_iptables_partial_restore_failures_total{ip_family}',
    'sync_proxy_rules_iptables_restore_failures_total{ip_family}',
    'sync_proxy_rules_iptables_total{table,ip_family}',
  ],
  ipvs: ['sync_proxy_rules_iptables_restore_failures_total{ip_family}'],
};

for (const mode of ['nftables', 'iptables', 'ipvs'] as const) {
  test(`names and labels are kube-proxy’s, with ${mode}`, (t) => {
    const all = open(mode).registry.getMetricsAsArray() as unknown as {
      name: string;
      labelNames: string[];
    }[];
    const ours = all.filter(({ name }) => name.startsWith('kubeproxy_'));
    t.deepEqual(
      ours.map(({ name, labelNames }) => `${name.slice('kubeproxy_'.length)}{${labelNames}}`).toSorted(),
      [...common, ...ofMode[mode]].toSorted(),
    );
  });
}

test('the buckets of network programming are those that ClusterLoader2 asks for', async (t) => {
  const metrics = open();
  metrics.passed(pass({ triggers: [{ family: 4, atMs: Date.now() }] }));
  const text = await metrics.registry.metrics();
  const bounds = [
    ...text.matchAll(
      /^kubeproxy_network_programming_duration_seconds_bucket\{le="([^"]+)",ip_family="IPv4"/gm,
    ),
  ].map(([, bound]) => bound);
  t.is(bounds.length, 2 + 59 + 12 + 7 + 1);
  t.deepEqual(
    [bounds[0], bounds[1], bounds[2], bounds[61], bounds[73], bounds.at(-2)],
    ['0.25', '0.5', '1', '60', '120', '300'],
  );
});

test('a pass counts for both families, by its kind, with the changes that it was about', async (t) => {
  const metrics = open();
  const before = port({ clusterEndpoints: [endpoint(1)] });
  const changes = new Map([
    ['a/new', { before: [], after: [before] }],
    ['a/endpoints', { before: [before], after: [port({ clusterEndpoints: [endpoint(2)] })] }],
    ['a/policy', { before: [before], after: [{ ...before, affinitySeconds: 5 }] }],
  ]);
  metrics.passed(pass({ kind: 'full', durationMs: 2000, changed: changes }));
  metrics.passed(pass({ durationMs: 1000 }));
  const prefix = 'kubeproxy_sync_';
  t.is(await seriesOf(metrics, `${prefix}proxy_rules_duration_seconds_count{ip_family="IPv6"}`), 2);
  t.is(await seriesOf(metrics, `${prefix}proxy_rules_duration_seconds_sum{ip_family="IPv4"}`), 3);
  t.is(await seriesOf(metrics, `${prefix}full_proxy_rules_duration_seconds_count{ip_family="IPv4"}`), 1);
  t.is(await seriesOf(metrics, `${prefix}partial_proxy_rules_duration_seconds_count{ip_family="IPv4"}`), 1);
  t.is(await seriesOf(metrics, `${prefix}proxy_rules_service_changes_total`), 2);
  t.is(await seriesOf(metrics, `${prefix}proxy_rules_endpoint_changes_total`), 2);
});

test('changes are measured for the family of their slice, without those from before the start', async (t) => {
  const metrics = open();
  const at = (family: 4 | 6, atMs: number) => ({ family, atMs });
  metrics.passed(pass({ triggers: [at(4, STARTED_MS - 1), at(4, Date.now()), at(6, STARTED_MS - 1)] }));
  const count = 'kubeproxy_network_programming_duration_seconds_count';
  t.is(await seriesOf(metrics, `${count}{ip_family="IPv4"}`), 1);
  t.is(await seriesOf(metrics, `${count}{ip_family="IPv6"}`), Number.NaN);
});

test('what the proxy is at the moment is asked when somebody looks', async (t) => {
  const metrics = open();
  t.is(await seriesOf(metrics, 'kubeproxy_sync_proxy_rules_service_changes_pending'), 0);
  const local = { internalPolicy: 'Local', externalPolicy: 'Local' } as const;
  const views = new Map([
    ['a/a', [port(local), port({ ...local, family: 6, localEndpoints: [endpoint(1, true)] })]],
    ['a/b', [port({ externalPolicy: 'Local' }), port({ ...local, hasAnyEndpoints: false })]],
  ]);
  metrics.watch({
    views,
    status: () => ({ dirty: 3, lastSyncedAtMs: 1_700_000_000_000, lastQueuedAtMs: 1_800_000_000_000 }),
  });
  t.is(await seriesOf(metrics, 'kubeproxy_sync_proxy_rules_endpoint_changes_pending'), 3);
  t.is(
    await seriesOf(metrics, 'kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}'),
    1_700_000_000,
  );
  t.is(
    await seriesOf(metrics, 'kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv6"}'),
    1_800_000_000,
  );
  const none = (family: number, policy: string) =>
    seriesOf(
      metrics,
      `kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv${family}",traffic_policy="${policy}"}`,
    );
  t.deepEqual(
    [
      await none(4, 'internal'),
      await none(4, 'external'),
      await none(6, 'internal'),
      await none(6, 'external'),
    ],
    [1, 2, 0, 0],
  );
});

test('failures and forgotten flows begin at zero', async (t) => {
  const metrics = open();
  const failures = 'kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"}';
  const deleted = 'kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv6"}';
  t.deepEqual([await seriesOf(metrics, failures), await seriesOf(metrics, deleted)], [0, 0]);
  metrics.failed('update');
  metrics.flowsLooked({ family: 6, ms: 5, deleted: 7 });
  t.deepEqual([await seriesOf(metrics, failures), await seriesOf(metrics, deleted)], [1, 7]);
});

test('failures are counted by what failed', async (t) => {
  const ofIptables = open('iptables');
  for (const kind of ['full', 'update', 'full'] as const) ofIptables.failed(kind);
  ofIptables.cleanupFailed();
  const ofNftables = open('nftables');
  ofNftables.failed('update');
  ofNftables.cleanupFailed();
  ofNftables.cleanupFailed();
  const failures = (metrics: ProxyMetrics, what: string) =>
    seriesOf(metrics, `kubeproxy_sync_proxy_rules_${what}_failures_total{ip_family="IPv4"}`);
  t.deepEqual(
    [
      await failures(ofIptables, 'iptables_restore'),
      await failures(ofIptables, 'iptables_partial_restore'),
      await failures(ofNftables, 'nftables_sync'),
      await failures(ofNftables, 'nftables_cleanup'),
    ],
    [3, 1, 1, 2],
  );
});

test('iptables shows its rules by table', async (t) => {
  const metrics = open('iptables');
  t.is(
    await seriesOf(metrics, 'kubeproxy_sync_proxy_rules_iptables_total{table="nat",ip_family="IPv4"}'),
    40,
  );
  t.is(await seriesOf(metrics, 'kubeproxy_sync_proxy_rules_iptables_last{table="nat",ip_family="IPv4"}'), 4);
});

test('the servers’ pages', async (t) => {
  const metrics = open();
  const facts = () => ({
    nowMs: Date.now(),
    lateMs: 60_000,
    families,
    lastSyncedAtMs: undefined,
    waitingSinceMs: undefined,
    node: undefined,
  });
  const handlers = [
    healthRoutes(facts, metrics),
    metricsRoutes({
      metrics,
      mode: 'nftables',
      configuration: { mode: 'nftables' },
      flags: new Map([['v', '2']]),
      version: '1.2.3',
      startedAtMs: Date.now() - 3_725_000,
    }),
  ];
  const [health, pages] = await Promise.all(
    handlers.map((handler) => listenHttp({ host: '127.0.0.1' as Ip, port: 0 }, handler)),
  );
  t.teardown(() => Promise.all([health, pages].map((server) => server?.[Symbol.asyncDispose]())));
  const [healthPort, metricsPort] = [health?.port ?? 0, pages?.port ?? 0];
  t.is((await ask(healthPort, '/healthz')).status, 200);
  t.is((await ask(healthPort, '/livez')).status, 200);
  t.is((await ask(healthPort, '/metrics')).status, 404);
  t.is((await ask(metricsPort, '/healthz')).body, 'ok');
  const mode = await ask(metricsPort, '/proxyMode');
  t.is(mode.body, 'nftables');
  t.regex(mode.headers['content-type'] ?? '', /^text\/plain/);
  t.deepEqual(JSON.parse((await ask(metricsPort, '/configz')).body), {
    'kubeproxy.config.k8s.io': { mode: 'nftables' },
  });
  t.regex((await ask(metricsPort, '/flagz')).body, /^\nkube-proxy flags\nWarning: .*\n\nv=2\n$/);
  t.regex(
    (await ask(metricsPort, '/statusz')).body,
    /\nUp: 1 hr 0[23] min \d\d sec\n.*\nBinary version: 1\.2\.3\n/,
  );
  t.regex((await ask(metricsPort, '/statusz')).body, / \/metrics\/slis /);
  const slis = await ask(metricsPort, '/metrics/slis');
  t.regex(slis.body, /^kubernetes_healthcheck\{name="service-proxy",type="livez"\} 1$/m);
  t.regex(
    slis.body,
    /^kubernetes_healthchecks_total\{name="service-proxy",type="healthz",status="success"\} 1$/m,
  );
  const { body, headers } = await ask(metricsPort, '/metrics');
  t.regex(headers['content-type'] ?? '', /^text\/plain; version=0\.0\.4/);
  t.regex(body, /^kubeproxy_proxy_healthz_total\{code="200"\} 1$/m);
  t.regex(body, /^process_resident_memory_bytes \d+$/m);
  t.regex(body, /^kubernetes_build_info\{git_version="v1\.2\.3-fairlead",platform="linux\/\w+"\} 1$/m);
});
