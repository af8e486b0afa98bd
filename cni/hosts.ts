import { closeSync, fstatSync, openSync, type Stats, statSync } from 'node:fs';
import { findNamespace, seesAllProcesses } from '../kernel/netns-search.ts';
import { CniError, cniCode } from './error.ts';
import type { Host } from './host.ts';
import type { LeaseBook } from './leases.ts';
import type { Log } from './log.ts';
import { attachmentKey } from './part.ts';
import type { Call, Plugin } from './plugin.ts';
import { renderError } from './result.ts';
import { newestVersion } from './version.ts';

/** A host without pods and without calls is given up after this time; the namespace can go then. */
export const hostTimes: HostTimes = Object.freeze({ idleMs: 60_000, sweepMs: 10_000 });
/** The namespace of recorded pods is looked for this often, and taken for gone when it was not found for so long. */
const searchMs = 60_000;
const lostMs = 180_000;

export interface HostTimes {
  readonly idleMs: number;
  /** How often it is looked for hosts to give up. */
  readonly sweepMs: number;
}

export interface HostsOptions {
  /** The agent's network namespace; else that of the process. */
  readonly namespaceFd?: number | undefined;
  /** Of all hosts. */
  readonly leases: LeaseBook;
  /** Undefined: the agent's own host. */
  readonly open: (other: { readonly namespaceFd: number; readonly id: string } | undefined) => Promise<Host>;
  readonly log: Log;
  readonly times?: HostTimes | undefined;
}

interface Other {
  readonly host: Promise<Host>;
  calls: number;
  idleSinceMs: number;
}

/** Where a call for an attachment is served. */
export type Server = Pick<Plugin, 'serve'>;

/**
 * The hosts that runtimes call from: the agent's own network namespace, and any other that a call comes from, each with
 * its own side of its pods. Others are told apart by the number of their namespace, which is in the record of their pods;
 * as long as such a host is served, its namespace cannot go, so its number is nobody else's.
 */
export class Hosts implements AsyncDisposable {
  readonly #options: HostsOptions;
  readonly #ownNamespace: Stats;
  readonly #others = new Map<string, Other>();
  /** Hosts that are given up at the moment. */
  readonly #closing = new Map<string, Promise<void>>();
  /** Since when the namespace of recorded pods was not found. */
  readonly #lost = new Map<string, number>();
  #own: Host | undefined;
  #timer: NodeJS.Timeout | undefined;
  #searchAtMs = 0;

  constructor(options: HostsOptions) {
    this.#options = options;
    const { namespaceFd } = options;
    this.#ownNamespace = namespaceFd === undefined ? statSync('/proc/self/ns/net') : fstatSync(namespaceFd);
  }

