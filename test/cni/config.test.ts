import test from 'ava';
import { parseNetworkConfig } from '../../cni/config.ts';
import { CniError } from '../../cni/error.ts';
import { foldKeys } from '../../cni/fields.ts';
import { formatRangeSet } from '../../cni/ranges.ts';

function parse(config: Record<string, unknown>) {
  const parsed = parseNetworkConfig(foldKeys(config));
  return parsed instanceof CniError ? `${parsed.code} ${parsed.message}` : parsed;
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

test('an empty configuration takes everything from the node', (t) => {
  t.deepEqual(parse({}), {
    bridge: undefined,
    mtuBytes: undefined,
    hairpin: true,
    mac: undefined,
    rangeSets: [],
    routes: [],
    dns: { nameservers: [], domain: undefined, search: [], options: [] },
  });
});

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

test('every problem comes with its path, all of them at once', (t) => {
  t.is(
    parse({
      bridge: 'much-too-long-a-name',
      mtu: '1500',
      ipam: { type: 'dhcp', ranges: [[{ subnet: 5 }]], routes: [{ gw: 'x' }, 7] },
      dns: { nameservers: 'x' },
    }),
    '7 invalid network config: bridge: must be a link name of at most 15 characters, not "much-too-long-a-name"; ' +
      'mtu: must be a whole number from 0 to 65535, not "1500"; ' +
      'ipam.type: "dhcp" is not supported; ' +
      'ipam.ranges[0][0].subnet: must be text, not 5; ' +
      'ipam.routes[0].gw: must be an IP address, not "x"; ' +
      'ipam.routes[0].dst: missing; ' +
      'ipam.routes[1]: must be an object, not 7; ' +
      'dns.nameservers: must be a list of texts, not "x"',
  );
});

test('routes are read with all their fields', (t) => {
  t.like(
    parse({
      ipam: {
        routes: [{ dst: '10.9.1.1/16', gw: '10.1.0.9', mtu: 1400, priority: 5, table: 7, scope: 253 }],
      },
    }),
    {
      routes: [
        {
          destination: '10.9.0.0/16',
          gateway: '10.1.0.9',
          mtuBytes: 1400,
          priority: 5,
          table: 7,
          scope: 253,
        },
      ],
    },
  );
});

test('an MTU of 0 is none, and one too small for IPv4 is refused', (t) => {
  t.like(parse({ mtu: 0 }), { mtuBytes: undefined });
  t.like(parse({ MTU: 1450 }), { mtuBytes: 1450 });
  t.regex(String(parse({ mtu: 67 })), /mtu: at least 68, not 67/);
});

test('runtimeConfig.mac goes before args.cni.mac', (t) => {
  const args = { cni: { mac: '02:00:00:00:00:01' } };
  t.like(parse({ args }), { mac: '02:00:00:00:00:01' });
  t.like(parse({ args, runtimeConfig: { mac: '02-00-00-00-00-0A' } }), { mac: '02:00:00:00:00:0a' });
});

test('keys of the reference plugin that mean nothing here are let pass', (t) => {
  t.like(
    parse({ isGateway: true, isDefaultGateway: true, ipMasq: true, hairpinMode: false, promiscMode: 'x' }),
    {
      hairpin: false,
    },
  );
});
