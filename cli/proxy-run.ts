import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { type Family, families, type Ip } from '../core/address.ts';
import { KubeClient } from '../kube/client.ts';
import { loadKubeConfig } from '../kube/config.ts';
import { NODES, type V1Node } from '../kube/types.ts';
import type { Backend, Views } from '../proxy/backend.ts';
import { removeOtherModes } from '../proxy/cleanup.ts';
import { detectCidrs, type ProxyConfig, parseProxyConfiguration } from '../proxy/config/config.ts';
import { writeDocument } from '../proxy/config/document.ts';
import { untilFileChanged } from '../proxy/config/watch.ts';
import { eventReporter } from '../proxy/events.ts';
import { HttpService } from '../proxy/health/http.ts';
import { type HealthFacts, isKeptUp } from '../proxy/health/proxy-health.ts';
import { healthRoutes, metricsRoutes } from '../proxy/health/routes.ts';
import { ServiceHealthServers } from '../proxy/health/service-health.ts';
import { openIptables } from '../proxy/iptables/backend.ts';
import { type IptablesRules, ProxyMetrics } from '../proxy/metrics.ts';
import { openNftables } from '../proxy/nftables/backend.ts';
import type { NodeFacts, ProxyPolicy } from '../proxy/policy.ts';
import { type ProxyPass, type ServiceProxy, startProxy } from '../proxy/proxy.ts';
import { StaleFlows } from '../proxy/stale-flows.ts';
import type { ProxyRun } from './proxy-start.ts';
import { untilStopped } from './signals.ts';
import { VERSION } from './version.ts';

/** With detectLocalMode NodeCIDR nothing can be done before the Node has its networks. */
const NODE_CIDR_WAIT_MS = 5 * 60_000;
const NODE_POLL_MS = 500;
const NODE_CIDR_CHECK_MS = 5_000;
/** kube-proxy's default, which keeps the cost of a pass down that is in ours the cost of the change. */
const USUAL_MIN_SYNC_PERIOD_MS = 1_000;

/** Serves until stopped by a signal, which leaves the rules. Rejects when it has to be started again. */
export async function runProxy(run: ProxyRun): Promise<void> {
  const { config, log } = run;
  const startedAtMs = Date.now();
  const stop = new AbortController();
  const stopped = untilStopped().then((signal) => {
    stop.abort(new Error(`stopped by ${signal}`));
    log.info({ signal }, 'stopping; the rules stay');
  });
  const fatal = Promise.withResolvers<never>();
  fatal.promise.catch(() => {});

  await using stack = new AsyncDisposableStack();
  stack.defer(() => stop.abort());
  const client = stack.use(await openClient(config));
  const nodeCidrs = config.detectsNodeCidrs ? await waitForPodCidrs(client, run, stop.signal) : undefined;
  if (stop.signal.aborted) return;
  const policy = nodeCidrs ? { ...config.policy, detectLocal: detectCidrs(nodeCidrs) } : config.policy;
  const parts = openParts({ run, client, policy, startedAtMs, stack, onFatal: fatal.reject });
  void parts.proxy.synced.then(() => removeOthers(parts.backendName, log)).catch(() => {});
  if (nodeCidrs) watchPodCidrs(parts.proxy, nodeCidrs, stop.signal, fatal.reject);
  await Promise.race([stopped, fatal.promise, untilReconfigured(run, stop.signal)]);
}

interface PartsOptions {
  readonly run: ProxyRun;
  readonly client: KubeClient;
  readonly policy: ProxyPolicy;
  readonly startedAtMs: number;
  readonly stack: AsyncDisposableStack;
  readonly onFatal: (error: Error) => void;
}

