import test from 'ava';
import fc from 'fast-check';
import type { Ip } from '../../../core/address.ts';
import { spreadOf } from '../../../proxy/nftables/balancing.ts';
import { MAX_SLOTS } from '../../../proxy/nftables/elements.ts';
import { maglevTable } from '../../../proxy/nftables/maglev.ts';
import { placeEndpoints } from '../../../proxy/nftables/slots.ts';
import { tokensFor } from '../../../proxy/nftables/tokens.ts';
import type { Endpoint } from '../../../proxy/view.ts';

const endpoint = (number: number, weight = 1): Endpoint => {
  return { ip: `10.244.0.${number}` as Ip, port: 80, local: false, weight };
};
const endpoints = (...weights: readonly number[]) => weights.map((weight, index) => endpoint(index, weight));

/** How many slots each endpoint has. */
function shares(slots: readonly Endpoint[]): Record<string, number> {
  const counts = Map.groupBy(slots, ({ ip }) => ip);
  return Object.fromEntries([...counts].map(([ip, its]) => [ip.replace('10.244.0.', ''), its.length]));
}

const random = (...weights: readonly number[]) => shares(spreadOf(endpoints(...weights), 'random').slots);

test('endpoints have slots by their weights, in the smallest numbers', (t) => {
  t.deepEqual(random(1, 1, 1), { 0: 1, 1: 1, 2: 1 });
  t.deepEqual(random(50, 50), { 0: 1, 1: 1 });
  t.deepEqual(random(30, 10, 20), { 0: 3, 1: 1, 2: 2 });
  t.deepEqual(random(0, 7, 7), { 1: 1, 2: 1 });
  t.deepEqual(random(0, 0), { 0: 1, 1: 1 });
});

test('whatever the weights, slots are few, nobody with a weight is left out, and shares are nearly right', (t) => {
  const weights = fc.array(fc.nat(100), { minLength: 1, maxLength: 60 });
  fc.assert(
    fc.property(weights, (all) => {
      const { slots, code, isTable } = spreadOf(endpoints(...all), 'random');
      const total = all.reduce((sum, weight) => sum + weight, 0);
      t.deepEqual([code, isTable], [slots.length, false]);
      t.true(slots.length > 0 && slots.length <= Math.max(128, 4 * all.length) + all.length);
      const has = shares(slots);
      for (const [index, weight] of all.entries()) {
        const part = (has[index] ?? 0) / slots.length;
        t.is(part > 0, weight > 0 || total === 0);
        // A weight that is next to nothing counts as one slot; the others are a slot off, and what that adds up to.
        if (total > 0) t.true(Math.abs(part - weight / total) < 0.2, `${weight} of ${total}: ${part}`);
      }
    }),
  );
});

test('more endpoints than slots: as many as there are slots', (t) => {
  const many = Array.from({ length: MAX_SLOTS + 9 }, (_, number) => endpoint(number));
  t.is(spreadOf(many, 'random').code, MAX_SLOTS);
});

test("Maglev: every place is somebody's, shares are even, and follow the weights", (t) => {
  const even = shares(maglevTable(endpoints(1, 1, 1, 1, 1), 1021));
  for (const count of Object.values(even)) t.true(Math.abs(count - 1021 / 5) <= 1, `${count}`);
  const uneven = shares(maglevTable(endpoints(3, 1, 0), 1021));
  t.true(Math.abs((uneven[0] ?? 0) - 766) <= 2, JSON.stringify(uneven));
  t.is(uneven[2], undefined);
  t.is(maglevTable(endpoints(0, 0), 1021).length, 1021);
  t.deepEqual(maglevTable([], 1021), []);
});

test('Maglev: when an endpoint goes, hardly a client of the others notices', (t) => {
  const all = Array.from({ length: 10 }, (_, number) => endpoint(number));
  const [before, after] = [maglevTable(all, 1021), maglevTable(all.slice(1), 1021)];
  const moved = before.filter((was, place) => was !== all[0] && was !== after[place]).length;
  t.true(moved < 1021 * 0.1, `${moved} of 1021`);
});

test('an endpoint that is wanted several times has as many slots, and keeps those it has', (t) => {
  const wanted = fc.array(fc.constantFrom('a', 'b', 'c', 'd'), { maxLength: 12 });
  fc.assert(
    fc.property(wanted, wanted, (before, after) => {
      const placed = placeEndpoints(before, after, String);
      t.deepEqual([...placed].sort(), [...after].sort());
      t.deepEqual(placeEndpoints(placed, [...after].reverse(), String), placed);
    }),
  );
});

test('a token is one endpoint’s as long as it lives, and not soon another’s', (t) => {
  let tokens = tokensFor(new Map(), new Set(['a', 'b']));
  const [a, b] = [tokens.get('a'), tokens.get('b')];
  tokens = tokensFor(tokens, new Set(['b', 'c']));
  t.is(tokens.get('b'), b);
  t.false([a, b].includes(tokens.get('c')));
  t.is(tokensFor(tokens, new Set(['c', 'b'])), tokens);
  let last = tokens;
  for (let round = 0; round < 40_000; round += 1) last = tokensFor(last, new Set(['b', `${round}`]));
  t.is(new Set(last.values()).size, 2);
  t.true([...last.values()].every((token) => token > 0 && token < 0x4000));
});
