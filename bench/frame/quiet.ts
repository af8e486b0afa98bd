import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const lookMs = 50;
/** Looks in a row at which the machine had nothing to do. */
const quietLooks = 3;
const busyShareMax = 0.1;
/** A machine that others use is never quiet. */
const patienceMs = 3_000;

/**
 * Waits until the machine has nothing to do, for a few seconds at most. The kernel does some work when nobody asks for
 * it any more, above all the removal of namespaces: after one contestant's turn it would fall into the other's.
 */
export async function untilQuiet(): Promise<void> {
  const until = performance.now() + patienceMs;
  let before = readTicks();
  for (let quiet = 0; quiet < quietLooks && performance.now() < until; ) {
    await sleep(lookMs);
    const now = readTicks();
    const share = (now.busy - before.busy) / Math.max(1, now.all - before.all);
    quiet = share <= busyShareMax ? quiet + 1 : 0;
    before = now;
  }
}

/** Of all processors: proc_stat(5), the first line; idle and iowait are the fourth and the fifth. */
function readTicks(): { busy: number; all: number } {
  const [line = ''] = readFileSync('/proc/stat', 'utf8').split('\n');
  const ticks = line.split(/\s+/).slice(1, 9).map(Number);
  const all = ticks.reduce((sum, each) => sum + each, 0);
  return { busy: all - (ticks[3] ?? 0) - (ticks[4] ?? 0), all };
}
