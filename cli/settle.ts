import { flushCompileCache } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import { native } from '../native/index.ts';

/** By then the pass that looks at what the first one made is over. */
const calmMs = 1_000;
/** To collect so much takes some 50 ms, in which nothing else is done. */
const collectedHeapBytesMax = 100e6;

/**
 * Ends the start of an agent. The code that was translated is kept for the next start; what only this one needed, all
 * leases as text and rows read back, goes to the system at once: left to itself, a process with so little to do keeps it
 * for long. `gc` is there with Node's --expose-gc.
 */
export async function settle(ready: Promise<void>, signal: AbortSignal): Promise<void> {
  try {
    await ready;
    flushCompileCache();
    await sleep(calmMs, undefined, { signal, ref: false });
  } catch {
    return; // stopped before
  }
  if (globalThis.gc === undefined || process.memoryUsage().heapUsed > collectedHeapBytesMax) return;
  await globalThis.gc({ type: 'major', execution: 'async', flavor: 'last-resort' });
  native.trimMemory();
}
