import { setImmediate as turn } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Cidr, Ip } from '../core/address.ts';
import { Backoff } from '../kube/backoff.ts';
import { Informer } from '../kube/informer.ts';
import {
  ENDPOINT_SLICES,
  type ListWatcher,
  SERVICES,
  type V1EndpointSlice,
  type V1Service,
} from '../kube/types.ts';
import type { Backend, SyncResult, Views } from './backend.ts';
import { Kick } from './kick.ts';
import { openNftables } from './nftables/backend.ts';
import { ProblemLog } from './problem-log.ts';
import { ServiceViews } from './views.ts';

/** Services of other proxies (`service-proxy-name`) and without an address are not ours. */
const SERVICE_LABELS = '!service.kubernetes.io/service-proxy-name';
const SERVICE_FIELDS = 'spec.clusterIP!=None';
const SLICE_LABELS = '!service.kubernetes.io/headless';

/** How often the kernel is asked whether somebody else changed our tables: one short message. */
const WATCH_INTERVAL_MS = 400;
/** Everything is read back and compared at least this often. */
const FULL_SYNC_INTERVAL_MS = 10 * 60_000;
/** However often others change the kernel's rules, looking after ours takes at most this part of the time… */
const FULL_SYNC_SHARE = 0.1;
/** …except for the first few times: each is paid for by not looking afterwards, and this much may be owed. */
const FULL_SYNC_CREDIT_MS = 5_000;
const FIRST_RETRY_MS = 200;
const LONGEST_RETRY_MS = 30_000;

export interface ProxyOptions {
  readonly client: ListWatcher;
  /** As in the endpoints' `nodeName`. */
  readonly nodeName: string;
  /** Node ports are open on these: one of each family, in the default of kube-proxy's nftables mode. */
  readonly nodeAddresses: readonly Ip[];
  /** Where pods have their addresses. Without one of a family, connections to its cluster IPs keep their source. */
  readonly clusterCidrs: readonly Cidr[];
  /** The node's network namespace; else that of the process. Not kept. */
  readonly namespaceFd?: number;
  readonly log: Logger;
  /** As good as disposing. */
  readonly signal?: AbortSignal;
  /** Another backend than nftables. The proxy disposes it. */
  readonly backend?: Backend;
}

export interface ProxyStatus {
  /** Everything was written once. */
  readonly synced: boolean;
  readonly services: number;
  /** Services that changed and are not written yet. */
  readonly dirty: number;
  /** Of all ports and families together, as far as they get connections. */
  readonly endpoints: number;
  /** Rows written since the start. */
  readonly writes: number;
  /** Passes over what changed, and passes that read everything back. */
  readonly updates: number;
  readonly fullSyncs: number;
  /** How long the last pass took. */
  readonly lastSyncMs: number | undefined;
  /** Passes that failed since the last that did not. */
  readonly failures: number;
}

export interface ServiceProxy extends AsyncDisposable {
  /** Fulfilled when the kernel does what the API says for the first time; rejected when stopped before. */
  readonly synced: Promise<void>;
  status(): ProxyStatus;
}

/**
 * Starts to serve. Stopping it leaves the kernel as it is, so that connections outlive a restart.
 * Throws KernelError where the backend's interface cannot be opened.
 */
export function startProxy(options: ProxyOptions): ServiceProxy {
  const onRefused = (error: Error) =>
    options.log.warn({ error: error.message }, 'change refused, table rebuilt');
  return new ProxyLoop(options, options.backend ?? openNftables({ ...options, onRefused }));
}

class ProxyLoop implements ServiceProxy {
  readonly synced: Promise<void>;
  readonly #backend: Backend;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  readonly #kick = new Kick();
  readonly #informers: { readonly services: Informer<V1Service>; readonly slices: Informer<V1EndpointSlice> };
  readonly #views: ServiceViews;
  readonly #backoff = new Backoff(FIRST_RETRY_MS, LONGEST_RETRY_MS);
  readonly #problems: ProblemLog;
  readonly #ended: Promise<void>;
  #needsFullSync = true;
  #fullSyncAtMs = 0;
  #watchAgainAtMs = 0;
  /** Until then the time that full passes took is too great a part. */
  #restUntilMs = 0;
  /** Services that the pass under way is about. */
  #underWay = 0;
  #status: ProxyStatus = started;

