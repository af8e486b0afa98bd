import test from 'ava';
import fc from 'fast-check';
import { type Shaper, sameShaper, shaperOf, tbfOf } from '../../kernel/tbf.ts';

test('limit and buffer are those that the reference plugin computes', (t) => {
  // 8 Mbit/s with a burst of 80 kbit: 25 ms of the rate may wait beyond the burst, which comes in in 10 ms.
  const tbf = tbfOf({ rateBytes: 1_000_000, burstBytes: 10_000 });
  t.deepEqual(tbf, { rateBytes: 1_000_000, burstBytes: 10_000, limitBytes: 35_000, bufferTicks: 156_250 });
});

test('a queue of more than the kernel counts is as long as it counts', (t) => {
  t.is(tbfOf({ rateBytes: 125e12, burstBytes: 1 }).limitBytes, 2 ** 32 - 1);
});

const shaper: fc.Arbitrary<Shaper> = fc.record({
  rateBytes: fc.oneof(
    fc.integer({ min: 1, max: 2 ** 40 }),
    fc.integer({ min: 2 ** 32 - 2, max: 2 ** 32 + 2 }),
  ),
  burstBytes: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
});

test('what the kernel can tell of a shaper equals it', (t) => {
  fc.assert(fc.property(shaper, (wanted) => t.true(sameShaper(wanted, shaperOf(tbfOf(wanted))))));
});

test('other rates and other bursts are told apart', (t) => {
  const wanted = { rateBytes: 1_000_000, burstBytes: 10_000 };
  for (const other of [{ rateBytes: 1_000_001 }, { burstBytes: 10_010 }, { burstBytes: 9_000 }]) {
    t.false(sameShaper(wanted, { ...wanted, ...other }));
    t.false(sameShaper({ ...wanted, ...other }, wanted));
  }
});
