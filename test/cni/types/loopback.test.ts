import test from 'ava';
import { CniError } from '../../../cni/error.ts';
import { renderResult } from '../../../cni/result.ts';
import { checkLoopback, planLoopback } from '../../../cni/types/loopback.ts';
import type { HostCidr } from '../../../core/address.ts';

const call = { sandbox: '/run/netns/x', previous: undefined };

function plan(...addresses: string[]) {
  return planLoopback({ isUp: true, addresses: addresses as HostCidr[] }, call);
}

test('the result is lo with what is on it', (t) => {
  const result = plan('127.0.0.1/8', '::1/128');
  if (result instanceof CniError) return t.fail(result.message);
  t.is(
    renderResult(result, '0.3.1'),
    '{"cniVersion":"0.3.1","interfaces":[{"name":"lo","mac":"00:00:00:00:00:00","sandbox":"/run/netns/x"}],' +
      '"ips":[{"version":"4","interface":0,"address":"127.0.0.1/8"},' +
      '{"version":"6","interface":0,"address":"::1/128"}],"dns":{}}',
  );
});

test('a container without IPv6 has the one address', (t) => {
  t.like(plan('127.0.0.1/8'), { ips: [{ address: '127.0.0.1/8' }] } as never);
});

test('a result of the plugin before is passed through', (t) => {
  const previous = { interfaces: [], ips: [], routes: [], dns: { nameservers: [], search: [], options: [] } };
  t.is(planLoopback({ isUp: true, addresses: [] }, { ...call, previous }), previous);
});

test('an address that is no loopback address is refused', (t) => {
  t.like(plan('127.0.0.1/8', '10.0.0.1/8'), {
    message: 'loopback interface found with non-loopback address "10.0.0.1/8"',
  } as never);
});

test('CHECK wants it up', (t) => {
  t.is(checkLoopback({ isUp: true, addresses: [] }), undefined);
  t.is(checkLoopback({ isUp: false, addresses: [] })?.message, 'loopback interface is down');
});
