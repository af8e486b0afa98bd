import { setTimeout as sleep } from 'node:timers/promises';
import { diff } from '../core/diff.ts';
import type { Plan } from '../core/rows.ts';
import { monitor } from '../kernel/netlink/monitor.ts';
import { type NetworkConfig, parseNetworkConfig } from './config.ts';
import type { ConfigSource } from './config-source.ts';
import { concerns, type KernelInterest, kernelGroups } from './kernel-events.ts';

/** Wait before a socket for notifications is opened again. */
const reopenMs = 1_000;

/** Tables of rows whose changes the kernel tells nobody of (of settings, it tells of some). */
const unheardTables: readonly string[] = ['sysctl', 'wireguard', 'iptables-legacy'];
const unheardPollMs = 400;
/** Where a look takes much of a processor, there are fewer: never more than this part of its time. */
const unheardShare = 0.04;

interface Following {
  readonly signal: AbortSignal;
  readonly onError: (error: unknown) => void;
}

/** Calls `onNews` for notifications of the kernel that concern us, or may: when some were lost. Never rejects. */
export async function followKernel({
  namespaceFd,
  interest,
  onNews,
  onError,
  signal,
  open = monitor,
}: Following & {
  readonly namespaceFd: number | undefined;
  /** undefined: everything is news. */
  readonly interest: () => KernelInterest | undefined;
  readonly onNews: () => void;
  readonly open?: typeof monitor;
}): Promise<void> {
  for (let isFirst = true; !signal.aborted; isFirst = false) {
    try {
      const events = open(kernelGroups, { namespaceFd, signal });
      if (!isFirst) onNews(); // whatever was told meanwhile
      for await (const event of events) {
        const wanted = interest();
        const isNews =
          event.kind === 'overrun' || !wanted || event.messages.some((message) => concerns(message, wanted));
        if (isNews) onNews();
      }
    } catch (error) {
      onError(error);
    }
    await pause(reopenMs, signal);
  }
}

/**
 * Looks again and again at what the kernel does not tell of, and calls `onNews` when that is not as the plan has it.
 * `plan`: what the kernel held after the last pass; undefined while that is not known. Never rejects.
 */
export async function followUnheard({
  plan,
  onNews,
  onError,
  signal,
}: Following & { readonly plan: () => Plan | undefined; readonly onNews: () => void }): Promise<void> {
  let tookMs = 0;
  while (!signal.aborted) {
    await pause(Math.max(unheardPollMs, tookMs / unheardShare), signal);
    const seen = plan();
    if (seen === undefined) continue;
    const before = process.cpuUsage();
    const hasDrifted = await isOther(seen).catch(onError);
    const { user, system } = process.cpuUsage(before);
    tookMs = (user + system) / 1000;
    if (hasDrifted && plan() === seen) onNews();
  }
}

async function isOther(plan: Plan): Promise<boolean> {
  for (const { table, wanted } of plan) {
    if (wanted.size === 0 || !unheardTables.includes(table.name)) continue;
    const actual = await table.read();
    if (diff(wanted, actual, (a, b) => table.same(a, b)).length > 0) return true;
  }
  return false;
}

/** Calls `look` again and again until the signal aborts. Never rejects. */
export async function poll(
  everyMs: number,
  look: () => Promise<void>,
  { onError, signal }: Following,
): Promise<void> {
  for (; !signal.aborted; await pause(everyMs, signal)) await look().catch(onError);
}

/** Calls `onConfig` with what the source says, at first and after each change that can be read. Never rejects. */
export async function followConfig(
  source: ConfigSource | undefined,
  onConfig: (config: NetworkConfig) => void,
  { onError, signal }: Following,
): Promise<void> {
  for await (const text of source?.texts(signal) ?? []) {
    try {
      onConfig(parseNetworkConfig(text, source?.name, source?.use));
    } catch (error) {
      onError(error);
    }
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => {});
}
