import test from 'ava';
import { nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import { MAX_SLOTS } from '../../proxy/nftables/elements.ts';
import { capacityFor, layoutElements, proxyLayout } from '../../proxy/nftables/layout.ts';

const capacity = capacityFor({ frontends: 0, endpoints: 0, slots: 0 });
const layoutOf = (family: 4 | 6, slots = capacity.slots) =>
  proxyLayout({ family, masquerade: 'outside pods', capacity: { ...capacity, slots } });

test('both families have the same chains, rules and sets', (t) => {
  const shape = (family: 4 | 6) => ({
    chains: layoutOf(family).chains.map(({ name, hook, rules }) => [
      name,
      hook,
      rules.map(({ comment }) => comment),
    ]),
    sets: layoutOf(family).sets.map(({ name, size, interval }) => [name, size, interval]),
  });
  t.deepEqual(shape(4), shape(6));
});

test('every rule says what it is for', (t) => {
  const rules = layoutOf(4).chains.flatMap((chain) => chain.rules);
  t.deepEqual(
    rules.filter(({ comment }) => !comment),
    [],
  );
});

test('each number of slots up to the capacity has its chain and leads to it', (t) => {
  const chains = new Set(layoutOf(4, 32).chains.map(({ name }) => name));
  const targets = layoutElements({ ...capacity, slots: 32 }).map(({ data }) => {
    return typeof data === 'object' && 'chain' in data ? data.chain : '';
  });
  t.is(targets.filter((target) => target.startsWith('slots-')).length, 32);
  t.deepEqual(
    targets.filter((target) => !chains.has(target)),
    [],
  );
});

test('elements of the layout are different ones', (t) => {
  const keys = layoutElements({ ...capacity, slots: MAX_SLOTS }).map(nftElementKey);
  t.is(new Set(keys).size, keys.length);
});

test('sets are never filled beyond three quarters, and grow by doubling', (t) => {
  t.is(capacityFor({ frontends: 768, endpoints: 0, slots: 0 }).frontends, 1024);
  t.is(capacityFor({ frontends: 769, endpoints: 0, slots: 0 }).frontends, 2048);
  t.is(capacityFor({ frontends: 0, endpoints: 100_000, slots: 0 }).endpoints, 262_144);
  t.is(capacityFor({ frontends: 0, endpoints: 0, slots: 17 }).slots, 32);
  t.is(capacityFor({ frontends: 0, endpoints: 0, slots: 4000 }).slots, MAX_SLOTS);
});
