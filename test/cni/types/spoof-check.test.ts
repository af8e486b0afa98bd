import test from 'ava';
import { planSpoofCheck } from '../../../cni/types/spoof-check.ts';
import type { HostCidr, Mac } from '../../../core/address.ts';

const port = 'port1';
const name = Buffer.from(port).toString('hex').padEnd(32, '0');
const mac = '0a:58:0a:01:00:05' as Mac;

test('a port is guarded by its MAC address', (t) => {
  t.deepEqual(planSpoofCheck({ port, mac }), [
    { set: 'macs', key: `${name}0a580a0100050000` },
    { set: 'guarded', key: name },
  ]);
});

test('with addresses, these are all that the port may send from, in advertisements too', (t) => {
  const addresses = ['10.1.0.5/24', 'fd00:1::5/64'] as HostCidr[];
  const pod6 = 'fd000001000000000000000000000005';
  t.deepEqual(planSpoofCheck({ port, mac, addresses }).slice(2), [
    { set: 'addresses4', key: `${name}0a010005` },
    { set: 'addresses6', key: name + pod6 },
    { set: 'targets6', key: name + pod6 },
    { set: 'guarded-addresses', key: name },
  ]);
});

test('a port without addresses may send from none', (t) => {
  t.deepEqual(planSpoofCheck({ port, mac, addresses: [] }).at(-1), { set: 'guarded-addresses', key: name });
});
