import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { type Dirt, Loop, type Outcome } from '../../daemon/loop.ts';

function setUp(outcomes: Outcome[] = [], timing: Partial<Record<'resyncMs' | 'retryMs', number>> = {}) {
  const passes: { dirt: Dirt[]; atMs: number }[] = [];
  const errors: unknown[] = [];
  const begin = performance.now();
  const hooks: { during?: (pass: number) => void | Promise<void> } = {};
  const loop = new Loop({
    work: async (dirt) => {
      passes.push({ dirt: [...dirt], atMs: performance.now() - begin });
      await hooks.during?.(passes.length);
      return outcomes[passes.length - 1] ?? 'done';
    },
    onError: (error) => errors.push(error),
    resyncMs: timing.resyncMs ?? 10_000,
    retryMs: timing.retryMs ?? 10_000,
    retryMostMs: 10_000,
  });
  const stop = new AbortController();
  const running = loop.run(stop.signal);
  const end = async () => {
    stop.abort();
    await running;
  };
  /** Waits until so many passes have begun, and a moment for one too many. */
  const begun = async (count: number) => {
    while (passes.length < count && performance.now() < begin + LIMIT_MS) await sleep(2);
    await sleep(SILENCE_MS);
  };
  return { loop, passes, errors, hooks, begun, end };
}

const LIMIT_MS = 60_000;
const SILENCE_MS = 50;

test('what becomes dirty together makes one pass', async (t) => {
  const { loop, passes, begun, end } = setUp();
  await begun(1);
  loop.kick('leases', 30);
  loop.kick('kernel', 200);
  loop.kick('kernel', 40);
  await begun(2);
  await end();
  t.deepEqual(
    passes.map(({ dirt }) => dirt),
    [['start'], ['leases', 'kernel']],
  );
});

test('what becomes dirty during a pass makes another one', async (t) => {
  const { loop, passes, hooks, begun, end } = setUp();
  hooks.during = async (pass) => {
    if (pass > 2) return;
    loop.kick('leases', 0);
    await sleep(20);
  };
  await begun(3);
  await end();
  t.deepEqual(
    passes.map(({ dirt }) => dirt),
    [['start'], ['leases'], ['leases']],
  );
});

test('what failed is tried again, ever later, and what threw is told', async (t) => {
  const { passes, errors, hooks, begun, end } = setUp(['again', 'again', 'again'], { retryMs: 20 });
  hooks.during = (pass) => {
    if (pass === 2) throw new Error('no');
  };
  await begun(4);
  await end();
  t.deepEqual(
    passes.map(({ dirt }) => dirt),
    [['start'], ['retry'], ['retry'], ['retry']],
  );
  t.is((errors[0] as Error).message, 'no');
  const [, first = 0, second = 0, third = 0] = passes.map(({ atMs }) => atMs);
  t.true(second - first > 30 && third - second > 70);
});

test('a partial pass puts off neither the retry nor the slow timer', async (t) => {
  const { loop, passes, begun, end } = setUp(['again', 'partial', 'partial', 'done'], {
    retryMs: 2_000,
    resyncMs: LIMIT_MS,
  });
  await begun(1);
  loop.kick('nftables', 0);
  await begun(2);
  loop.kick('nftables', 0);
  await begun(4);
  await end();
  t.deepEqual(
    passes.map(({ dirt }) => dirt),
    [['start'], ['nftables'], ['nftables'], ['retry']],
  );
});

test('the slow timer makes passes though nothing is said to be dirty', async (t) => {
  const { passes, begun, end } = setUp([], { resyncMs: 30 });
  await begun(4);
  await end();
  const [first, , , last] = passes.map(({ atMs }) => atMs);
  t.true(Number(last) - Number(first) > 80, `${first} to ${last}`);
});

test('a pass that has begun is ended before the loop is', async (t) => {
  const { hooks, begun, end } = setUp();
  let ended = false;
  hooks.during = async () => {
    await sleep(500);
    ended = true;
  };
  await begun(1);
  await end();
  t.true(ended);
});
