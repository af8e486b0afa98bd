import test from 'ava';
import { addressBands, pickFree, portBands } from '../../../controlplane/service/bands.ts';

test('the static band is a sixteenth of a range, at least 16 and at most 256 addresses', (t) => {
  const sizes = { 14: 0, 62: 16, 254: 16, 1022: 63, 4094: 255, 65534: 256 };
  for (const [size, expected] of Object.entries(sizes))
    t.is(addressBands(Number(size)).staticSize, expected, size);
});

test('the static band of the node ports is 86', (t) => {
  t.is(portBands(2768).staticSize, 86);
});

test('the upper band is given out first, then the lower, then nothing', (t) => {
  const bands = { size: 30, staticSize: 10 };
  const used = new Set<number>();
  const given: number[] = [];
  for (
    let value = pickFree(bands, (v) => used.has(v));
    value !== undefined;
    value = pickFree(bands, (v) => used.has(v))
  ) {
    used.add(value);
    given.push(value);
  }
  t.is(given.length, 30);
  t.true(given.slice(0, 20).every((value) => value >= 10));
  t.true(given.slice(20).every((value) => value < 10));
});