/** The proxy with all that follows it: stale flows, health, metrics. Disposed in the other order. */
function openParts({ run, client, policy, startedAtMs, stack, onFatal }: PartsOptions) {
  const { config, nodeName, log, options } = run;
  const wanted = supportedFamilies();
  const { backend, iptablesRules } = openBackend(config, policy, log);
  const metrics = new ProxyMetrics({
    backend: backend.name,
    families: wanted,
    version: VERSION,
    startedAtMs,
    iptablesRules,
  });
  const events = eventReporter(client, nodeName, log);
  const onPass = metrics.flowsLooked.bind(metrics);
  const stale = stack.use(new StaleFlows({ resetTcp: options.resetTcp, log, onPass }));
  const facts = (): HealthFacts => healthFacts(proxy, wanted, config);
  const isProxyHealthy = () => isKeptUp(facts());
  const onFailure = events.healthCheckFailed;
  const checks = stack.use(new ServiceHealthServers({ isProxyHealthy, onFailure, log }));
  const tellNode = ({ nodePortIps, serviceCidrs }: NodeFacts) => {
    checks.setNodePortIps(nodePortIps);
    void stale.updateNode({ nodePortIps, serviceCidrs });
  };
  const passed = (pass: ProxyPass) => {
    metrics.passed(pass);
    void stale.update(viewsOf(pass));
    void checks.sync(proxy.healthChecks);
  };
  const proxy: ServiceProxy = startProxy({
    client,
    nodeName,
    nodeAddresses: givenAddress(config),
    policy,
    serviceProxyName: options.serviceProxyName,
    allowExternalIps: config.featureGates.AllowServiceExternalIPs ?? true,
    minSyncPeriodMs: minSyncPeriodOf(config, backend.name),
    backend: tellingNode(backend, tellNode),
    observers: [{ passed, failed: () => metrics.failed() }],
    log,
  });
  stack.use(proxy);
  metrics.watch(proxy);
  const pages = metricsRoutes({
    metrics,
    mode: backend.name,
    configuration: writeDocument(run.document),
    flags: run.shownFlags,
    version: VERSION,
    startedAtMs,
  });
  const isFatal = config.bindAddressHardFail;
  const serve = { isFatal, onFatal, log };
  const { healthz, metrics: metricsAt } = config;
  if (healthz)
    stack.use(
      new HttpService({ ...serve, name: 'healthz', at: healthz, handler: healthRoutes(facts, metrics) }),
    );
  if (metricsAt) stack.use(new HttpService({ ...serve, name: 'metrics', at: metricsAt, handler: pages }));
  events.starting();
  return { proxy, backendName: backend.name };
}

/** IPv4 alone where the kernel runs without IPv6. */
function supportedFamilies(): readonly Family[] {
  return existsSync('/proc/net/if_inet6') ? families : [4];
}

async function openClient({ clientConnection: { kubeconfig, master } }: ProxyConfig): Promise<KubeClient> {
  if (master !== undefined && kubeconfig === undefined) return new KubeClient({ server: master });
  const access = await loadKubeConfig(kubeconfig);
  return new KubeClient(master === undefined ? access : { ...access, server: master });
}

interface OpenedBackend {
  readonly backend: Backend;
  readonly iptablesRules?: () => Iterable<IptablesRules>;
}

function openBackend({ mode = 'nftables' }: ProxyConfig, policy: ProxyPolicy, log: Logger): OpenedBackend {
  if (mode === 'iptables') {
    const backend = openIptables({ policy });
    return { backend, iptablesRules: () => backend.rules() };
  }
  if (mode === 'ipvs') throw new Error('mode: "ipvs" is not there yet; nftables and iptables are');
  const clusterCidrs = policy.detectLocal.mode === 'cidrs' ? policy.detectLocal.cidrs : [];
  const onRefused = (error: Error) => log.warn({ error: error.message }, 'change refused, table rebuilt');
  const options = { policy, clusterCidrs, nodeAddresses: [] as readonly Ip[], onRefused };
  return { backend: openNftables(options) };
}

