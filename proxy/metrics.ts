import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Family } from '../core/address.ts';
import type { Backend, Views } from './backend.ts';
import type { ServiceCounters } from './counters.ts';
import { sameService } from './same-view.ts';
import type { Endpoint, ServicePortView } from './view.ts';

/*
 * kube-proxy's metrics (pkg/proxy/metrics/metrics.go of Kubernetes 1.36), by its names, labels and buckets, so that
 * dashboards and alerts go on. Both families are one pass here: what is timed counts for each.
 */

/** 0.001, 0.002, … 16.384 seconds. */
const passBuckets = Array.from({ length: 15 }, (_, power) => 0.001 * 2 ** power);
const every = (from: number, step: number, count: number) =>
  Array.from({ length: count }, (_, index) => from + step * index);
const programmingBuckets = [...[0.25, 0.5], ...every(1, 1, 59), ...every(60, 5, 12), ...every(120, 30, 7)];

/** The state of a proxy at the moment of a scrape. */
export interface MeteredProxy {
  readonly views: Views;
  status(): {
    readonly dirty: number;
    readonly lastSyncedAtMs: number | undefined;
    readonly lastQueuedAtMs: number | undefined;
  };
}

/** What is measured of one pass. Durations are milliseconds, times milliseconds of the epoch. */
export interface MeteredPass {
  readonly kind: 'full' | 'update';
  readonly durationMs: number;
  readonly changed: ReadonlyMap<string, { readonly before: Ports; readonly after: Ports }>;
  readonly triggers: readonly { readonly family: Family; readonly atMs: number }[];
}

type Ports = readonly ServicePortView[];

/** How many rules of iptables there are, and how many the last pass wrote. */
export interface IptablesRules {
  readonly table: string;
  readonly family: Family;
  readonly total: number;
  readonly last: number;
}

export interface MetricsOptions {
  readonly backend: Backend['name'];
  readonly families: readonly Family[];
  readonly version: string;
  /** Changes in the cluster from before this are not ours to have been late with. */
  readonly startedAtMs: number;
  /** With iptables. */
  readonly iptablesRules?: (() => Iterable<IptablesRules>) | undefined;
}

/** Everything that `/metrics` shows. Others may register more in its registry. */
export class ProxyMetrics {
  readonly registry = new Registry();
  /** What `/metrics/slis` shows: how the health checks came out, as Kubernetes' components name it. */
  readonly slis = new Registry();
  readonly #options: MetricsOptions;
  readonly #families: readonly string[];
  #proxy: MeteredProxy | undefined;
  #counters: Pick<ServiceCounters, 'text'> | undefined;

  readonly #pass: Histogram<'ip_family'>;
  readonly #fullPass: Histogram<'ip_family'>;
  readonly #partialPass: Histogram<'ip_family'>;
  readonly #programming: Histogram<'ip_family'>;
  readonly #serviceChanges: Counter;
  readonly #endpointChanges: Counter;
  readonly #failures: Counter<'ip_family'>;
  readonly #partialFailures: Counter<'ip_family'> | undefined;
  readonly #cleanupFailures: Counter<'ip_family'> | undefined;
  readonly #conntrackPass: Histogram<'ip_family'>;
  readonly #conntrackDeleted: Counter<'ip_family'>;
  readonly #answers: Readonly<Record<'healthz' | 'livez', Counter<'code'>>>;
  readonly #check: Gauge<'name' | 'type'>;
  readonly #checks: Counter<'name' | 'type' | 'status'>;

