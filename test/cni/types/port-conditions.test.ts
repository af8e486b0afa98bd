import test from 'ava';
import fc from 'fast-check';
import {
  type AddressSpan,
  commonSpans,
  joinSpans,
  otherSpans,
  parseSpan,
} from '../../../cni/types/address-spans.ts';
import { type PortConditions, parsePortConditions } from '../../../cni/types/port-conditions.ts';
import { type Family, type Ip, ipFromBigInt, ipToBigInt } from '../../../core/address.ts';

function parse(text: string, family: Family = 4): PortConditions | string {
  return parsePortConditions([text], family);
}

/** `10.0.0.0-10.255.255.255` */
function shown(spans: readonly AddressSpan[], family: Family = 4): string {
  return spans.map((span) => span.map((end) => ipFromBigInt(end, family)).join('-')).join(' ');
}

function read(text: string, family: Family = 4): PortConditions {
  const conditions = parse(text, family);
  if (typeof conditions === 'string') throw new Error(conditions);
  return conditions;
}

test('addresses: single, networks, ranges, sets, all but some', (t) => {
  const sources = (text: string, family: Family = 4) => shown(read(text, family).sources, family);
  t.is(sources('ip saddr 10.1.2.3'), '10.1.2.3-10.1.2.3');
  t.is(sources('ip saddr == 10.1.2.3/8'), '10.0.0.0-10.255.255.255');
  t.is(sources('ip saddr { 10.0.0.9-10.0.0.20, 10.0.0.0/29,10.0.0.8 }'), '10.0.0.0-10.0.0.20');
  t.is(sources('ip saddr != 10.0.0.0/8'), '0.0.0.0-9.255.255.255 11.0.0.0-255.255.255.255');
  t.is(sources('ip saddr 10.0.0.0/8 ip saddr != { 10.0.0.0/9 }'), '10.128.0.0-10.255.255.255');
  t.is(sources('ip saddr 10.0.0.1 ip saddr 10.0.0.2'), '', 'nobody');
  t.is(sources('ip6 saddr fd00::/127', 6), 'fd00::-fd00::1');
  t.is(shown(read('ip daddr 192.0.2.1').destinations), '192.0.2.1-192.0.2.1');
  t.is(sources('ip daddr 192.0.2.1'), '0.0.0.0-255.255.255.255');
});

test('links and marks: these, or all but these', (t) => {
  t.deepEqual(read('iifname eth0').links, { only: ['eth0'], but: [] });
  t.deepEqual(read('meta iifname { "eth0", eth1 } iif != eth1').links, { only: ['eth0'], but: [] });
  t.deepEqual(read('iif ne lo').links, { but: ['lo'] });
  t.deepEqual(read('meta mark 0x10 mark eq { 16, 1 }').marks, { only: [16], but: [] });
  t.deepEqual(read('fib daddr type local').links, { but: [] });
});

test('words may come one by one or together', (t) => {
  t.deepEqual(
    parsePortConditions(['ip', 'saddr', '{', '10.0.0.1,', '10.0.0.2', '}', 'iifname', 'eth0'], 4),
    parse('ip saddr {10.0.0.1,10.0.0.2} iifname eth0'),
  );
});

const wrong: readonly (readonly [string, RegExp])[] = [
  [
    'tcp sport 1',
    /^"tcp" cannot begin a condition of a host port; possible are .*ip saddr, ip daddr, iifname/,
  ],
  ['oifname eth0', /^"oifname" cannot begin/],
  ['ip saddr', /^ip saddr: a value is missing$/],
  ['ip saddr !=', /^ip saddr: a value is missing$/],
  ['ip saddr { 10.0.0.1', /^ip saddr: a set ends with }, not with the end$/],
  ['ip saddr { 10.0.0.1 10.0.0.2 }', /^ip saddr: a set ends with }, not with "10.0.0.2"$/],
  ['ip saddr {}', /^ip saddr: a set must have a value$/],
  ['ip saddr fd00::1', /^ip saddr: "fd00::1" is no IPv4 address, network or range$/],
  ['ip saddr 10.0.0.9-10.0.0.1', /is no IPv4 address, network or range$/],
  ['ip saddr @blocked', /"@blocked" is no IPv4 address/],
  ['ip saddr < 10.0.0.1', /"<" is no IPv4 address/],
  ['iifname "eth*"', /^iifname: "eth\*" is no whole name of a link$/],
  ['iifname abcdefghijklmnop', /is no whole name of a link$/],
  ['meta mark 0x100000000', /^meta mark: "0x100000000" is no mark$/],
  ['meta mark & 1 == 1', /^meta mark: "&" is no mark$/],
  ['fib daddr type unicast', /^fib daddr type: only "local" is possible/],
  ['fib daddr type != local', /^fib daddr type: only "local" is possible/],
  ['iifname eth0 accept', /^"accept" cannot begin/],
];
for (const [text, expected] of wrong)
  test(`refused: ${text}`, (t) => {
    const refused = parse(text);
    t.regex(typeof refused === 'string' ? refused : 'taken', expected);
  });

test('whatever the words are, they are read or refused', (t) => {
  const word = fc.constantFrom(
    'ip',
    'saddr',
    'daddr',
    'iif',
    'meta',
    'mark',
    '!=',
    '{',
    '}',
    ',',
    '10.0.0.1',
    '1',
    '"',
    '!',
    'fib',
    'type',
    'local',
  );
  fc.assert(
    fc.property(
      fc.array(fc.oneof(word, fc.string({ maxLength: 5 })), { maxLength: 12 }),
      fc.constantFrom<Family>(4, 6),
      (words, family) => {
        const parsed = parsePortConditions(words, family);
        t.true(typeof parsed === 'string' ? parsed !== '' : parsed.sources.length < 10_000);
      },
    ),
  );
});

const span = fc
  .tuple(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 0, max: 10 }))
  .map(([first, more]): AddressSpan => [BigInt(first), BigInt(first + more)]);
const has = (spans: readonly AddressSpan[], value: bigint) =>
  spans.some(([first, last]) => first <= value && value <= last);

test('an address is in what spans have in common if it is in both, and in all others if in none', (t) => {
  fc.assert(
    fc.property(fc.array(span), fc.array(span), fc.bigInt(0n, 60n), (some, more, value) => {
      const joined = joinSpans(some);
      t.is(has(joined, value), has(some, value));
      t.is(has(commonSpans(joined, joinSpans(more)), value), has(some, value) && has(more, value));
      t.is(has(otherSpans(some, 4), value), !has(some, value));
      for (const [index, [first]] of joined.entries())
        t.true(index === 0 || first > (joined[index - 1]?.[1] ?? 0n) + 1n);
    }),
  );
});

test('the last address of all has nothing behind it', (t) => {
  const last = parseSpan('255.255.255.255', 4) ?? [0n, 0n];
  t.is(shown(otherSpans([last], 4)), '0.0.0.0-255.255.255.254');
  t.deepEqual(otherSpans([[0n, ipToBigInt('ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff' as Ip)]], 6), []);
});
