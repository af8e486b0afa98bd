import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { Report } from '../../../cli/demo/checks.ts';

test('a check that fails at once is tried again without starving the loop', async (t) => {
  const report = new Report(() => undefined);
  let tries = 0;
  const refused = async () => {
    tries += 1;
    return { ok: false, ms: 0, error: 'ECONNREFUSED' } as const;
  };
  const checking = report.expect('a server', refused, { patienceMs: 2_000 });
  const startMs = performance.now();
  await sleep(1);
  t.true(performance.now() - startMs < 1_500, 'a timer runs meanwhile');
  await checking;
  t.is(report.failed, 1);
  t.true(tries > 1 && tries < 200);
});

test('a check passes only when the right server saw the right caller', async (t) => {
  const report = new Report(() => undefined);
  const answered = async () => ({ ok: true, ms: 1, answer: { name: 'web-1', peer: '10.0.0.1' } }) as const;
  await report.expect('a', answered, { servers: ['web-1', 'web-2'], seenFrom: ['10.0.0.1'] });
  await report.expect('b', answered, { servers: ['web-2'] });
  await report.expect('c', answered, { seenFrom: ['10.0.0.2'] });
  await report.expect('d', answered, { error: 'ECONNREFUSED' });
  t.deepEqual(
    report.checks.map(({ ok }) => ok),
    [true, false, false, false],
  );
});
