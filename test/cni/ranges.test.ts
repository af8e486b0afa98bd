import test from 'ava';
import fc from 'fast-check';
import { CniError } from '../../cni/error.ts';
import { foldKeys } from '../../cni/fields.ts';
import { type AddressRange, firstOverlap, formatRangeSet } from '../../cni/ranges.ts';
import { parseBridge } from '../../cni/types/bridge.ts';
import type { CniVersion } from '../../cni/version.ts';
import { ipFromBigInt, ipToBigInt } from '../../core/address.ts';

function parse(config: Record<string, unknown>) {
  const cniVersion = (config.cniVersion ?? '0.1.0') as CniVersion;
  const parsed = parseBridge(foldKeys(config), { cniVersion, args: {}, configText: '' }, 'fairlead');
  if (parsed instanceof CniError) return `${parsed.code} ${parsed.message}`;
  return { rangeSets: parsed.ipam.kind === 'own' ? parsed.ipam.rangeSets : [] };
}

/** The problem of a single subnet. */
function rangeProblem(range: Record<string, string>): unknown {
  return parse({ ipam: { ranges: [[range]] } });
}

/** The addresses of the first set of an `ipam` object. */
function addresses(ipam: Record<string, unknown>): string {
  const parsed = parse({ ipam });
  if (typeof parsed === 'string') return parsed;
  const [set] = parsed.rangeSets;
  return set === undefined ? 'none' : `${formatRangeSet(set)} gateway ${set[0].gateway}`;
}

test('a subnet leaves out network, broadcast and, when given, the gateway', (t) => {
  t.is(addresses({ subnet: '10.1.0.0/24' }), '10.1.0.1-10.1.0.254 gateway 10.1.0.1');
  t.is(addresses({ ranges: [[{ subnet: '10.1.0.0/30' }]] }), '10.1.0.1-10.1.0.2 gateway 10.1.0.1');
  t.is(addresses({ subnet: 'fd00::/120' }), 'fd00::1-fd00::ff gateway fd00::1');
  t.is(
    addresses({
      subnet: '10.1.0.0/24',
      rangeStart: '10.1.0.0',
      rangeEnd: '10.1.0.255',
      gateway: '10.1.0.254',
    }),
    '10.1.0.1-10.1.0.254 gateway 10.1.0.254',
  );
});

for (const [range, problem] of [
  [{ subnet: '10.1.0.0/31' }, 'Network 10.1.0.0/31 too small to allocate from'],
  [{ subnet: 'fd00::/127' }, 'Network fd00::/127 too small to allocate from'],
  [
    { subnet: '10.1.0.5/24' },
    'Network has host bits set. For a subnet mask of length 24 the network address is 10.1.0.0',
  ],
  [{ subnet: '10.1.0.0/24', rangeStart: '10.2.0.1' }, 'RangeStart 10.2.0.1 not in network 10.1.0.0/24'],
  [{ subnet: '10.1.0.0/24', rangeEnd: '10.2.0.1' }, 'RangeEnd 10.2.0.1 not in network 10.1.0.0/24'],
  [{ subnet: '10.1.0.0/24', rangeStart: 'x' }, 'RangeStart x is not an IP address'],
  [
    { subnet: '10.1.0.0/24', rangeStart: '10.1.0.9', rangeEnd: '10.1.0.5' },
    'RangeStart 10.1.0.9 not in network 10.1.0.0/24',
  ],
  [{ subnet: '10.1.0.0/24', gateway: 'fd00::1' }, 'Gateway fd00::1 is not of the family of 10.1.0.0/24'],
  [{ subnet: '10.1.0.0/24', gateway: 'x' }, 'Gateway x is not an IP address'],
  [{ subnet: 'x' }, 'invalid CIDR address: x'],
] as const) {
  test(`the range ${JSON.stringify(range)} is refused`, (t) => {
    t.is(rangeProblem(range), `7 invalid network config: ipam.ranges[0][0].subnet: ${problem}`);
  });
}

test('ranges must not overlap, mix families in a set, or before 0.3.0 be two of one family', (t) => {
  const a = { subnet: '10.1.0.0/24' };
  t.regex(
    String(parse({ ipam: { ranges: [[a], [{ subnet: '10.1.0.0/16' }]] } })),
    /range set 0 overlaps with 1/,
  );
  t.regex(
    String(parse({ ipam: { ranges: [[a, { subnet: 'fd00::/64' }]] } })),
    /ranges\[0\]: invalid range set 0: mixed address families/,
  );
  t.regex(
    String(parse({ ipam: { ranges: [[a], [{ subnet: '10.2.0.0/24' }]] } })),
    /CNI version 0.1.0 does not support more than 1 address per family/,
  );
  t.regex(
    String(parse({ ipam: { ranges: [[]] } })),
    /ipam.ranges\[0\]: invalid range set 0: empty range set/,
  );
});

