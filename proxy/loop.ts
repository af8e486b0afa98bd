import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import type { Logger } from 'pino';
import { Backoff } from '../kube/backoff.ts';
import type { V1Node } from '../kube/types.ts';
import type { Backend, SyncResult, Views } from './backend.ts';
import { Kick } from './kick.ts';
import { PassLog } from './pass-log.ts';
import type { NodeFacts, ProxyPolicy } from './policy.ts';
import { ProblemLog } from './problem-log.ts';
import type { ProxyOptions, ProxyStatus, ServiceProxy } from './proxy.ts';
import { ProxySources, sameFacts } from './sources.ts';
import type { ServiceHealthCheck } from './view.ts';
import { ServiceViews } from './views.ts';

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

/** One loop owns the work: sources only mark, a pass brings what is marked to the kernel. */
export class ProxyLoop implements ServiceProxy {
  readonly synced: Promise<void>;
  readonly #options: ProxyOptions & { readonly policy: ProxyPolicy };
  readonly #backend: Backend;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  readonly #kick = new Kick();
  readonly #sources: ProxySources;
  readonly #views: ServiceViews;
  readonly #backoff = new Backoff(FIRST_RETRY_MS, LONGEST_RETRY_MS);
  readonly #problems: ProblemLog;
  readonly #passes: PassLog;
  readonly #ended: Promise<void>;
  #facts: NodeFacts | undefined;
  #isNodeDirty = true;
  #needsFullSync = true;
  #fullSyncAtMs = 0;
  #passEndedAtMs = 0;
  #watchAgainAtMs = 0;
  /** Until then the time that full passes took is too great a part. */
  #restUntilMs = 0;

  constructor(options: ProxyOptions & { readonly policy: ProxyPolicy }, backend: Backend) {
    const { log, signal } = options;
    this.#options = options;
    this.#backend = backend;
    this.#log = log;
    this.#problems = new ProblemLog(log);
    this.#passes = new PassLog(options.observers ?? []);
    const stop = () => this.#stop.abort(signal?.reason);
    signal?.addEventListener('abort', stop, { signal: this.#stop.signal });
    if (signal?.aborted) stop();
    this.#sources = new ProxySources(
      { ...options, signal: this.#stop.signal },
      {
        onService: (key) => this.#mark(() => this.#views.markService(key)),
        onSlice: (key) => this.#mark(() => this.#views.markSlice(key)),
        onNode: () => this.#markNode(),
      },
    );
    const { services, slices } = this.#sources;
    const stores = { services: services.store, slices: slices.store };
    this.#views = new ServiceViews(stores, this.#sources.viewNode());
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.synced = promise;
    promise.catch(() => {});
    this.#ended = this.#run(resolve).finally(() => reject(this.#stop.signal.reason));
  }

  get views(): Views {
    return this.#views.current;
  }

  get healthChecks(): ReadonlyMap<string, ServiceHealthCheck> {
    return this.#views.healthChecks;
  }

  get problems(): ReadonlyMap<string, string> {
    return this.#problems.reported;
  }

  get policy(): ProxyPolicy {
    return this.#options.policy;
  }

  get facts(): NodeFacts | undefined {
    return this.#facts;
  }

  get node(): V1Node | undefined {
    return this.#sources.node;
  }

  /** An object may mean nothing to any service: then there is no pass, and nothing waits for one. */
  #mark(mark: () => void): void {
    mark();
    if (this.#views.dirty === 0) return;
    this.#passes.waiting();
    this.#kick.kick();
  }

  /** Most of what happens to a Node is nothing to us. */
  #markNode(): void {
    this.#isNodeDirty = true;
    this.#kick.kick();
  }

  async #run(synced: () => void): Promise<void> {
    const { signal } = this.#stop;
    await this.#refreshUntil(this.#sourcesReady());
    this.#passes.ready();
    while (!signal.aborted) {
      if (await this.#pass()) {
        synced();
        await this.#rest();
      } else await this.#backoff.wait(signal).catch(() => {});
    }
    await this.#sources[Symbol.asyncDispose]();
  }