/** What backends are told of the node is for others, too. */
function tellingNode(backend: Backend, tell: (facts: NodeFacts) => void): Backend {
  return {
    name: backend.name,
    replace: (views) => backend.replace(views),
    update: (changed) => backend.update(changed),
    updateNode(facts) {
      tell(facts);
      return backend.updateNode(facts);
    },
    isDisturbed: () => backend.isDisturbed(),
    problems: () => backend.problems(),
    [Symbol.dispose]: () => backend[Symbol.dispose](),
  };
}

/** `bindAddress` stands in for the Node's own address, unless it says nothing. */
function givenAddress({ bindAddress }: ProxyConfig): readonly Ip[] | undefined {
  return ['0.0.0.0', '::'].includes(bindAddress) ? undefined : [bindAddress];
}

function minSyncPeriodOf({ minSyncPeriodMs }: ProxyConfig, backend: Backend['name']): number {
  return backend === 'nftables' && minSyncPeriodMs === USUAL_MIN_SYNC_PERIOD_MS ? 0 : minSyncPeriodMs;
}

function viewsOf({ changed }: ProxyPass): Views {
  return new Map(Array.from(changed, ([service, { after }]) => [service, after]));
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

async function removeOthers(mode: Backend['name'], log: Logger): Promise<void> {
  try {
    const removed = await removeOtherModes(mode);
    if (removed.length > 0) log.info({ removed }, 'another mode left this, it is gone');
  } catch (error) {
    log.warn({ error: (error as Error).message }, 'what another mode left cannot be removed');
  }
}

/** Rejects when the file says something new that can be used; then we are started again. */
async function untilReconfigured(
  { options, text, flags, log }: ProxyRun,
  signal: AbortSignal,
): Promise<void> {
  const { config: path } = options;
  if (path === undefined || text === undefined) return await new Promise(() => {});
  const isChanged = await untilFileChanged({
    path,
    text,
    validate: (next) => void parseProxyConfiguration(next, { flags, name: path }),
    onInvalid: (error) => log.error({ error: error.message }, 'the new configuration cannot be used'),
    signal,
  });
  if (isChanged) throw new Error(`${path} has changed: this process ends, to be started with it`);
}

/** Undefined when stopped before. */
async function waitForPodCidrs(
  client: KubeClient,
  { nodeName, log }: ProxyRun,
  signal: AbortSignal,
): Promise<readonly string[] | undefined> {
  const untilMs = performance.now() + NODE_CIDR_WAIT_MS;
  for (let isFirst = true; !signal.aborted; isFirst = false) {
    const node = await client.get<V1Node>(NODES, nodeName).catch((error: Error) => {
      if (isFirst) log.warn({ error: error.message }, 'our Node cannot be read');
      return undefined;
    });
    const cidrs = podCidrsOf(node);
    if (cidrs.length > 0) return cidrs;
    if (isFirst) log.info({ nodeName }, 'waiting for the podCIDRs of our Node');
    if (performance.now() > untilMs)
      throw new Error(`detectLocalMode NodeCIDR: node ${nodeName} has no spec.podCIDRs`);
    await sleep(NODE_POLL_MS, undefined, { signal }).catch(() => {});
  }
  return undefined;
}

function podCidrsOf(node: V1Node | undefined): readonly string[] {
  const { podCIDRs, podCIDR } = node?.spec ?? {};
  return podCIDRs ?? (podCIDR ? [podCIDR] : []);
}

/** Other networks mean other rules everywhere: we begin anew. */
function watchPodCidrs(
  proxy: ServiceProxy,
  first: readonly string[],
  signal: AbortSignal,
  onChanged: (error: Error) => void,
): void {
  const timer = setInterval(() => {
    const now = podCidrsOf(proxy.node);
    if (now.length > 0 && now.join() !== first.join())
      onChanged(new Error(`the podCIDRs of our Node were ${first} and are ${now}: this process begins anew`));
  }, NODE_CIDR_CHECK_MS);
  signal.addEventListener('abort', () => clearInterval(timer));
}
