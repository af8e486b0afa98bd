import { setTimeout as sleep } from 'node:timers/promises';
import type { Storage } from './storage.ts';

/** A watch that was away for less than this goes on where it was. */
const HISTORY_MS = 5 * 60_000;
/** So much is kept however old it is, and no more than the second, however young. */
const LEAST_REVISIONS = 10_000;
const MOST_REVISIONS = 1_000_000;
const INTERVAL_MS = 30_000;

/** Lets go of history beyond the bounds above, until aborted. */
export async function compactRegularly(
  storage: Storage,
  { signal, onError }: { readonly signal: AbortSignal; readonly onError: (error: Error) => void },
): Promise<void> {
  const samples: number[] = [];
  while (!signal.aborted) {
    try {
      const newest = await storage.revision();
      samples.push(newest);
      const old = samples.length > HISTORY_MS / INTERVAL_MS ? samples.shift() : undefined;
      await storage.compact(compactionTarget(newest, old));
    } catch (error) {
      onError(error as Error);
    }
    await sleep(INTERVAL_MS, undefined, { signal }).catch(() => {});
  }
}

/** @param old the revision of HISTORY_MS ago; undefined: not known yet */
export function compactionTarget(newest: number, old: number | undefined): number {
  const byAge = old === undefined ? 0 : Math.min(old, newest - LEAST_REVISIONS);
  return Math.max(byAge, newest - MOST_REVISIONS, 0);
}
