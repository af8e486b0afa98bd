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

test('an address is masqueraded but to its own subnet, which all its pods share', (t) => {
  const rows = planMasquerade(['10.1.2.5/24', 'fd00:1::5/64', '10.9.9.9/32'] as HostCidr[]);
  const [four = '', six = '', alone = ''] = rows.flatMap(({ data }) =>
    typeof data === 'string' ? data : [],
  );
  t.deepEqual(rows, [
    { set: 'masquerade4', key: '0a010205', data: four },
    { set: 'masquerade-near4', key: `${four}0a010200`, keyEnd: `${four}0a0102ff` },
    { set: 'masquerade6', key: 'fd000001000000000000000000000005', data: six },
    {
      set: 'masquerade-near6',
      key: `${six}fd000001000000000000000000000000`,
      keyEnd: `${six}fd00000100000000ffffffffffffffff`,
    },
    { set: 'masquerade4', key: '0a090909', data: alone },
    { set: 'masquerade-near4', key: `${alone}0a090909`, keyEnd: `${alone}0a090909` },
  ]);
  t.is(new Set([four, six, alone]).size, 3);
  const [pod, near] = planMasquerade(['10.1.2.6/24'] as HostCidr[]);
  t.deepEqual(pod, { set: 'masquerade4', key: '0a010206', data: four });
  t.deepEqual(near, rows[1]);
});

test('subnets in subnets have elements that do not overlap', (t) => {
  const [, wide] = planMasquerade(['10.1.2.5/16'] as HostCidr[]);
  const [, narrow] = planMasquerade(['10.1.2.6/24'] as HostCidr[]);
  t.not(wide?.key.slice(0, 8), narrow?.key.slice(0, 8));
});
