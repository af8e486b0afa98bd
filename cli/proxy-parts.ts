import { existsSync } from 'node:fs';
import { type Family, families, type Ip } from '../core/address.ts';
import type { KubeClient } from '../kube/client.ts';
import type { Backend, Views } from '../proxy/backend.ts';
import type { ProxyConfig } from '../proxy/config/config.ts';
import { writeDocument } from '../proxy/config/document.ts';
import { type ConnectionCounts, ServiceCounters } from '../proxy/counters.ts';
import { ConntrackBytes, startAccounting } from '../proxy/counters-bytes.ts';
import { eventReporter } from '../proxy/events.ts';
import { HttpService } from '../proxy/health/http.ts';
import { type HealthFacts, isKeptUp } from '../proxy/health/proxy-health.ts';
import { healthRoutes, metricsRoutes } from '../proxy/health/routes.ts';
import { ServiceHealthServers } from '../proxy/health/service-health.ts';
import { openIptables } from '../proxy/iptables/backend.ts';
import { openIpvs } from '../proxy/ipvs/backend.ts';
import { type IptablesRules, ProxyMetrics } from '../proxy/metrics.ts';
import { openNftables } from '../proxy/nftables/backend.ts';
import type { NodeFacts, ProxyPolicy } from '../proxy/policy.ts';
import { type ProxyObserver, type ProxyPass, type ServiceProxy, startProxy } from '../proxy/proxy.ts';
import { StaleFlows } from '../proxy/stale-flows.ts';
import type { ProxyRun } from './proxy-run.ts';
import { VERSION } from './version.ts';

/** kube-proxy's default, which keeps the cost of a pass down that is in ours the cost of the change. */
const USUAL_MIN_SYNC_PERIOD_MS = 1_000;

export interface PartsOptions {
  readonly run: ProxyRun;
  readonly client: KubeClient;
  readonly policy: ProxyPolicy;
  readonly mode: Backend['name'];
  readonly stack: AsyncDisposableStack;
  readonly onFatal: (error: Error) => void;
}

export interface Parts {
  readonly proxy: ServiceProxy;
  readonly metrics: ProxyMetrics;
}

/** The proxy with all that follows it: stale flows, health, metrics. They go to the stack, each on what it follows. */
export function openParts({ run, client, policy, mode, stack, onFatal }: PartsOptions): Parts {
  const { config, nodeName, log, resetTcp } = run;
  const startedAtMs = Date.now();
  const wanted = supportedFamilies();
  const { backend, iptablesRules, connections } = openBackend(mode, policy, run);
  const metrics = new ProxyMetrics({
    backend: mode,
    families: wanted,
    version: VERSION,
    startedAtMs,
    iptablesRules,
  });
  const events = eventReporter(client, nodeName, log);
  const onPass = metrics.flowsLooked.bind(metrics);
  const stale = stack.use(new StaleFlows({ resetTcp, log, onPass }));
  const facts = (): HealthFacts => healthFacts(proxy, wanted, config);
  const isProxyHealthy = () => isKeptUp(facts());
  const onFailure = events.healthCheckFailed;
  const checks = stack.use(new ServiceHealthServers({ isProxyHealthy, onFailure, log }));
  const following = followers(stale, checks, () => proxy.healthChecks);
  const proxy: ServiceProxy = startProxy({
    client,
    nodeName,
    nodeAddresses: givenAddress(config),
    policy,
    serviceProxyName: run.serviceProxyName,
    allowExternalIps: config.featureGates.AllowServiceExternalIPs ?? true,
    resetTcp,
    minSyncPeriodMs: minSyncPeriodOf(config, mode),
    // Nobody tells of changes to virtual servers' destinations: they are looked at as often as kube-proxy does.
    fullSyncIntervalMs: mode === 'ipvs' ? config.syncPeriodMs : undefined,
    backend,
    observers: [
      { passed: (pass) => metrics.passed(pass), failed: (_, kind) => metrics.failed(kind) },
      following,
    ],
    log,
  });
  stack.use(proxy);
  metrics.watch(proxy);
  countServices(run, proxy, connections, metrics, stack);
  openServers({ run, mode, metrics, facts, startedAtMs, stack, onFatal });
  events.starting();
  return { proxy, metrics };
}

/** What goes by the views and by the node as the kernel has them. */
function followers(
  stale: StaleFlows,
  checks: ServiceHealthServers,
  healthChecks: () => ServiceProxy['healthChecks'],
): ProxyObserver {
  let known: NodeFacts | undefined;
  return {
    passed(pass) {
      if (pass.facts !== known) {
        known = pass.facts;
        checks.setNodePortIps(known.nodePortIps);
        void stale.updateNode(known);
      }
      void stale.update(viewsOf(pass));
      void checks.sync(healthChecks());
    },
  };
}