  constructor(options: MetricsOptions) {
    this.#options = options;
    this.#families = options.families.map((family) => `IPv${family}`);
    const pass = 'sync_proxy_rules_duration_seconds';
    this.#pass = this.#histogram(pass, 'Time that one pass over the rules took', passBuckets);
    this.#fullPass = this.#histogram(
      `sync_full_${rest(pass)}`,
      'The same, of passes over everything',
      passBuckets,
    );
    this.#partialPass = this.#histogram(
      `sync_partial_${rest(pass)}`,
      'The same, of passes over changes',
      passBuckets,
    );
    this.#programming = this.#histogram(
      'network_programming_duration_seconds',
      'Time from a change in the cluster until the rules say it',
      programmingBuckets,
    );
    this.#timestamp('last_queued', 'When a pass was last asked for', 'lastQueuedAtMs');
    this.#timestamp('last', 'When the rules were last as they should be', 'lastSyncedAtMs');
    this.#serviceChanges = this.#plainCounter(
      'sync_proxy_rules_service_changes_total',
      'Changes of Services',
    );
    this.#endpointChanges = this.#plainCounter(
      'sync_proxy_rules_endpoint_changes_total',
      'Changes of endpoints',
    );
    for (const name of ['service', 'endpoint'])
      this.#pending(
        `sync_proxy_rules_${name}_changes_pending`,
        `Changes that are in no rules yet (${name}s)`,
      );
    this.#noLocalEndpoints();
    const { backend } = options;
    const ofMode = backend === 'nftables' ? 'nftables_sync' : 'iptables_restore';
    this.#failures = this.#failureCounter(ofMode, 'Passes that failed');
    if (backend === 'iptables')
      this.#partialFailures = this.#failureCounter(
        'iptables_partial_restore',
        'Passes over changes that failed',
      );
    if (backend === 'nftables')
      this.#cleanupFailures = this.#failureCounter('nftables_cleanup', 'Removals of old rules that failed');
    this.#conntrackPass = this.#histogram(
      'conntrack_reconciler_sync_duration_seconds',
      'Time that stale flows took',
      passBuckets,
    );
    this.#conntrackDeleted = this.#counter(
      'conntrack_reconciler_deleted_entries_total',
      'Stale flows forgotten',
    );
    this.#answers = { healthz: this.#answerCounter('healthz'), livez: this.#answerCounter('livez') };
    const registers = [this.slis];
    this.#check = new Gauge({
      name: 'kubernetes_healthcheck',
      help: 'Whether the last health check was well',
      labelNames: ['name', 'type'],
      registers,
    });
    this.#checks = new Counter({
      name: 'kubernetes_healthchecks_total',
      help: 'Health checks by how they came out',
      labelNames: ['name', 'type', 'status'],
      registers,
    });
    this.#iptables();
    this.#process();
  }

  /** From now on scrapes ask this one. */
  watch(proxy: MeteredProxy): void {
    this.#proxy = proxy;
  }

  /** From now on they are part of the text. */
  count(counters: Pick<ServiceCounters, 'text'>): void {
    this.#counters = counters;
  }

  /** What `/metrics` answers. */
  async text(): Promise<string> {
    const counted = await this.#counters?.text();
    const own = await this.registry.metrics();
    return counted === undefined ? own : own + counted;
  }

  /** One pass that succeeded. */
  passed({ kind, durationMs, changed, triggers }: MeteredPass): void {
    const nowMs = Date.now();
    const ofKind = kind === 'full' ? this.#fullPass : this.#partialPass;
    for (const ip_family of this.#families) {
      this.#pass.observe({ ip_family }, durationMs / 1000);
      ofKind.observe({ ip_family }, durationMs / 1000);
    }
    for (const { family, atMs } of triggers) {
      if (atMs >= this.#options.startedAtMs)
        this.#programming.observe({ ip_family: `IPv${family}` }, (nowMs - atMs) / 1000);
    }
    let [services, endpoints] = [0, 0];
    for (const { before, after } of changed.values()) {
      const [isService, isEndpoints] = changesOf(before, after);
      services += isService ? 1 : 0;
      endpoints += isEndpoints ? 1 : 0;
    }
    this.#serviceChanges.inc(services);
    this.#endpointChanges.inc(endpoints);
  }

  /** One pass that failed. */
  failed(kind: MeteredPass['kind']): void {
    for (const ip_family of this.#families) {
      this.#failures.inc({ ip_family });
      if (kind === 'update') this.#partialFailures?.inc({ ip_family });
    }
  }

  /** What another mode left could not be removed. */
  cleanupFailed(): void {
    for (const ip_family of this.#families) this.#cleanupFailures?.inc({ ip_family });
  }

  /** One look at the kernel's flows. */
  flowsLooked({ family, ms, deleted }: { family: Family; ms: number; deleted: number }): void {
    const ip_family = `IPv${family}`;
    this.#conntrackPass.observe({ ip_family }, ms / 1000);
    this.#conntrackDeleted.inc({ ip_family }, deleted);
  }

  /** One answer of a health server. */
  answered(path: 'healthz' | 'livez', code: number): void {
    this.#answers[path].inc({ code: String(code) });
    const check = { name: 'service-proxy', type: path };
    const isWell = code === 200;
    this.#check.set(check, isWell ? 1 : 0);
    this.#checks.inc({ ...check, status: isWell ? 'success' : 'error' });
  }

  #histogram(name: string, help: string, buckets: number[]): Histogram<'ip_family'> {
    const registers = [this.registry];
    return new Histogram({ name: `kubeproxy_${name}`, help, labelNames: ['ip_family'], buckets, registers });
  }

  /** 0: it has not happened yet. */
  #timestamp(name: string, help: string, field: 'lastQueuedAtMs' | 'lastSyncedAtMs'): void {
    const seconds = () => (this.#proxy?.status()[field] ?? 0) / 1000;
    const all = this.#families;
    new Gauge({
      name: `kubeproxy_sync_proxy_rules_${name}_timestamp_seconds`,
      help,
      labelNames: ['ip_family'],
      registers: [this.registry],
      collect() {
        for (const ip_family of all) this.set({ ip_family }, seconds());
      },
    });
  }

  /** Begins at zero, so that the first failure is seen as an increase. */
  #counter(name: string, help: string): Counter<'ip_family'> {
    const registers = [this.registry];
    const counter = new Counter({ name: `kubeproxy_${name}`, help, labelNames: ['ip_family'], registers });
    for (const ip_family of this.#families) counter.inc({ ip_family }, 0);
    return counter;
  }

  #plainCounter(name: string, help: string): Counter {
    return new Counter({ name: `kubeproxy_${name}`, help, registers: [this.registry] });
  }

  #answerCounter(path: string): Counter<'code'> {
    return new Counter({
      name: `kubeproxy_proxy_${path}_total`,
      help: `Answers of /${path} by status`,
      labelNames: ['code'],
      registers: [this.registry],
    });
  }

  /** A Service that waits to be made anew waits for what its Service or its slices say: nobody knows which. */
  #pending(name: string, help: string): void {
    const dirty = () => this.#proxy?.status().dirty ?? 0;
    const gauge = { name: `kubeproxy_${name}`, help, registers: [this.registry] };
    new Gauge({
      ...gauge,
      collect() {
        this.set(dirty());
      },
    });
  }

  #noLocalEndpoints(): void {
    const count = () => countNoLocalEndpoints(this.#proxy?.views ?? new Map(), this.#options.families);
    new Gauge({
      name: 'kubeproxy_sync_proxy_rules_no_local_endpoints_total',
      help: 'Ports of Services that want local endpoints and have none, though others have some',
      labelNames: ['ip_family', 'traffic_policy'],
      registers: [this.registry],
      collect() {
        for (const { labels, value } of count()) this.set(labels, value);
      },
    });
  }

  #failureCounter(what: string, help: string): Counter<'ip_family'> {
    return this.#counter(`sync_proxy_rules_${what}_failures_total`, help);
  }

  #iptables(): void {
    const { iptablesRules } = this.#options;
    if (iptablesRules === undefined) return;
    for (const which of ['total', 'last'] as const) {
      new Gauge({
        name: `kubeproxy_sync_proxy_rules_iptables_${which}`,
        help: which === 'total' ? 'Rules that are ours' : 'Rules that the last pass wrote',
        labelNames: ['table', 'ip_family'],
        registers: [this.registry],
        collect() {
          for (const rules of iptablesRules())
            this.set({ table: rules.table, ip_family: `IPv${rules.family}` }, rules[which]);
        },
      });
    }
  }

  /** What any program shows of itself. */
  #process(): void {
    const { version } = this.#options;
    collectDefaultMetrics({ register: this.registry });
    new Gauge({
      name: 'kubernetes_build_info',
      help: 'Of this program',
      labelNames: ['git_version', 'platform'],
      registers: [this.registry],
    }).set({ git_version: `v${version}-fairlead`, platform: `${process.platform}/${process.arch}` }, 1);
  }
}

