import test from 'ava';
import fc from 'fast-check';
import { percentile, ratioOf, summarize } from '../../bench/frame/statistics.ts';
import { interleave } from '../../bench/frame.ts';

test('a percentile is one of the samples', (t) => {
  t.is(percentile([4, 1, 3, 2], 0.5), 2);
  t.is(percentile([4, 1, 3, 2], 0.99), 4);
  t.is(percentile([7], 0.9), 7);
  t.throws(() => percentile([], 0.5), { message: 'no samples' });
});

test('percentiles rise from p50 to p99 and lie within the samples', (t) => {
  const samples = fc.array(fc.double({ min: 0, max: 1e6, noNaN: true }), { minLength: 1 });
  fc.assert(
    fc.property(samples, (values) => {
      const { p50, p90, p99, spread } = summarize(values);
      return spread[0] <= p50 && p50 <= p90 && p90 <= p99 && p99 <= spread[1];
    }),
  );
  t.pass();
});

test('the spread of several rounds is that of their medians, so one slow sample does not widen it', (t) => {
  const rounds = [
    [1, 1, 90],
    [2, 2, 2],
  ];
  t.deepEqual(summarize(rounds).spread, [1, 2]);
  t.is(summarize(rounds).p99, 90);
});

test('a round that was slow for both sides does not change their ratio', (t) => {
  t.deepEqual(ratioOf([[2], [20], [2]], [[1], [10], [1]]), { ratio: 2, spread: [2, 2] });
});

test('sides measured in different numbers of rounds are compared by their medians', (t) => {
  t.is(ratioOf([3, 3, 9], [[1], [1]]).ratio, 3);
});

test('interleaved sides change their order from round to round', async (t) => {
  const order: string[] = [];
  const samples = await interleave(2, {
    a: () => [order.push('a')],
    b: async () => void order.push('b'),
  });
  t.deepEqual(order, ['a', 'b', 'b', 'a']);
  t.deepEqual(samples.a, [[1], [4]]);
  t.is(samples.b.length, 2, 'a side that returns nothing is timed');
});