  constructor({ client, nodeName, nodeAddresses, log, signal }: ProxyOptions, backend: Backend) {
    this.#backend = backend;
    this.#log = log;
    this.#problems = new ProblemLog(log);
    const stop = () => this.#stop.abort(signal?.reason);
    signal?.addEventListener('abort', stop, { signal: this.#stop.signal });
    if (signal?.aborted) stop();
    this.#informers = watchSources(client, log, this.#stop.signal, {
      onService: (key) => this.#mark(() => this.#views.markService(key)),
      onSlice: (key) => this.#mark(() => this.#views.markSlice(key)),
    });
    const { services, slices } = this.#informers;
    this.#views = new ServiceViews(
      { services: services.store, slices: slices.store },
      { nodeName, nodeIps: nodeAddresses },
    );
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.synced = promise;
    promise.catch(() => {});
    this.#ended = this.#run(resolve).finally(() => reject(this.#stop.signal.reason));
  }

  #mark(mark: () => void): void {
    mark();
    this.#kick.kick();
  }

  async #run(synced: () => void): Promise<void> {
    const { signal } = this.#stop;
    // Half of the objects is not enough: what is not known yet would be cut off.
    const { services, slices } = this.#informers;
    await Promise.all([services.synced, slices.synced]).catch(() => {});
    while (!signal.aborted) {
      if (await this.#pass()) {
        synced();
        await this.#rest();
      } else await this.#backoff.wait(signal).catch(() => {});
    }
    await Promise.all([services.closed, slices.closed]);
  }

  /** Waits for something to do. A burst of events is one pass: those already here are taken in first. */
  async #rest(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted && !this.#needsFullSync && this.#views.dirty === 0) {
      await this.#kick.wait(WATCH_INTERVAL_MS, signal);
      await turn();
      await this.#watch();
    }
  }

  /** Looks, not too often, whether somebody else was at our tables. */
  async #watch(): Promise<void> {
    const nowMs = performance.now();
    if (this.#stop.signal.aborted || nowMs < this.#watchAgainAtMs) return;
    if (this.#restUntilMs > nowMs + FULL_SYNC_CREDIT_MS) return;
    this.#watchAgainAtMs = nowMs + WATCH_INTERVAL_MS;
    const isOld = nowMs > this.#fullSyncAtMs + FULL_SYNC_INTERVAL_MS;
    this.#needsFullSync ||= isOld || (await this.#backend.isDisturbed().catch(() => true));
  }

  /** Brings what is dirty, or everything, to the kernel. False: it has to be tried again. */
  async #pass(): Promise<boolean> {
    const startMs = performance.now();
    const isFull = this.#needsFullSync;
    this.#needsFullSync = false;
    const changed = this.#views.refresh();
    this.#underWay = changed.size;
    const failure = await this.#sync(isFull, changed).then(
      (result) => this.#count(result, isFull, performance.now() - startMs),
      (error: Error) => error,
    );
    this.#problems.report(this.#views.problems, this.#backend.problems());
    this.#underWay = 0;
    if (failure === undefined) this.#backoff.reset();
    else this.#failed(failure);
    return failure === undefined;
  }

  async #sync(isFull: boolean, changed: Views): Promise<SyncResult> {
    if (!isFull) return await this.#backend.update(changed);
    const startMs = performance.now();
    const result = await this.#backend.replace(this.#views.current);
    this.#fullSyncAtMs = performance.now();
    const restMs = (this.#fullSyncAtMs - startMs) / FULL_SYNC_SHARE;
    this.#restUntilMs = Math.max(this.#restUntilMs, startMs) + restMs;
    return result;
  }

  #count({ writes, failures }: SyncResult, isFull: boolean, lastSyncMs: number): Error | undefined {
    const before = this.#status;
    this.#status = {
      ...before,
      synced: before.synced || failures.length === 0,
      writes: before.writes + writes,
      updates: before.updates + (isFull ? 0 : 1),
      fullSyncs: before.fullSyncs + (isFull ? 1 : 0),
      lastSyncMs,
      failures: failures.length === 0 ? 0 : before.failures,
    };
    if (isFull) this.#log.info({ writes, ms: lastSyncMs, services: this.#views.current.size }, 'full sync');
    else this.#log.debug({ writes, ms: lastSyncMs }, 'update');
    return failures[0]?.error;
  }

  /** Nobody knows now what is in the kernel. */
  #failed(error: Error): void {
    this.#needsFullSync = true;
    this.#status = { ...this.#status, failures: this.#status.failures + 1 };
    this.#log.error({ error: error.message, failures: this.#status.failures }, 'sync failed');
  }

  status(): ProxyStatus {
    let endpoints = 0;
    for (const ports of this.#views.current.values()) {
      for (const port of ports) endpoints += port.clusterEndpoints.length;
    }
    const { current, dirty } = this.#views;
    return { ...this.#status, services: current.size, dirty: dirty + this.#underWay, endpoints };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#ended;
    this.#backend[Symbol.dispose]();
  }
}

const started: ProxyStatus = {
  synced: false,
  services: 0,
  dirty: 0,
  endpoints: 0,
  writes: 0,
  updates: 0,
  fullSyncs: 0,
  lastSyncMs: undefined,
  failures: 0,
};

function watchSources(
  client: ListWatcher,
  log: Logger,
  signal: AbortSignal,
  { onService, onSlice }: { onService: (key: string) => void; onSlice: (key: string) => void },
) {
  const onError = (error: Error) => log.warn({ error: error.message }, 'the API does not answer');
  const common = { client, signal, onError };
  return {
    services: new Informer<V1Service>({
      ...common,
      resource: SERVICES,
      labelSelector: SERVICE_LABELS,
      fieldSelector: SERVICE_FIELDS,
      onChange: onService,
    }),
    slices: new Informer<V1EndpointSlice>({
      ...common,
      resource: ENDPOINT_SLICES,
      labelSelector: SLICE_LABELS,
      onChange: onSlice,
    }),
  };
}
