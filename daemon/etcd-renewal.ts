import { setTimeout as sleep } from 'node:timers/promises';
import type { EtcdClient } from './etcd.ts';

/** Longest wait between two looks at the clocks, and between two tries. */
const lookMs = 60_000;

export interface EtcdRenewal {
  readonly client: EtcdClient;
  /** The whole key that lives with the etcd lease. */
  readonly key: string;
  readonly etcdLease: string;
  /** What is left of its time at this moment. */
  readonly ttlSeconds: number;
  /** How long before the end it is renewed; never more than half of the time. */
  readonly marginSeconds: number;
  /** What is wrong with the renewal; undefined when all is well. */
  readonly onProblem: (problem: string | undefined) => void;
  readonly signal: AbortSignal;
}

/**
 * Renews an etcd lease a while before its end, and goes on trying, until the signal aborts: then it rejects.
 * It ends by itself when an operator has taken the key out of the etcd lease, that is: made it a reservation.
 * An etcd lease that has run out takes its key with it, which the watch sees.
 */
export async function renewEtcdLease(renewal: EtcdRenewal): Promise<void> {
  const { client, key, etcdLease, marginSeconds, onProblem, signal } = renewal;
  let ttlMs = renewal.ttlSeconds * 1000;
  let renewed = clocks();
  for (;;) {
    const marginMs = Math.min(marginSeconds * 1000, ttlMs / 2);
    const dueInMs = ttlMs - marginMs - elapsedMs(renewed);
    if (dueInMs > 0) {
      await sleep(Math.min(dueInMs, lookMs), undefined, { signal });
      continue;
    }
    try {
      const seconds = await client.keepAlive(etcdLease, signal);
      if (seconds > 0) {
        [ttlMs, renewed] = [seconds * 1000, clocks()];
        onProblem(undefined);
        continue;
      }
      if (await isReservation(client, key, signal)) return onProblem(undefined);
      onProblem(`etcd: the lease of ${key} has run out`);
    } catch (error) {
      signal.throwIfAborted();
      onProblem(`etcd: the lease of ${key} cannot be renewed: ${(error as Error).message}`);
    }
    await sleep(Math.min(ttlMs / 10, lookMs), undefined, { signal });
  }
}

async function isReservation(client: EtcdClient, key: string, signal: AbortSignal): Promise<boolean> {
  return (await client.entry(key, signal))?.etcdLease === '0';
}

function clocks() {
  return { monotonicMs: performance.now(), wallMs: Date.now() };
}

/**
 * The clock on the wall may be set back or forward, and the other one stands while the machine sleeps: whichever
 * says more is believed, because a lease may well be renewed too early, but not too late.
 */
function elapsedMs(since: ReturnType<typeof clocks>): number {
  const now = clocks();
  return Math.max(now.monotonicMs - since.monotonicMs, now.wallMs - since.wallMs);
}