  async #sourcesReady(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      const failure = await this.#sources.ready().catch((error: Error) => error);
      if (signal.aborted || failure === undefined) break;
      this.#log.error({ error: failure.message }, 'addresses are not known');
      await this.#backoff.wait(signal).catch(() => {});
    }
    this.#backoff.reset();
  }

  /** Makes views of what has come while the rest of the lists is waited for: the first pass finds them made. */
  async #refreshUntil(ready: Promise<void>): Promise<void> {
    const { signal } = this.#stop;
    let isReady = false;
    const ended = ready.then(() => {
      isReady = true;
      this.#kick.kick();
    });
    while (!isReady) {
      await this.#kick.wait(WATCH_INTERVAL_MS, signal);
      await turn();
      if (isReady || !this.#sources.isNodeKnown) continue;
      this.#views.setNode(this.#sources.viewNode());
      this.#views.refreshKnown(this.#passes.replaced);
    }
    await ended;
  }

  /**
   * Waits for something to do. A burst of events is one pass: those already here are taken in first. Where the next
   * change has come before one can rest, the tables are looked at all the same.
   */
  async #rest(): Promise<void> {
    const { signal } = this.#stop;
    await this.#watch();
    const pauseMs = this.#passEndedAtMs + (this.#options.minSyncPeriodMs ?? 0) - performance.now();
    if (pauseMs > 0) await sleep(pauseMs, undefined, { signal }).catch(() => {});
    while (!signal.aborted && !this.#needsFullSync && !this.#readNode() && this.#views.dirty === 0) {
      await this.#kick.wait(WATCH_INTERVAL_MS, signal);
      await turn();
      // A change does not wait for the look: that comes behind it.
      if (this.#views.dirty === 0) await this.#watch();
    }
  }

  /** Takes in what the node is now; true where backends have to hear of it. */
  #readNode(): boolean {
    if (!this.#isNodeDirty) return false;
    this.#views.setNode(this.#sources.viewNode());
    this.#isNodeDirty = !sameFacts(this.#facts, this.#sources.nodeFacts());
    if (this.#isNodeDirty || this.#views.dirty > 0) this.#passes.waiting();
    return this.#isNodeDirty;
  }

  /**
   * Looks, not too often, whether somebody else was at our tables. Where others are at theirs all the time, each look
   * would lead to reading everything: after some of these only what is certainly gone is made again, until the time comes.
   */
  async #watch(): Promise<void> {
    const nowMs = performance.now();
    if (this.#stop.signal.aborted || nowMs < this.#watchAgainAtMs) return;
    this.#watchAgainAtMs = nowMs + WATCH_INTERVAL_MS;
    const isResting = this.#restUntilMs > nowMs + FULL_SYNC_CREDIT_MS;
    const isOld = nowMs > this.#fullSyncAtMs + (this.#options.fullSyncIntervalMs ?? FULL_SYNC_INTERVAL_MS);
    const backend = this.#backend;
    const isOther = isResting ? backend.isDamaged() : isOld || backend.isDisturbed();
    this.#needsFullSync ||= await Promise.resolve(isOther).catch(() => true);
  }

  /** Brings what is dirty, or everything, to the kernel. False: it has to be tried again. */
  async #pass(): Promise<boolean> {
    const startMs = performance.now();
    const kind = this.#needsFullSync ? 'full' : 'update';
    this.#needsFullSync = false;
    this.#readNode();
    this.#passes.begin(this.#views.takeTriggers());
    const changed = this.#views.refresh(this.#passes.replaced);
    this.#passes.underWay = changed.size;
    const result = await this.#sync(kind, changed).catch((error: Error) => error);
    this.#passEndedAtMs = performance.now();
    const durationMs = this.#passEndedAtMs - startMs;
    this.#problems.report(this.#views.problems, this.#backend.problems());
    const failure = result instanceof Error ? result : result.failures[0]?.error;
    if (result instanceof Error || failure !== undefined) return this.#failed(kind, failure as Error, result);
    this.#backoff.reset();
    this.#passes.succeeded(
      { kind, result, durationMs, facts: this.#facts ?? unknownFacts },
      this.#views.current,
    );
    if (kind === 'full')
      this.#log.info(
        { writes: result.writes, ms: durationMs, services: this.#views.current.size },
        'full sync',
      );
    else this.#log.debug({ writes: result.writes, ms: durationMs }, 'update');
    return true;
  }

  async #sync(kind: 'full' | 'update', changed: Views): Promise<SyncResult> {
    const ofNode = await this.#syncNode();
    if (kind === 'full') return sum(ofNode, await this.#replace());
    return changed.size === 0 ? ofNode : sum(ofNode, await this.#backend.update(changed));
  }

  /** Before the services: a node port that is open leads somewhere a moment later, not the other way round. */
  async #syncNode(): Promise<SyncResult> {
    if (!this.#isNodeDirty) return { writes: 0, failures: [] };
    const facts = this.#sources.nodeFacts();
    this.#isNodeDirty = false;
    this.#facts = facts;
    return await this.#backend.updateNode(facts);
  }

  async #replace(): Promise<SyncResult> {
    const startMs = performance.now();
    const result = await this.#backend.replace(this.#views.current);
    this.#fullSyncAtMs = performance.now();
    const restMs = (this.#fullSyncAtMs - startMs) / FULL_SYNC_SHARE;
    this.#restUntilMs = Math.max(this.#restUntilMs, startMs) + restMs;
    return result;
  }

  /** Nobody knows now what is in the kernel. */
  #failed(kind: 'full' | 'update', error: Error, result: SyncResult | Error): false {
    this.#needsFullSync = true;
    this.#passes.failed(error, kind, result instanceof Error ? 0 : result.writes);
    this.#log.error({ error: error.message, failures: this.#passes.failures }, 'sync failed');
    return false;
  }

  status(): ProxyStatus {
    let endpoints = 0;
    for (const ports of this.#views.current.values()) {
      for (const port of ports)
        endpoints += Math.max(port.clusterEndpoints.length, port.localEndpoints.length);
    }
    const { current, dirty } = this.#views;
    const { name } = this.#backend;
    return { backend: name, services: current.size, endpoints, ...this.#passes.status(dirty) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#ended;
    this.#backend[Symbol.dispose]();
  }
}

/** Before anything was told. */
const unknownFacts: NodeFacts = { nodePortIps: { 4: [], 6: [] }, serviceCidrs: [] };

function sum(a: SyncResult, b: SyncResult): SyncResult {
  return { writes: a.writes + b.writes, failures: [...a.failures, ...b.failures] };
}