test('the ranges of one set must not overlap either', (t) => {
  const ranges = [[{ subnet: '10.9.0.0/24' }], [{ subnet: '10.1.0.0/24' }, { subnet: '10.1.0.0/25' }]];
  t.is(
    parse({ ipam: { ranges } }),
    '7 invalid network config: ipam.ranges[1]: invalid range set 1: ' +
      'subnets 10.1.0.1-10.1.0.254 and 10.1.0.1-10.1.0.126 overlap',
  );
});

test('ranges of the runtime come first, then the older subnet, then the list', (t) => {
  const parsed = parse({
    cniVersion: '0.3.0',
    ipam: { subnet: '10.2.0.0/24', ranges: [[{ subnet: '10.3.0.0/24' }], [{ subnet: 'fd00::/64' }]] },
    runtimeConfig: { ipRanges: [[{ subnet: '10.1.0.0/24', rangeStart: '10.1.0.9' }]] },
  });
  t.deepEqual(typeof parsed === 'string' ? parsed : parsed.rangeSets.map(formatRangeSet), [
    '10.1.0.9-10.1.0.254',
    '10.2.0.1-10.2.0.254',
    '10.3.0.1-10.3.0.254',
    'fd00::1-fd00::ffff:ffff:ffff:ffff',
  ]);
});

test('alternatives of one set may be apart', (t) => {
  t.is(
    addresses({ ranges: [[{ subnet: '10.1.0.0/30' }, { subnet: '10.9.0.0/30' }]] }),
    '10.1.0.1-10.1.0.2,10.9.0.1-10.9.0.2 gateway 10.1.0.1',
  );
});

/** As ranges were compared before: each with each. */
function firstOverlapByPairs(groups: readonly (readonly AddressRange[])[]): readonly number[] | undefined {
  const overlap = (a: AddressRange, b: AddressRange) =>
    a.first.includes(':') === b.first.includes(':') &&
    ipToBigInt(a.first) <= ipToBigInt(b.last) &&
    ipToBigInt(b.first) <= ipToBigInt(a.last);
  for (const [one, ranges] of groups.entries()) {
    const other = groups.findIndex(
      (later, place) => place > one && ranges.some((a) => later.some((b) => overlap(a, b))),
    );
    if (other >= 0) return [one, other];
  }
  return undefined;
}

const rangeArbitrary = fc
  .record({ isV4: fc.boolean(), first: fc.nat(60), size: fc.nat(6) })
  .map(({ isV4, first, size }) => {
    const [family, base] = isV4 ? [4 as const, 10n << 24n] : [6 as const, 0n];
    const at = (offset: number) => ipFromBigInt(base + BigInt(offset), family);
    return { first: at(first), last: at(first + size) } as AddressRange;
  });

/** Ranges of one set are apart. */
const groupArbitrary = fc.array(rangeArbitrary, { maxLength: 4 }).map((ranges) =>
  ranges.filter((range, index) => {
    return firstOverlapByPairs([[range], ranges.slice(0, index)]) === undefined;
  }),
);

test('the first overlap is found as by comparing each with each', (t) => {
  fc.assert(
    fc.property(fc.array(groupArbitrary, { maxLength: 8 }), (groups) => {
      t.deepEqual(firstOverlap(groups), firstOverlapByPairs(groups) as [number, number] | undefined);
    }),
    { numRuns: 3000 },
  );
});

test('twenty thousand ranges take less than five seconds of the processor, overlapping or not', (t) => {
  const subnet = (index: number) => ({ subnet: `10.${index >> 8}.${index & 255}.0/24` });
  const many = Array.from({ length: 20_000 }, (_, index) => subnet(index));
  const before = process.cpuUsage();
  t.is(typeof parse({ cniVersion: '1.0.0', ipam: { ranges: many.map((one) => [one]) } }), 'object');
  t.is(typeof parse({ cniVersion: '1.0.0', ipam: { ranges: [many] } }), 'object');
  t.regex(
    String(parse({ cniVersion: '1.0.0', ipam: { ranges: [...many.map((one) => [one]), [subnet(0)]] } })),
    /range set 0 overlaps with 20000/,
  );
  const { user, system } = process.cpuUsage(before);
  t.log(`${Math.round((user + system) / 1000)} ms`);
  t.true(user + system < 5_000_000);
});
