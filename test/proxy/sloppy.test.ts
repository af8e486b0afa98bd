import test from 'ava';
import { parseCidrSloppy, parseIpSloppy } from '../../proxy/sloppy.ts';

test('leading zeros are decimal', (t) => {
  t.is(parseIpSloppy('010.001.00.009') as string, '10.1.0.9');
  t.is(parseIpSloppy('0.0.0.0') as string, '0.0.0.0');
});

test('an IPv4-mapped address is the IPv4 address, in any writing', (t) => {
  t.is(parseIpSloppy('::ffff:10.1.2.3') as string, '10.1.2.3');
  t.is(parseIpSloppy('::FFFF:010.01.2.3') as string, '10.1.2.3');
  t.is(parseIpSloppy('0:0:0:0:0:ffff:a01:203') as string, '10.1.2.3');
});

test('IPv6 addresses come out canonical', (t) => {
  t.is(parseIpSloppy('FD00:0:0::0010') as string, 'fd00::10');
});

test('what is no address is undefined', (t) => {
  for (const text of ['', 'None', '10.1.2', '10.1.2.256', 'fd00::1%eth0', '10.1.2.3/24', '10.1.2.3.4']) {
    t.is(parseIpSloppy(text), undefined, text);
  }
});

test('networks are read as sloppily, and their host bits are cleared', (t) => {
  const pairs = [
    ['10.0.0.0/8', '10.0.0.0/8'],
    ['010.001.0.77/24', '10.1.0.0/24'],
    ['0.0.0.0/0', '0.0.0.0/0'],
    ['FD00:0::1/64', 'fd00::/64'],
    ['::ffff:10.1.2.3/120', '10.1.2.0/24'],
    ['::ffff:010.1.2.3/128', '10.1.2.3/32'],
    ['::/0', '::/0'],
  ] as const;
  for (const [text, cidr] of pairs) t.is(parseCidrSloppy(text) as string, cidr, text);
});

test('what is no network is undefined', (t) => {
  for (const text of [
    '',
    '10.0.0.0',
    '10.0.0.0/33',
    '10.0.0.0/-1',
    '10.0.0.0/8/8',
    '/8',
    'fd00::/129',
    '10.0/8',
  ]) {
    t.is(parseCidrSloppy(text), undefined, text);
  }
});
