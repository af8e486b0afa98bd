import { isIPv4, isIPv6 } from 'node:net';
import test from 'ava';
import fc from 'fast-check';
import {
  addressBits,
  anyCidr,
  type Cidr,
  cidrAddress,
  cidrContains,
  cidrsOverlap,
  type Family,
  familyOf,
  hostCidr,
  type Ip,
  ipFromBigInt,
  ipFromBytes,
  ipOf,
  ipToBigInt,
  ipToBytes,
  macFromBytes,
  macToBytes,
  networkOf,
  parseCidr,
  parseHostCidr,
  parseIp,
  parseMac,
  prefixLengthOf,
  singleCidr,
} from '../../core/address.ts';
import { anyHostCidr, cidr, cidrOfFamily, family, ip, ipOfFamily, mac } from './arbitrary.ts';

const canonical: readonly (readonly [written: string, ip: string])[] = [
  ['10.0.0.1', '10.0.0.1'],
  ['0.0.0.0', '0.0.0.0'],
  ['255.255.255.255', '255.255.255.255'],
  ['::', '::'],
  ['0:0:0:0:0:0:0:1', '::1'],
  ['FD00:0001::0010', 'fd00:1::10'],
  ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
  ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
  ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
  ['::ffff:10.0.0.1', '::ffff:10.0.0.1'],
  ['::ffff:a00:1', '::ffff:10.0.0.1'],
  ['64:ff9b::192.0.2.33', '64:ff9b::c000:221'],
];

for (const [written, expected] of canonical) {
  test(`"${written}" is the address ${expected}`, (t) => {
    t.is<string | undefined, string>(parseIp(written), expected);
  });
}

const noAddresses = [
  '',
  ' ',
  'localhost',
  '10.0.0',
  '10.0.0.0.1',
  '10.0.0.256',
  '010.0.0.1',
  '10.0.0.01',
  '0x0a.0.0.1',
  '167772161',
  '10.0.0.1 ',
  ' 10.0.0.1',
  '10.0.0.1\n',
  '10.0.0.-1',
  '1e1.0.0.1',
  ':',
  ':::',
  '1::2::3',
  'fe80::1%eth0',
  '12345::',
  'fd00::g',
  '1:2:3:4:5:6:7',
  '1:2:3:4:5:6:7:8:9',
  '[::1]',
  '::ffff:10.0.0.256',
  '::ffff:10.0.0',
  '10.0.0.1/24',
];

for (const text of noAddresses) {
  test(`${JSON.stringify(text)} is no address`, (t) => {
    t.is(parseIp(text), undefined);
  });
}

/** Text that is nearly an address. */
const nearly = fc.oneof(
  fc.string({ unit: fc.constantFrom(...'0123456789abcdefF:.%/ '), maxLength: 24 }),
  fc
    .tuple(ip, fc.nat(40), fc.constantFrom('', '0', ':', '.', '::', 'f', '1.2.3.4'))
    .map(([text, at, extra]) => {
      return text.slice(0, at) + extra + text.slice(at + 1);
    }),
);

test('what is an address is decided as the C library decides it', (t) => {
  fc.assert(
    fc.property(fc.oneof(nearly, ip), (text) => {
      const expected = isIPv4(text) || (isIPv6(text) && !text.includes('%'));
      t.is(parseIp(text) !== undefined, expected, text);
    }),
    { numRuns: 3000 },
  );
});

test('leading zeros in the IPv4 tail of an IPv6 address are refused as in IPv4', (t) => {
  t.is(parseIp('::ffff:10.0.0.01'), undefined);
});

test('canonical text is read as itself, and the same bytes have the same text', (t) => {
  fc.assert(
    fc.property(ip, (address) => {
      t.is(parseIp(address), address);
      t.is(ipFromBytes(ipToBytes(address)), address);
      t.is(ipFromBigInt(ipToBigInt(address), familyOf(address)), address);
      t.is(ipToBytes(address).length * 8, addressBits(familyOf(address)));
    }),
    { numRuns: 1000 },
  );
});

test('IPv6 text is that of RFC 5952, as browsers write it', (t) => {
  const notMapped = ipOfFamily(6).filter((address) => !address.includes('.'));
  fc.assert(
    fc.property(notMapped, (address) => {
      t.is(new URL(`http://[${address}]/`).hostname, `[${address}]`);
    }),
    { numRuns: 1000 },
  );
});

test('an interface address keeps its host bits, its network has none', (t) => {
  const host = parseHostCidr('10.244.1.7/24');
  if (host === undefined) return t.fail();
  t.is<string, string>(host, '10.244.1.7/24');
  t.is<string, string>(networkOf(host), '10.244.1.0/24');
  t.is<string, string>(ipOf(host), '10.244.1.7');
  t.is(prefixLengthOf(host), 24);
  t.is(parseCidr('10.244.1.7/24'), undefined);
  t.is<string | undefined, string>(parseCidr('FD00:0::/64'), 'fd00::/64');
});