  /** Before the first call. */
  async open(): Promise<Host> {
    this.#own = await this.#options.open(undefined);
    for (const id of this.#recorded()) await this.#restore(id);
    return this.#own;
  }

  #recorded(): Set<string> {
    return new Set([...this.#options.leases.values()].flatMap(({ host }) => host ?? []));
  }

  /** Serves one call to its end, with its answer. */
  serve(call: Call): Promise<void> {
    const own = this.#own?.plugin;
    if (own === undefined) throw new Error('hosts are served before they are open');
    if (call.ownNamespaceFd === undefined) return own.serve(call);
    const caller = fstatSync(call.ownNamespaceFd);
    const { ino, dev } = this.#ownNamespace;
    // Every namespace lies in the kernel's one file system of namespaces: the rest is no namespace.
    const isOwn = caller.ino === ino || caller.dev !== dev;
    return isOwn ? own.serve(call, caller) : this.#serveOther(call, caller);
  }

  async #serveOther(call: Call, caller: Stats): Promise<void> {
    const id = String(caller.ino);
    const other =
      this.#others.get(id) ?? this.#begin(id, openSync(`/proc/self/fd/${call.ownNamespaceFd}`, 'r'));
    other.calls += 1;
    try {
      await (await other.host).plugin.serve(call, caller);
    } catch (error) {
      const text = `the caller's network namespace cannot be served: ${(error as Error).message}`;
      call.answer(1, renderError(new CniError(cniCode.internal, text), newestVersion));
    } finally {
      other.calls -= 1;
      other.idleSinceMs = performance.now();
    }
  }

  /** Who serves an attachment that is recorded for another host than this one; undefined: there is none. */
  elsewhere(key: string, id: string | undefined): Promise<Server> | undefined {
    const part = this.#options.leases.get(key).find(({ host }) => host !== id);
    return part === undefined ? undefined : this.#serverOf(part.host, key);
  }

  async #serverOf(id: string | undefined, key: string): Promise<Server> {
    const own = this.#own?.plugin as Plugin;
    if (id === undefined) return own;
    const other = this.#others.get(id) ?? (await this.#restore(id));
    if (other !== undefined) return (await other.host).plugin;
    // Nothing can be reached there: what is on record of it ends here.
    for (const part of this.#options.leases.get(key)) if (part.host === id) this.#options.leases.strip(part);
    return own;
  }

  async #restore(id: string): Promise<Other | undefined> {
    await this.#closing.get(id);
    const there = this.#others.get(id);
    if (there !== undefined) return there;
    const namespaceFd = findNamespace(Number(id));
    if (namespaceFd === undefined) {
      this.#options.log.warn({ namespace: id }, 'the network namespace of recorded pods is not found');
      if (!this.#lost.has(id)) this.#lost.set(id, performance.now());
      this.#sweepLater();
      return undefined;
    }
    const other = this.#begin(id, namespaceFd);
    await other.host.catch(() => {});
    return other;
  }

  #begin(id: string, namespaceFd: number): Other {
    const { open, log } = this.#options;
    const opening = Promise.resolve(this.#closing.get(id)).then(() => open({ namespaceFd, id }));
    const host = opening.then(
      (opened) => withDescriptor(opened, namespaceFd),
      (error: Error) => {
        closeSync(namespaceFd);
        this.#others.delete(id);
        log.error({ namespace: id, error: error.message }, 'a network namespace cannot be served');
        throw error;
      },
    );
    host.catch(() => {});
    const other: Other = { host, calls: 0, idleSinceMs: performance.now() };
    this.#others.set(id, other);
    this.#lost.delete(id);
    log.info({ namespace: id }, 'serving another network namespace');
    this.#sweepLater();
    return other;
  }

  #sweepLater(): void {
    const { sweepMs } = this.#options.times ?? hostTimes;
    this.#timer ??= setInterval(() => void this.#sweep(), sweepMs).unref();
  }

  async #sweep(): Promise<void> {
    const nowMs = performance.now();
    const recorded = this.#recorded();
    const { idleMs } = this.#options.times ?? hostTimes;
    for (const [id, { calls, idleSinceMs }] of this.#others) {
      if (calls === 0 && nowMs - idleSinceMs > idleMs && !recorded.has(id)) this.#close(id);
    }
    for (const id of this.#lost.keys()) if (!recorded.has(id)) this.#lost.delete(id);
    if (this.#lost.size > 0 && nowMs >= this.#searchAtMs) await this.#search(nowMs);
    if (this.#others.size + this.#lost.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  async #search(nowMs: number): Promise<void> {
    this.#searchAtMs = nowMs + searchMs;
    for (const [id, sinceMs] of [...this.#lost]) {
      const isFound = (await this.#restore(id)) !== undefined;
      if (isFound || nowMs - sinceMs < lostMs || !seesAllProcesses()) continue;
      const { leases, log } = this.#options;
      for (const part of [...leases.values()]) {
        if (part.host !== id) continue;
        log.warn(
          { attachment: attachmentKey(part), namespace: id },
          'lease of a namespace that is gone released',
        );
        leases.strip(part);
      }
    }
  }

  #close(id: string): void {
    const other = this.#others.get(id);
    if (other === undefined) return;
    this.#others.delete(id);
    this.#options.log.info({ namespace: id }, 'a network namespace without pods is served no longer');
    const closed = other.host.then((host) => host[Symbol.asyncDispose]()).catch(() => {});
    this.#closing.set(
      id,
      closed.then(() => void this.#closing.delete(id)),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    for (const id of [...this.#others.keys()]) this.#close(id);
    await Promise.all(this.#closing.values());
    await this.#own?.[Symbol.asyncDispose]();
  }
}

function withDescriptor(host: Host, namespaceFd: number): Host {
  return {
    plugin: host.plugin,
    tables: host.tables,
    async [Symbol.asyncDispose]() {
      await host[Symbol.asyncDispose]();
      closeSync(namespaceFd);
    },
  };
}
