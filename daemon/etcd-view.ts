import { setTimeout as sleep } from 'node:timers/promises';
import { Backoff } from '../kube/backoff.ts';
import { CompactedError, type EtcdClient, type EtcdEntry, type EtcdEvent } from './etcd.ts';
import { parseLease } from './etcd-record.ts';
import type { Lease, LeaseView } from './lease.ts';

const firstRetryMs = 100;
const longestRetryMs = 5_000;
/** A server that hangs, or a way to it that swallows packets, says nothing on a watch: now and then it is asked. */
const probeMs = 30_000;
/**
 * A watch that resumes is looked after sooner, twice: of a deletion that history was compacted at, etcd 3.4.23 and others
 * tell it nothing (https://github.com/etcd-io/etcd/issues/18089).
 */
const soonMs = 2_000;
const soonLooks = 2;
/** In so many looks the server is asked once for its newest entry, which costs it a look at all. */
const looksPerSearch = 10;

export interface EtcdViewOptions {
  readonly onChange: () => void;
  readonly signal: AbortSignal;
  readonly probeMs?: number | undefined;
}

/**
 * All leases under a prefix: read once, then followed by a watch that resumes where it broke off. Only when
 * etcd has compacted that revision away, everything is read again; what vanished meanwhile is dropped.
 */
export class EtcdLeaseView implements LeaseView {
  readonly synced: Promise<void>;
  readonly #client: EtcdClient;
  readonly #prefix: string;
  readonly #onChange: () => void;
  readonly #leases = new Map<string, Lease>();
  readonly #unreadable = new Map<string, string>();
  readonly #probeMs: number;
  #connection: string | undefined;
  #lostSinceMs: number | undefined;
  /** The last revision seen; undefined when everything has to be read. */
  #revision: number | undefined;
  /** The last one of an entry of ours. */
  #newest = 0;
  /** Up to here nothing was lost. */
  #verified = 0;
  #nextSearchMs = 0;

  constructor(client: EtcdClient, prefix: string, options: EtcdViewOptions) {
    this.#client = client;
    this.#prefix = prefix;
    this.#onChange = options.onChange;
    this.#probeMs = options.probeMs ?? probeMs;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.synced = promise;
    promise.catch(() => {});
    this.#follow(resolve, options.signal).catch(reject); // ends only with the signal
  }

  leases(): ReadonlyMap<string, Lease> {
    return this.#leases;
  }

  problems(): readonly string[] {
    const unreadable = [...this.#unreadable].map(
      ([name, problem]) => `etcd ${this.#prefix}${name}: ${problem}`,
    );
    return this.#connection === undefined ? unreadable : [this.#connection, ...unreadable];
  }

  behindMs(): number {
    return this.#lostSinceMs === undefined ? 0 : performance.now() - this.#lostSinceMs;
  }

  async #follow(synced: () => void, signal: AbortSignal): Promise<never> {
    const backoff = new Backoff(firstRetryMs, longestRetryMs);
    for (;;) {
      try {
        this.#revision ??= await this.#readAll(signal);
        synced();
        await this.#watch(this.#revision + 1, () => backoff.reset(), signal);
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof CompactedError) this.#revision = undefined;
        else this.#connected((error as Error).message);
      }
      await backoff.wait(signal);
    }
  }

  /** Until it breaks off, or the server does not answer beside it. */
  async #watch(fromRevision: number, onEvent: () => void, signal: AbortSignal): Promise<void> {
    const attempt = new AbortController();
    const either = AbortSignal.any([signal, attempt.signal]);
    this.#probe(either).catch((error) => attempt.abort(error));
    try {
      for await (const event of this.#client.watch(this.#prefix, fromRevision, either)) {
        this.#connected(undefined);
        onEvent();
        if (event.kind === 'watching') this.#checkHistory(event.revision);
        else this.#apply(event);
      }
    } finally {
      attempt.abort();
    }
  }

  /** Rejects when the server does not answer, or has had other entries than we know for two looks. */
  async #probe(signal: AbortSignal): Promise<never> {
    let differed: string | undefined;
    for (let looks = 0; ; looks += 1) {
      const afterMs = looks < soonLooks ? Math.min(soonMs, this.#probeMs) : this.#probeMs;
      await sleep(afterMs * (0.75 + Math.random() / 2), undefined, { signal });
      const differs = await this.#differs(differed !== undefined, signal);
      const known = `${this.#revision} ${this.#newest}`;
      if (differs && differed === known) throw new CompactedError('the watch has lost something');
      differed = differs ? known : undefined;
    }
  }

  /** Another number of entries, or one that was changed after all that we were told of. */
  async #differs(isSuspected: boolean, signal: AbortSignal): Promise<boolean> {
    const { count, revision } = await this.#client.count(this.#prefix, signal);
    if (count !== this.#leases.size + this.#unreadable.size) return true;
    if (revision <= Math.max(this.#newest, this.#verified)) return false;
    if (!isSuspected && performance.now() < this.#nextSearchMs) return false;
    this.#nextSearchMs = performance.now() + looksPerSearch * this.#probeMs;
    if ((await this.#client.newest(this.#prefix, signal)) > this.#newest) return true;
    this.#verified = revision;
    return false;
  }

  /** A store that was put back to an earlier state would never tell us anything again. */
  #checkHistory(storeRevision: number): void {
    if (storeRevision < (this.#revision ?? 0)) throw new CompactedError('the store went back in time');
  }

  #apply(event: Exclude<EtcdEvent, { kind: 'watching' }>): void {
    this.#revision = event.revision;
    if (event.kind === 'progress') return;
    this.#newest = Math.max(this.#newest, event.revision);
    if (event.kind === 'put') this.#put(event.entry);
    else this.#drop(event.key.slice(this.#prefix.length));
    this.#onChange();
  }

  async #readAll(signal: AbortSignal): Promise<number> {
    const { entries, revision } = await this.#client.range(this.#prefix, signal);
    const there = new Set(entries.map(({ key }) => key.slice(this.#prefix.length)));
    for (const name of [...this.#leases.keys(), ...this.#unreadable.keys()])
      if (!there.has(name)) this.#drop(name);
    for (const entry of entries) this.#put(entry);
    this.#newest = entries.reduce((newest, { modRevision }) => Math.max(newest, modRevision), 0);
    this.#verified = revision;
    this.#onChange();
    return revision;
  }

  #put(entry: EtcdEntry): void {
    const name = entry.key.slice(this.#prefix.length);
    const lease = parseLease(name, entry.value);
    this.#drop(name);
    if ('problem' in lease) this.#unreadable.set(name, lease.problem);
    else this.#leases.set(name, { ...lease, since: entry.createRevision });
  }

  #drop(name: string): void {
    this.#leases.delete(name);
    this.#unreadable.delete(name);
  }

  #connected(problem: string | undefined): void {
    const changed = this.#connection !== problem;
    this.#connection = problem;
    this.#lostSinceMs = problem === undefined ? undefined : (this.#lostSinceMs ?? performance.now());
    if (changed) this.#onChange();
  }
}
