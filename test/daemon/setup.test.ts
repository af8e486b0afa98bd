import test from 'ava';
import { announcedIps, wishedSelector } from '../../daemon/setup.ts';
import type { Underlay } from '../../daemon/underlay.ts';
import { hostCidr, ip } from './golden.ts';

const underlay: Underlay = {
  device: 'eth0',
  mtuBytes: 1500,
  addresses: { 4: hostCidr('192.0.2.1/24') },
  publicIps: { 4: ip('192.0.2.1') },
};

test('an operator’s word at the node wins over what was said at start, in the families that the node has', (t) => {
  const given = { interface: 'eth0', publicIps: { 4: ip('192.0.2.2'), 6: ip('2001:db8::2') } };
  const wishes = {
    publicIps: { 4: ip('192.0.2.50') },
    announced: { 4: ip('203.0.113.9'), 6: ip('2001:db8::9') },
  };
  t.deepEqual(wishedSelector(given, wishes), {
    interface: 'eth0',
    publicIps: { 4: ip('192.0.2.50'), 6: ip('2001:db8::2') },
  });
  t.deepEqual(wishedSelector(given), given);
  t.deepEqual(announcedIps(underlay, wishes), { 4: ip('203.0.113.9') });
  t.deepEqual(announcedIps(underlay, undefined), { 4: ip('192.0.2.1') });
});