function rest(name: string): string {
  return name.slice('sync_'.length);
}

/** Whether anything but the endpoints changed, and whether they did. */
function changesOf(before: Ports, after: Ports): readonly [boolean, boolean] {
  if (before.length === 0 || after.length !== before.length) return [true, true];
  const pairs = after.map((port, index) => [before[index] ?? port, port] as const);
  return [pairs.some(([a, b]) => !sameService(a, b)), pairs.some(([a, b]) => !hasSameEndpoints(a, b))];
}

const noEndpoints: readonly Pick<Endpoint, 'ip' | 'port'>[] = [];

function hasSameEndpoints(a: ServicePortView, b: ServicePortView): boolean {
  const same = (one: typeof noEndpoints, other: typeof noEndpoints) =>
    one.length === other.length &&
    one.every(({ ip, port }, index) => other[index]?.ip === ip && other[index]?.port === port);
  return (
    same(a.clusterEndpoints, b.clusterEndpoints) &&
    same(a.localEndpoints, b.localEndpoints) &&
    same(a.flowEndpoints ?? noEndpoints, b.flowEndpoints ?? noEndpoints)
  );
}

/** By family and policy, as kube-proxy counts: only where some endpoint somewhere would serve. */
export function countNoLocalEndpoints(views: Views, families: readonly Family[]) {
  const ports = [...views.values()].flat().filter((port) => {
    return port.hasAnyEndpoints && port.localEndpoints.length === 0;
  });
  return families.flatMap((family) => {
    const its = ports.filter((port) => port.family === family);
    const ofPolicy = (traffic_policy: 'internal' | 'external') => ({
      labels: { ip_family: `IPv${family}`, traffic_policy },
      value: its.filter((port) => port[`${traffic_policy}Policy`] === 'Local').length,
    });
    return [ofPolicy('internal'), ofPolicy('external')];
  });
}
