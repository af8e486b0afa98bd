import { setTimeout as sleep } from 'node:timers/promises';
import { monitor } from '../kernel/netlink/monitor.ts';
import { type NetworkConfig, parseNetworkConfig } from './config.ts';
import type { ConfigSource } from './config-source.ts';
import { concerns, type KernelInterest, kernelGroups } from './kernel-events.ts';

/** Wait before a socket for notifications is opened again. */
const reopenMs = 10_000;

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
}: Following & {
  readonly namespaceFd: number | undefined;
  /** undefined: everything is news. */
  readonly interest: () => KernelInterest | undefined;
  readonly onNews: () => void;
}): Promise<void> {
  while (!signal.aborted) {
    try {
      for await (const event of monitor(kernelGroups, { namespaceFd, signal })) {
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
