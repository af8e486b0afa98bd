import test from 'ava';
import fc from 'fast-check';
import { SubnetPool } from '../../../controlplane/controllers/subnet-pool.ts';
import { cidrsOverlap, parseCidr } from '../../../core/address.ts';
import { cidrs } from '../server.ts';

const [network, large, small] = cidrs('10.0.0.0/22', '10.0.2.0/23', '10.0.1.128/25');

function pool(...reserved: string[]): SubnetPool {
  if (network === undefined) throw new TypeError('network');
  return new SubnetPool(network, 24, cidrs(...reserved));
}

test('subnets are given from the lowest on, and again the lowest that came back', (t) => {
  const subnets = pool();
  t.deepEqual(
    ['a', 'b', 'c', 'd', 'e'].map((owner) => subnets.allocate(owner)),
    [...cidrs('10.0.0.0/24', '10.0.1.0/24', '10.0.2.0/24', '10.0.3.0/24'), undefined],
  );
  subnets.release('b');
  subnets.release('c');
  t.is(String(subnets.allocate('f')), '10.0.1.0/24');
});

test('what is taken already, in whatever size, is not given', (t) => {
  const subnets = pool();
  if (large === undefined || small === undefined) throw new TypeError('cidrs');
  t.deepEqual(subnets.occupy(large, 'x'), []);
  t.deepEqual(subnets.occupy(small, 'y'), []);
  t.is(String(subnets.allocate('a')), '10.0.0.0/24');
  t.is(subnets.allocate('b'), undefined);
  t.deepEqual(subnets.occupy(large, 'z'), ['x']);
});

test('what belongs to the services is not given', (t) => {
  const subnets = pool('10.0.0.0/23', '10.9.0.0/16');
  t.is(String(subnets.allocate('a')), '10.0.2.0/24');
});

test('IPv6 subnets of 64 bits are given alike', (t) => {
  const [wide] = cidrs('fd00:10:244::/56');
  if (wide === undefined) throw new TypeError('wide');
  const subnets = new SubnetPool(wide, 64);
  const given = Array.from({ length: 257 }, (_, i) => subnets.allocate(`n${i}`));
  t.is(String(given[0]), 'fd00:10:244::/64');
  t.is(String(given[255]), 'fd00:10:244:ff::/64');
  t.is(given[256], undefined);
});

test('whatever comes and goes, no two owners have overlapping subnets', (t) => {
  const step = fc.record({ owner: fc.integer({ min: 0, max: 20 }), leaves: fc.boolean() });
  const property = fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
    const [wide] = cidrs('10.0.0.0/20');
    if (wide === undefined) throw new TypeError('wide');
    const subnets = new SubnetPool(wide, 24, cidrs('10.0.4.0/23'));
    const held = new Map<number, string>();
    for (const { owner, leaves } of steps) {
      if (leaves) {
        subnets.release(`${owner}`);
        held.delete(owner);
      } else if (!held.has(owner)) {
        const subnet = subnets.allocate(`${owner}`);
        t.is(subnet === undefined, held.size === 14);
        if (subnet !== undefined) held.set(owner, subnet);
      }
    }
    const all = [...held.values(), '10.0.4.0/23'].map((text) => parseCidr(text));
    for (const [i, a] of all.entries()) {
      for (const b of all.slice(i + 1)) t.false(a !== undefined && b !== undefined && cidrsOverlap(a, b));
    }
  });
  fc.assert(property, { numRuns: 100 });
});
