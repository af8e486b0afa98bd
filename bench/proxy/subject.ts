import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import type { Cidr } from '../../core/address.ts';
import { ENDPOINT_SLICES, type Resource, SERVICES, type WatchEvent } from '../../kube/types.ts';
import type { Backend } from '../../proxy/backend.ts';
import { openIptables } from '../../proxy/iptables/backend.ts';
import { ProxyMetrics } from '../../proxy/metrics.ts';
import { openNftables } from '../../proxy/nftables/backend.ts';
import { defaultPolicy, type ProxyPolicy } from '../../proxy/policy.ts';
import { type ProxyPass, type ServiceProxy, startProxy } from '../../proxy/proxy.ts';
import { StaleFlows } from '../../proxy/stale-flows.ts';
import { NODE_NAME, WorldApi } from './api.ts';
import type {
  Answer,
  Changed,
  ChangeKind,
  Churned,
  Question,
  Started,
  SubjectBackend,
} from './subject-process.ts';
import { type PlainService, POD_NETWORK, World } from './world.ts';

// A process that serves, with what follows a pass in `fairlead proxy`, in the network namespace that it was started
// in. It answers questions over the channel to its parent: see subject-process.ts.

/** A timer is late by up to this; later means that something else had the thread, and an event would have waited. */
const TIMER_SLACK_MS = 2;
const CHANGE_TIMEOUT_MS = 30_000;

const both: readonly Resource[] = [SERVICES, ENDPOINT_SLICES];
const policy: ProxyPolicy = {
  ...defaultPolicy,
  detectLocal: { mode: 'cidrs', cidrs: [POD_NETWORK as Cidr] },
};

class Subject {
  readonly #world: World;
  readonly #api: WorldApi;
  readonly #proxy: ServiceProxy;
  readonly #waiting = new Map<string, (atMs: number) => void>();
  #programming = { startMs: Number.NaN, endMs: Number.NaN };
  #extra = 0;

  constructor(size: number, kind: SubjectBackend) {
    this.#world = new World(size);
    this.#api = new WorldApi(this.#world);
    const log = pino({ level: 'silent' });
    const metrics = new ProxyMetrics({
      backend: kind === 'nftables' ? kind : 'iptables',
      families: [4, 6],
      version: '0',
      startedAtMs: Date.now(),
    });
    const stale = new StaleFlows({ log });
    const follow = (pass: ProxyPass) => {
      metrics.passed(pass);
      void stale.update(new Map(Array.from(pass.changed, ([service, { after }]) => [service, after])));
    };
    this.#proxy = startProxy({
      client: this.#api,
      nodeName: NODE_NAME,
      policy,
      log,
      backend: this.#timed(openBackend(kind)),
      observers: [{ passed: (pass) => this.#passed(pass) }, { passed: follow }],
    });
    metrics.watch(this.#proxy);
  }

  #timed(backend: Backend): Backend {
    const replace = backend.replace.bind(backend);
    backend.replace = async (views) => {
      const startMs = performance.now();
      const result = await replace(views);
      this.#programming = { startMs, endMs: performance.now() };
      return result;
    };
    return backend;
  }

