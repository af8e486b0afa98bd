import test from 'ava';
import { CniError } from '../../../cni/error.ts';
import { foldKeys } from '../../../cni/fields.ts';
import { parseMasquerade, planMasquerade } from '../../../cni/types/masquerade.ts';
import type { HostCidr } from '../../../core/address.ts';

test('a network masquerades when it says so, whichever backend it names', (t) => {
  t.false(parseMasquerade(foldKeys({})));
  t.false(parseMasquerade(foldKeys({ ipMasq: false, ipMasqBackend: 'x' })));
  t.true(parseMasquerade(foldKeys({ ipmasq: true })));
  for (const ipMasqBackend of ['iptables', 'nftables']) {
    t.true(parseMasquerade(foldKeys({ ipMasq: true, ipMasqBackend })));
  }
});

test('a backend that nobody has is refused', (t) => {
  const error = parseMasquerade(foldKeys({ ipMasq: true, ipMasqBackend: 'ipfw' }));
  t.is((error as CniError).message, 'unknown ipmasq backend "ipfw"');
  t.true(parseMasquerade(foldKeys({ ipMasq: 'yes' })) instanceof CniError);
});

test('an address is masqueraded but to its own subnet', (t) => {
  const pod6 = 'fd000001000000000000000000000005';
  t.deepEqual(planMasquerade(['10.1.2.5/24', 'fd00:1::5/64', '10.9.9.9/32'] as HostCidr[]), [
    { set: 'masquerade4', key: '0a010205' },
    { set: 'masquerade-near4', key: '0a0102050a010200', keyEnd: '0a0102050a0102ff' },
    { set: 'masquerade6', key: pod6 },
    {
      set: 'masquerade-near6',
      key: `${pod6}fd000001000000000000000000000000`,
      keyEnd: `${pod6}fd00000100000000ffffffffffffffff`,
    },
    { set: 'masquerade4', key: '0a090909' },
    { set: 'masquerade-near4', key: '0a0909090a090909', keyEnd: '0a0909090a090909' },
  ]);
});
