import { setTimeout as sleep } from 'node:timers/promises';
import { LinkIndex } from '../kernel/linkindex.ts';
import type { LeaseBook } from './leases.ts';
import type { Log } from './log.ts';
import { attachmentKey, type Part } from './part.ts';
import type { KernelTables } from './part-tables.ts';
import { isThere } from './sandbox.ts';
import type { WantedRows } from './wanted.ts';

/** How often it is looked which pods are still there, and how long one must have been missing to be given up. */
export const abandonedTimes: AbandonedTimes = Object.freeze({ lookMs: 60_000, missingMs: 150_000 });

export interface AbandonedTimes {
  readonly lookMs: number;
  readonly missingMs: number;
}

export interface AbandonedKeeperOptions {
  readonly tables: Pick<KernelTables, 'socket'>;
  readonly leases: LeaseBook;
  readonly wanted: Pick<WantedRows, 'isMade'>;
  readonly log: Log;
  /** Takes all parts of an attachment away, unless a call for it is being served. Throws CniError. */
  readonly remove: (key: string, parts: readonly Part[]) => Promise<void>;
  readonly times?: AbandonedTimes | undefined;
}

/**
 * Gives up attachments whose container has gone without a DEL: those whose pair of links has gone with the namespace,
 * and of interfaces that others made those whose namespace is not mounted any more where it was. All that they had is
 * released, as by DEL.
 */
export class AbandonedKeeper {
  readonly #options: AbandonedKeeperOptions;
  /** Since when, by key. */
  readonly #missing = new Map<string, number>();

  constructor(options: AbandonedKeeperOptions) {
    this.#options = options;
  }

  /** Until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { log, times = abandonedTimes } = this.#options;
    while (!signal.aborted) {
      await sleep(times.lookMs, undefined, { signal }).catch(() => {});
      if (signal.aborted) return;
      await this.#look(times).catch((error: Error) => {
        log.error({ error: error.message }, 'it is not known which pods are still there');
      });
    }
  }

  async #look({ missingMs }: AbandonedTimes): Promise<void> {
    const { leases, tables } = this.#options;
    if (leases.size === 0) return this.#missing.clear();
    const links = [...(await LinkIndex.read(tables.socket))];
    const seen = new Set(links.flatMap(({ name, alias }) => [name, alias]));
    const nowMs = performance.now();
    const attachments = Map.groupBy(leases.values(), attachmentKey);
    for (const key of this.#missing.keys()) if (!attachments.has(key)) this.#missing.delete(key);
    for (const [key, parts] of attachments) {
      if (!this.#isMissing(parts, seen)) this.#missing.delete(key);
      else if (nowMs - this.#since(key, nowMs) >= missingMs) await this.#giveUp(key, parts);
    }
  }

  #since(key: string, nowMs: number): number {
    const since = this.#missing.get(key) ?? nowMs;
    this.#missing.set(key, since);
    return since;
  }

  /** The end on the host may have got another name or another alias, not both. */
  #isMissing(parts: readonly Part[], seen: ReadonlySet<string | undefined>): boolean {
    const pairs = parts.flatMap(({ rows: { attachment } }) => attachment ?? []);
    if (pairs.length > 0) {
      const { wanted } = this.#options;
      return pairs.every(
        ({ hostName, alias }) =>
          wanted.isMade('attachment', hostName) && !seen.has(hostName) && !seen.has(alias),
      );
    }
    const sandboxes = parts.flatMap(({ sandbox }) => sandbox ?? []);
    return sandboxes.length > 0 && sandboxes.every((sandbox) => isThere(sandbox) === false);
  }

  async #giveUp(attachment: string, parts: readonly Part[]): Promise<void> {
    const { remove, log } = this.#options;
    try {
      await remove(attachment, parts);
      log.warn({ attachment }, 'pod has gone without a DEL: what it had is released');
    } catch (error) {
      const { message } = error as Error;
      log.error({ attachment, error: message }, 'pod has gone without a DEL, and cannot be released');
    }
  }
}
