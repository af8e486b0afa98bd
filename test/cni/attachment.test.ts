import test from 'ava';
import { attachmentKey, bridgeMac, hostNameOf, isHostName } from '../../cni/attachment.ts';
import type { HostCidr, Mac } from '../../core/address.ts';

const id = { network: 'net', containerId: 'c1', ifname: 'eth0' };

test('the name on the host is the same for the same attachment and fits the kernel', (t) => {
  const name = hostNameOf(attachmentKey(id));
  t.is(name, hostNameOf('net/c1/eth0'));
  t.true(isHostName(name));
  t.not(name, hostNameOf('net/c1/eth1'));
});

test('names of other links are none of ours', (t) => {
  for (const name of ['flannel.1', 'flannel-v6.1', 'eth0', 'fl0123456789abcd']) t.false(isHostName(name));
});

test('the MAC of a bridge follows from its first gateway', (t) => {
  t.is(bridgeMac(['10.1.2.1/24', 'fd00::1/64'] as HostCidr[]), '0a:58:0a:01:02:01' as Mac);
  t.is(bridgeMac([]), undefined);
});
