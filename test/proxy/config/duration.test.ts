import test from 'ava';
import fc from 'fast-check';
import { parseDuration, renderDuration } from '../../../proxy/config/duration.ts';

const table: readonly (readonly [string, number | undefined])[] = [
  ['0', 0],
  ['-0', 0],
  ['0s', 0],
  ['30s', 30_000],
  ['1h0m0s', 3_600_000],
  ['2h22m', 8_520_000],
  ['1.5h', 5_400_000],
  ['.5s', 500],
  ['5.s', 5000],
  ['-1m30s', -90_000],
  ['+250ms', 250],
  ['1us', 0.001],
  ['1µs', 0.001],
  ['100ns', 0.0001],
  ['', undefined],
  ['-', undefined],
  ['30', undefined],
  ['s', undefined],
  ['.s', undefined],
  ['1d', undefined],
  ['1 s', undefined],
  ['1s ', undefined],
  ['1h-1m', undefined],
  ['1e3s', undefined],
  ['9999999h', undefined],
];

for (const [text, ms] of table) {
  test(`"${text}" is ${ms === undefined ? 'no duration' : `${ms} ms`}`, (t) => {
    t.is(parseDuration(text), ms);
  });
}

test('durations are written as Go writes them', (t) => {
  t.deepEqual([0, 86_400_000, 1500, 250, 90_000, 0.0015, 0.0001, -5000, 3_600_000.5].map(renderDuration), [
    '0s',
    '24h0m0s',
    '1.5s',
    '250ms',
    '1m30s',
    '1.5µs',
    '100ns',
    '-5s',
    '1h0m0.0005s',
  ]);
});

test('what is written is read as it was, to the nanosecond', (t) => {
  const nanoseconds = fc.integer({ min: -(10 ** 15), max: 10 ** 15 });
  t.notThrows(() =>
    fc.assert(
      fc.property(nanoseconds, (ns) => {
        const ms = parseDuration(renderDuration(ns / 1e6));
        return ms !== undefined && Math.abs(ms * 1e6 - ns) < 1;
      }),
    ),
  );
});
