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
  return { loop, passes, errors, hooks, end };
}

test('what becomes dirty together makes one pass', async (t) => {
  const { loop, passes, end } = setUp();
  await sleep(20);
  loop.kick('leases', 30);
  loop.kick('kernel', 200);
  loop.kick('kernel', 40);
  await sleep(100);
  await end();
  t.deepEqual(
    passes.map(({ dirt }) => dirt),
    [['start'], ['leases', 'kernel']],
  );
});

test('what becomes dirty during a pass makes another one', async (t) => {
  const { loop, passes, hooks, end } = setUp();
  hooks.during = async (pass) => {
    if (pass > 2) return;
    loop.kick('leases', 0);
    await sleep(20);
  };
  await sleep(120);
  await end();
  t.deepEqual(
    passes.map(({ dirt }) => dirt),
    [['start'], ['leases'], ['leases']],
  );
});

test('what failed is tried again, ever later, and what threw is told', async (t) => {
  const { passes, errors, hooks, end } = setUp(['again', 'again', 'again'], { retryMs: 20 });
  hooks.during = (pass) => {
    if (pass === 2) throw new Error('no');
  };
  await sleep(300);
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
  const { loop, passes, end } = setUp(['again', 'partial', 'partial', 'done'], {
    retryMs: 100,
    resyncMs: 5_000,
  });
  await sleep(20);
  loop.kick('nftables', 0);
  await sleep(40);
  loop.kick('nftables', 0);
  await sleep(120);
  await end();
  t.deepEqual(
    passes.map(({ dirt }) => dirt),
    [['start'], ['nftables'], ['nftables'], ['retry']],
  );
});

test('the slow timer makes passes though nothing is said to be dirty', async (t) => {
  const { passes, end } = setUp([], { resyncMs: 30 });
  await sleep(110);
  await end();
  t.true(passes.length >= 3 && passes.length <= 4, `${passes.length}`);
});

test('a pass that has begun is ended before the loop is', async (t) => {
  const { hooks, end } = setUp();
  let ended = false;
  hooks.during = async () => {
    await sleep(50);
    ended = true;
  };
  await sleep(10);
  await end();
  t.true(ended);
});
