import { flushCompileCache } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Log } from '../cni/server.ts';
import { native } from '../native/index.ts';

/** By then the pass that looks at what the first one made is over. */
const calmMs = 1_000;
/** The pause is as long as there are objects that stay: some 50 ms for 30 MB of them. */
const collectedHeapBytesMax = 100e6;

export interface SettleOptions {
  readonly ready: Promise<void>;
  /** What else starts in the process. */
  readonly also?: Promise<void> | undefined;
  readonly signal: AbortSignal;
  readonly log: Pick<Log, 'warn'>;
}

/**
 * Ends the start of an agent. The code that was translated is kept for the next start; what only this one needed, all
 * leases as text and rows read back, goes to the system at once: left to itself, a process with so little to do keeps it
 * for long. `gc` is there with Node's --expose-gc. Never rejects.
 */
export async function settle({ ready, also, signal, log }: SettleOptions): Promise<void> {
  try {
    await ready;
    flushCompileCache();
    await also;
    await sleep(calmMs, undefined, { signal, ref: false });
    if (globalThis.gc === undefined || process.memoryUsage().heapUsed > collectedHeapBytesMax) return;
    await globalThis.gc({ type: 'major', execution: 'async', flavor: 'last-resort' });
    native.trimMemory();
  } catch (error) {
    if (signal.aborted) return;
    log.warn({ error: (error as Error).message }, 'memory of the start is not given back');
  }
}
