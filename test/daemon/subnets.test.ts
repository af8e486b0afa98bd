import test from 'ava';
import fc from 'fast-check';
import { cidrContains, cidrsOverlap } from '../../core/address.ts';
import type { FamilyNetwork } from '../../daemon/config.ts';
import { freeSubnets, isNodeSubnet } from '../../daemon/subnets.ts';
import { cidr, ip } from './golden.ts';

const range: FamilyNetwork = {
  network: cidr('10.5.0.0/16'),
  subnetLength: 24,
  subnetMin: ip('10.5.1.0'),
  subnetMax: ip('10.5.255.0'),
};

test('free subnets are those between the bounds that overlap nothing', (t) => {
  t.deepEqual(freeSubnets(range, [], 2) as string[], ['10.5.1.0/24', '10.5.2.0/24']);
  const taken = ['10.5.1.128/25', '10.5.4.0/22', '10.5.3.7/32', 'fc00::/64'].map(cidr);
  t.deepEqual(freeSubnets(range, taken, 2) as string[], ['10.5.2.0/24', '10.5.8.0/24']);
  t.deepEqual(freeSubnets(range, [cidr('10.0.0.0/8')], 9), []);
  t.is(freeSubnets(range, [], 1000).length, 255);
});

test('IPv6 subnets are cut in the same way', (t) => {
  const v6 = {
    network: cidr('fc00:5::/48'),
    subnetLength: 64,
    subnetMin: ip('fc00:5:0:1::'),
    subnetMax: ip('fc00:5:0:ffff::'),
  };
  t.deepEqual(freeSubnets(v6, [cidr('fc00:5:0:1::/64')], 1) as string[], ['fc00:5:0:2::/64']);
});

test('whatever is taken, what is free overlaps none of it and is a subnet that a node may have', (t) => {
  const block = fc
    .record({ start: fc.nat(255), length: fc.integer({ min: 18, max: 30 }) })
    .map(({ start, length }) =>
      cidr(`10.5.${length < 24 ? start & (0xff << (24 - length)) : start}.0/${length}`),
    );
  fc.assert(
    fc.property(fc.array(block, { maxLength: 60 }), (taken) => {
      const free = freeSubnets(range, taken, 300);
      const all = freeSubnets(range, [], 300);
      const expected = all.filter((subnet) => !taken.some((one) => cidrsOverlap(one, subnet)));
      return (
        JSON.stringify(free) === JSON.stringify(expected) &&
        free.every((subnet) => isNodeSubnet(range, subnet) && cidrContains(range.network, subnet))
      );
    }),
    { numRuns: 50 },
  );
  t.pass();
});