function viewsOf({ changed }: ProxyPass): Views {
  return new Map(Array.from(changed, ([service, { after }]) => [service, after]));
}

interface ServersOptions extends Pick<PartsOptions, 'run' | 'mode' | 'stack' | 'onFatal'> {
  readonly metrics: ProxyMetrics;
  readonly facts: () => HealthFacts;
  readonly startedAtMs: number;
}

function openServers({ run, mode, metrics, facts, startedAtMs, stack, onFatal }: ServersOptions): void {
  const { config, document, shownFlags, log } = run;
  const pages = metricsRoutes({
    metrics,
    mode,
    configuration: writeDocument(document),
    flags: shownFlags,
    version: VERSION,
    startedAtMs,
  });
  const serve = { isFatal: config.bindAddressHardFail, onFatal, log };
  const { healthz, metrics: metricsAt } = config;
  if (healthz !== undefined) {
    const handler = healthRoutes(facts, metrics);
    stack.use(new HttpService({ ...serve, name: 'healthz', at: healthz, handler }));
  }
  if (metricsAt !== undefined)
    stack.use(new HttpService({ ...serve, name: 'metrics', at: metricsAt, handler: pages }));
}

/** IPv4 alone where the kernel runs without IPv6. */
function supportedFamilies(): readonly Family[] {
  return existsSync('/proc/net/if_inet6') ? families : [4];
}

interface OpenedBackend {
  readonly backend: Backend;
  readonly iptablesRules?: () => Iterable<IptablesRules>;
  readonly connections?: ConnectionCounts;
}

function openBackend(mode: Backend['name'], policy: ProxyPolicy, run: ProxyRun): OpenedBackend {
  const { countConnections = false, config, log } = run;
  const onRefused = (error: Error) => log.warn({ error: error.message }, 'change refused, table rebuilt');
  const onUnserved = (error: Error) => log.warn({ error: error.message }, 'only the other family is served');
  if (mode !== 'nftables' && countConnections) log.warn({ mode }, 'this mode does not count connections');
  if (mode === 'ipvs') return { backend: openIpvs({ policy, settings: config.ipvs, onRefused }) };
  if (mode === 'iptables') {
    const onLeft = ({ message }: Error) =>
      log.warn({ error: message }, 'the other kind of iptables still has rules of a proxy');
    const backend = openIptables({ policy, onUnserved, onLeft });
    return { backend, iptablesRules: () => backend.rules() };
  }
  const backend = openNftables({ policy, onRefused, onUnserved, counters: countConnections });
  return countConnections ? { backend, connections: backend.connections } : { backend };
}

/** Counters of Services in `/metrics`, where they are wanted. The proxy goes on without those that cannot be had. */
function countServices(
  { countBytes = false, log }: ProxyRun,
  proxy: ServiceProxy,
  connections: ConnectionCounts | undefined,
  metrics: ProxyMetrics,
  stack: AsyncDisposableStack,
): void {
  const bytes = countBytes ? stack.use(new ConntrackBytes()) : undefined;
  if (connections === undefined && bytes === undefined) return;
  const views = () => proxy.views;
  const onFailure = ({ message }: Error) => log.warn({ error: message }, 'Services are not counted');
  const counters = stack.use(new ServiceCounters({ connections, bytes, views, onFailure }));
  metrics.count(counters);
  const start = bytes === undefined ? undefined : startAccounting();
  // What flows have moved so far is not ours to count.
  void Promise.resolve(start)
    .catch(onFailure)
    .then(() => counters.text())
    .catch(onFailure);
}

/** `bindAddress` stands in for the Node's own address, unless it says nothing. */
function givenAddress({ bindAddress }: ProxyConfig): readonly Ip[] | undefined {
  return ['0.0.0.0', '::'].includes(bindAddress) ? undefined : [bindAddress];
}

function minSyncPeriodOf({ minSyncPeriodMs }: ProxyConfig, mode: Backend['name']): number {
  return mode === 'nftables' && minSyncPeriodMs === USUAL_MIN_SYNC_PERIOD_MS ? 0 : minSyncPeriodMs;
}

function healthFacts(
  proxy: ServiceProxy,
  wanted: readonly Family[],
  { syncPeriodMs }: ProxyConfig,
): HealthFacts {
  const { lastSyncedAtMs, waitingSinceMs } = proxy.status();
  const { node } = proxy;
  return {
    nowMs: Date.now(),
    lateMs: 2 * syncPeriodMs,
    families: wanted,
    lastSyncedAtMs,
    waitingSinceMs,
    node,
  };
}