  /** A service that was added counts as soon as it has its endpoints. */
  #passed({ changed }: ProxyPass): void {
    const nowMs = performance.now();
    for (const [service, { after }] of changed) {
      if (after.length > 0 && after.every(({ clusterEndpoints }) => clusterEndpoints.length === 0)) continue;
      this.#waiting.get(service)?.(nowMs);
      this.#waiting.delete(service);
    }
  }

  async started(): Promise<Started> {
    await this.#proxy.synced;
    const { startMs, endMs } = this.#programming;
    return { coldStartMs: endMs - this.#api.syncedAtMs, programmingMs: endMs - startMs };
  }

  /**
   * So many changes, each after the one before has reached the kernel. Events are made just before they are told, as they
   * come from the wire: two hundred at once would be more for the garbage collector to carry about than all changes.
   */
  async change(kind: ChangeKind, count: number): Promise<Changed> {
    const latenciesMs: number[] = [];
    let cpuMs = 0;
    for (let index = 0; index < count; index += 1) {
      const { service, tell } = this.#prepare(kind);
      const before = process.cpuUsage();
      latenciesMs.push(await this.#measure(service, tell));
      const { user, system } = process.cpuUsage(before);
      cpuMs += (user + system) / 1000;
    }
    return { latenciesMs, cpuMs: cpuMs / count };
  }

  #prepare(kind: ChangeKind): { readonly service: PlainService; readonly tell: () => void } {
    if (kind === 'endpoint') {
      const { after: service } = this.#world.replaceEndpoint();
      return { service, tell: this.#api.prepare('MODIFIED', service, [ENDPOINT_SLICES]) };
    }
    const type: WatchEvent<unknown>['type'] = kind === 'add' ? 'ADDED' : 'DELETED';
    // What was added last goes first.
    const service = this.#world.extraService(kind === 'add' ? this.#extra++ : --this.#extra);
    return { service, tell: this.#api.prepare(type, service, both) };
  }

  /** From the event until the kernel has acknowledged what it means, in milliseconds. */
  async #measure({ name }: PlainService, tell: () => void, sinceMs?: number): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const timer = setTimeout(() => reject(new Error(`${name}: no pass`)), CHANGE_TIMEOUT_MS);
    this.#waiting.set(`default/${name}`, resolve);
    const startMs = sinceMs ?? performance.now();
    tell();
    const endMs = await promise;
    clearTimeout(timer);
    return endMs - startMs;
  }

  /** Changes at a constant rate, whatever becomes of those before. */
  async churn(perSecond: number, seconds: number): Promise<Churned> {
    const lags: Promise<number>[] = [];
    const before = process.cpuUsage();
    const startMs = performance.now();
    for (let index = 0; index < perSecond * seconds; index += 1) {
      const { service, tell } = this.#prepare('endpoint');
      const dueMs = startMs + ((index + 1) * 1000) / perSecond;
      await sleep(Math.max(0, dueMs - performance.now()));
      const nowMs = performance.now();
      lags.push(this.#measure(service, tell, nowMs - dueMs > TIMER_SLACK_MS ? dueMs : nowMs));
    }
    const lagsMs = await Promise.all(lags);
    const { user, system } = process.cpuUsage(before);
    return { lagsMs, cpuShare: (user + system) / 1000 / (performance.now() - startMs) };
  }

  /** From now on the first service's endpoints are these. */
  async point(endpoints: readonly string[]): Promise<void> {
    const service = { ...this.#world.service(0), endpoints };
    await this.#measure(service, this.#api.prepare('MODIFIED', service, [ENDPOINT_SLICES]));
  }
}

function openBackend(kind: SubjectBackend): Backend {
  if (kind === 'nftables') return openNftables({ policy });
  return openIptables({ policy, variant: kind === 'iptables-nft' ? 'nft' : 'legacy' });
}

/** In bytes. */
function memory(): { residentBytes: number; peakBytes: number } {
  const peakKb = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  return { residentBytes: process.memoryUsage.rss(), peakBytes: Number(peakKb) * 1024 };
}

async function answer(question: Question): Promise<unknown> {
  switch (question.ask) {
    case 'start':
      subject = new Subject(question.services, question.backend);
      return await subject.started();
    case 'change':
      return await running().change(question.kind, question.count);
    case 'churn':
      return await running().churn(question.perSecond, question.seconds);
    case 'point':
      return await running().point(question.endpoints);
    case 'memory':
      return memory();
  }
}

function running(): Subject {
  if (subject === undefined) throw new Error('not started');
  return subject;
}

let subject: Subject | undefined;
process.on('message', (question: Question) => {
  const send = (said: Answer) => process.send?.(said);
  answer(question).then(
    (value) => send({ ok: true, value }),
    (error: Error) => send({ ok: false, error: error.stack ?? error.message }),
  );
});
// Rules stay, as they do when a proxy is stopped.
process.on('disconnect', () => process.exit());
