import test from 'ava';
import { parseIpSloppy } from '../../proxy/sloppy.ts';

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
