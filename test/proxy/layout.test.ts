import test from 'ava';
import { nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import { affinityTimeout, affinityTimeouts } from '../../proxy/nftables/affinity-timeouts.ts';
import {
  type Capacity,
  capacityFor,
  leastCapacity,
  parseCapacity,
  renderCapacity,
} from '../../proxy/nftables/capacity.ts';
import { MAX_SLOTS } from '../../proxy/nftables/elements.ts';
import { layoutElements, proxyLayout } from '../../proxy/nftables/layout.ts';

const capacity = leastCapacity;
const options = {
  detector: 'networks',
  masqueradeAll: false,
  masqueradeBit: 14,
  nodePortsOn: 'set',
} as const;
const layoutOf = (family: 4 | 6, more: Partial<Capacity> = {}) =>
  proxyLayout({ ...options, family, capacity: { ...capacity, ...more } });

test('both families have the same chains, rules and sets', (t) => {
  const shape = (family: 4 | 6) => ({
    chains: layoutOf(family, { affinity: true }).chains.map(({ name, hook, rules }) => [
      name,
      hook,
      rules.map(({ comment }) => comment),
    ]),
    sets: layoutOf(family, { affinity: true }).sets.map(({ name, size, interval }) => [name, size, interval]),
  });
  t.deepEqual(shape(4), shape(6));
});

test('every rule says what it is for', (t) => {
  const rules = layoutOf(4, { affinity: true }).chains.flatMap((chain) => chain.rules);
  t.deepEqual(
    rules.filter(({ comment }) => !comment),
    [],
  );
});

test('each number of slots up to the capacity has its chain and leads to it', (t) => {
  const chains = new Set(layoutOf(4, { slots: 32 }).chains.map(({ name }) => name));
  const targets = layoutElements({ family: 4, capacity: { ...capacity, slots: 32 } }).map(({ data }) => {
    return typeof data === 'object' && 'chain' in data ? data.chain : '';
  });
  t.is(targets.filter((target) => /^slots-\d/.test(target)).length, 32);
  t.deepEqual(
    targets.filter((target) => target !== '' && !chains.has(target)),
    [],
  );
});

test('elements of the layout are different ones', (t) => {
  const keys = layoutElements({ family: 6, capacity: { ...capacity, slots: MAX_SLOTS, affinity: true } }).map(
    nftElementKey,
  );
  t.is(new Set(keys).size, keys.length);
});

test('sets are never filled beyond three quarters, and grow by doubling', (t) => {
  t.is(capacityFor({ frontends: 768, endpoints: 0, slots: 0, affinity: false }).frontends, 1024);
  t.is(capacityFor({ frontends: 769, endpoints: 0, slots: 0, affinity: false }).frontends, 2048);
  t.is(capacityFor({ frontends: 0, endpoints: 100_000, slots: 0, affinity: false }).endpoints, 262_144);
  t.is(capacityFor({ frontends: 0, endpoints: 0, slots: 17, affinity: false }).slots, 32);
  t.is(capacityFor({ frontends: 0, endpoints: 0, slots: 4000, affinity: false }).slots, MAX_SLOTS);
});

test('what a table says of its room is read as it was written, and nothing else', (t) => {
  const other = { frontends: 4096, endpoints: 262_144, slots: 128, affinity: true };
  t.deepEqual(parseCapacity(renderCapacity(other)), other);
  t.deepEqual(parseCapacity(renderCapacity(capacity)), capacity);
  for (const text of ['', '1024', '1024 4096 16', '1024 4096 9999 plain', '1 2 3 maybe'])
    t.is(parseCapacity(text), undefined);
});

test('a time that a client keeps its endpoint is never cut short, and at most a tenth longer', (t) => {
  for (let seconds = 1; seconds <= 86_400; seconds += 1) {
    const timeout = affinityTimeout(seconds);
    if (timeout < seconds || timeout > seconds * 1.1) t.fail(`${seconds} s became ${timeout} s`);
  }
  for (const usual of [1, 30, 60, 90, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 43_200, 86_400])
    t.is(affinityTimeout(usual), usual);
});

test('the timeouts of all services have the same chains', (t) => {
  t.is(
    layoutOf(4, { affinity: true }).chains.length - layoutOf(4).chains.length,
    affinityTimeouts.length + 24,
  );
});