for (const text of [
  '10.0.0.0',
  '10.0.0.0/33',
  '::/129',
  '10.0.0.0/',
  '10.0.0.0/08',
  '10.0.0.0/+8',
  '/8',
  '10.0.0.0/8/8',
]) {
  test(`"${text}" is no network`, (t) => {
    t.is(parseCidr(text), undefined);
    t.is(parseHostCidr(text), undefined);
  });
}

test('the network of any interface address contains it and is its own network', (t) => {
  fc.assert(
    fc.property(anyHostCidr, (host) => {
      const network = networkOf(host);
      t.is(parseCidr(network), network);
      t.true(cidrContains(network, host));
      t.true(cidrContains(network, ipOf(host)));
      t.is(hostCidr(ipOf(host), prefixLengthOf(host)), host);
      t.is(parseHostCidr(host), host);
    }),
  );
});

/** First and last address as numbers: another way to say what a network is. */
function rangeOf(network: Cidr): [bigint, bigint] {
  const first = ipToBigInt(ipOf(network));
  const size = 1n << BigInt(addressBits(familyOf(network)) - prefixLengthOf(network));
  return [first, first + size - 1n];
}

/** Networks that often lie in each other. */
const pair = family.chain((of) => {
  const related = fc
    .tuple(cidrOfFamily(of), fc.nat(128), fc.bigInt({ min: 0n, max: 3n }))
    .map(([network, length, flip]): [Cidr, Cidr] => {
      const value = ipToBigInt(ipOf(network)) ^ flip;
      const other = networkOf(hostCidr(ipFromBigInt(value, of), length % (addressBits(of) + 1)));
      return [network, other];
    });
  return fc.oneof(related, fc.tuple(cidrOfFamily(of), cidrOfFamily(of)));
});

test('a network contains another one when it contains its first and its last address', (t) => {
  fc.assert(
    fc.property(pair, ([outer, inner]) => {
      const [outerFirst, outerLast] = rangeOf(outer);
      const [innerFirst, innerLast] = rangeOf(inner);
      t.is(cidrContains(outer, inner), outerFirst <= innerFirst && innerLast <= outerLast);
      t.is(cidrsOverlap(outer, inner), outerFirst <= innerLast && innerFirst <= outerLast);
      t.is(cidrsOverlap(outer, inner), cidrsOverlap(inner, outer));
    }),
    { numRuns: 500 },
  );
});

test('networks of different families never contain each other', (t) => {
  fc.assert(
    fc.property(cidrOfFamily(4), cidrOfFamily(6), (four, six) => {
      t.false(cidrContains(four, six) || cidrContains(six, four) || cidrsOverlap(four, six));
    }),
  );
  t.false(cidrContains(anyCidr(6), '10.0.0.1' as Ip));
});

test('the offset of an address in its network finds the address', (t) => {
  fc.assert(
    fc.property(anyHostCidr, (host) => {
      const network = networkOf(host);
      const offset = ipToBigInt(ipOf(host)) - ipToBigInt(ipOf(network));
      t.is(cidrAddress(network, offset), ipOf(host));
    }),
  );
});

test('an offset outside of a network is no address', (t) => {
  t.is<string | undefined, string>(cidrAddress('10.244.1.0/24' as Cidr, 255), '10.244.1.255');
  t.is(cidrAddress('10.244.1.0/24' as Cidr, 256), undefined);
  t.is(cidrAddress('10.244.1.0/24' as Cidr, -1), undefined);
  t.is<string | undefined, string>(
    cidrAddress('fd00::/64' as Cidr, (1n << 64n) - 1n),
    'fd00::ffff:ffff:ffff:ffff',
  );
  t.is(cidrAddress('fd00::/64' as Cidr, 1n << 64n), undefined);
});

test('the network of everything and that of one address', (t) => {
  t.deepEqual<string[], string[]>(([4, 6] as Family[]).map(anyCidr), ['0.0.0.0/0', '::/0']);
  t.is<string, string>(singleCidr('10.0.0.1' as Ip), '10.0.0.1/32');
  t.is<string, string>(singleCidr('fd00::1' as Ip), 'fd00::1/128');
  fc.assert(fc.property(cidr, (network) => cidrContains(anyCidr(familyOf(network)), network)));
});

test('MAC addresses are read in either case and with either separator', (t) => {
  t.is<string | undefined, string>(parseMac('02-AB-00-00-00-FF'), '02:ab:00:00:00:ff');
  t.is<string | undefined, string>(parseMac('02:ab:00:00:00:ff'), '02:ab:00:00:00:ff');
  for (const text of [
    '',
    '02:ab:00:00:00',
    '02:ab:00:00:00:ff:00',
    '2:ab:0:0:0:ff',
    '02ab000000ff',
    '02:ab:00:00:00:fg',
  ]) {
    t.is(parseMac(text), undefined, text);
  }
});

test('any MAC address is its bytes and its text', (t) => {
  fc.assert(
    fc.property(mac, (address) => {
      t.is(macFromBytes(macToBytes(address)), address);
      t.is(parseMac(address.toUpperCase()), address);
    }),
  );
});
