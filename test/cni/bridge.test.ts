import test from 'ava';
import { planBridge } from '../../cni/bridge.ts';
import type { HostCidr, Mac } from '../../core/address.ts';

const gateways = ['10.1.2.1/24', 'fd00:2::1/64'] as HostCidr[];

test('a bridge has a fixed MAC, an address in each subnet, and the host forwards both families', (t) => {
  const { link, addresses, sysctls } = planBridge('cni0', 1450, gateways);
  t.like(link, { name: 'cni0', kind: 'bridge', mac: '0a:58:0a:01:02:01', mtuBytes: 1450, up: true });
  t.deepEqual(addresses, [
    { device: 'cni0', address: '10.1.2.1/24' as never },
    { device: 'cni0', address: 'fd00:2::1/64' as never },
  ]);
  t.deepEqual([...sysctls.keys()].sort(), [
    'net/bridge/bridge-nf-call-ip6tables',
    'net/bridge/bridge-nf-call-iptables',
    'net/ipv4/ip_forward',
    'net/ipv6/conf/all/forwarding',
  ]);
});

test('a MAC that pods know already stays', (t) => {
  const mac = '02:00:00:00:00:07' as Mac;
  t.is(planBridge('cni0', undefined, gateways, mac).link.mac, mac);
});

test('without a gateway there is nothing to be switched on', (t) => {
  const { sysctls, linkSysctls, addresses } = planBridge('cni0', undefined, [], undefined, false);
  t.is(sysctls.size + linkSysctls.size + addresses.length, 0);
});

test('a bridge believes no router, unless it was there before and the host has nothing on it', (t) => {
  const acceptRa = (...args: Parameters<typeof planBridge>) =>
    planBridge(...args).linkSysctls.get('net/ipv6/conf/cni0/accept_ra');
  t.is(acceptRa('cni0', undefined, [], undefined, true), '0');
  t.is(acceptRa('cni0', undefined, gateways, undefined, false), '0');
  t.is(acceptRa('cni0', undefined, [], undefined, false), undefined);
});
