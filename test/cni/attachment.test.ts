import test from 'ava';
import {
  type AttachmentNetwork,
  attachmentKey,
  hostNameOf,
  planAttachment,
  planNetwork,
  planResult,
} from '../../cni/attachment.ts';
import { planBridge } from '../../cni/bridge.ts';
import { parseNetworkConfig } from '../../cni/config.ts';
import { CniError } from '../../cni/error.ts';
import { foldKeys } from '../../cni/fields.ts';
import type { IpamResult } from '../../cni/ipam-result.ts';
import type { NodeNetwork } from '../../cni/node-network.ts';
import { type Cidr, type HostCidr, type Ip, ipOf, type Mac } from '../../core/address.ts';

const node: NodeNetwork = {
  name: 'cni0',
  subnets: ['10.1.2.0/24' as Cidr, 'fd00:2::/64' as Cidr],
  mtuBytes: 1450,
  masquerade: true,
};
const id = { network: 'net', containerId: 'c1', ifname: 'eth0' };

function network(config: Record<string, unknown>, of: NodeNetwork | null = node): AttachmentNetwork | string {
  const parsed = parseNetworkConfig(foldKeys(config));
  const planned = parsed instanceof CniError ? parsed : planNetwork(parsed, of ?? undefined);
  return planned instanceof CniError ? `${planned.code} ${planned.message}` : planned;
}

function plan(config: Record<string, unknown>) {
  const planned = network(config);
  if (typeof planned === 'string') throw new Error(planned);
  const ips = planned.gateways.map((gateway, index) => {
    const address = index === 0 ? '10.1.2.9/24' : 'fd00:2::9/64';
    return { address: address as HostCidr, gateway: ipOf(gateway) };
  });
  const ipam: IpamResult = { ips, routes: planned.routes, dns: { nameservers: [], search: [], options: [] } };
  return { planned, ipam, row: planAttachment({ id, sandbox: '/run/netns/x' }, planned, ipam) };
}

test('a pod on the node network: pair, both addresses, default routes by the bridge', (t) => {
  const { row } = plan({});
  t.deepEqual(row, {
    hostName: hostNameOf('net/c1/eth0'),
    alias: 'fairlead net/c1/eth0',
    bridge: 'cni0',
    mtuBytes: 1450,
    hairpin: true,
    pod: {
      sandbox: '/run/netns/x',
      ifname: 'eth0',
      mac: '0a:58:0a:01:02:09' as Mac,
      hostMac: '0e:58:0a:01:02:09' as Mac,
      addresses: ['10.1.2.9/24' as HostCidr, 'fd00:2::9/64' as HostCidr],
      routes: [
        { destination: '0.0.0.0/0' as Cidr, gateway: '10.1.2.1' as Ip },
        { destination: '::/0' as Cidr, gateway: 'fd00:2::1' as Ip },
      ],
    },
  });
});

test('the name on the host is the same for the same attachment and fits the kernel', (t) => {
  const name = hostNameOf(attachmentKey(id));
  t.is(name, hostNameOf('net/c1/eth0'));
  t.regex(name, /^fl[0-9a-f]{13}$/);
  t.not(name, hostNameOf('net/c1/eth1'));
});

test('an alias longer than the kernel takes is cut', (t) => {
  const { planned, ipam } = plan({});
  const long = { ...id, containerId: 'c'.repeat(300) };
  t.is(planAttachment({ id: long, sandbox: '' }, planned, ipam).alias.length, 255);
});

test('configured ranges go before the subnets of the node', (t) => {
  const planned = network({ bridge: 'br1', mtu: 9000, ipam: { subnet: '10.9.0.0/16' } }, null);
  t.like(planned, { bridge: 'br1', mtuBytes: 9000, gateways: ['10.9.0.1/16'] });
});

test('a node without a subnet yet is told to try again', (t) => {
  t.is(network({}, null), '11 the node has no pod subnet yet');
  t.is(network({}, { ...node, subnets: [] }), '11 the node has no pod subnet yet');
});

test('configured routes go by the gateway of their family, and replace the default route', (t) => {
  const routes = [
    { dst: '10.0.0.0/8' },
    { dst: '0.0.0.0/0' },
    { dst: 'fd00::/8', gw: 'fd00:2::7' },
    { dst: '10.3.0.0/16', scope: 253 },
  ];
  const { row } = plan({ ipam: { routes } });
  t.deepEqual(
    row.pod?.routes.map(({ destination, gateway }) => `${destination} ${gateway}`),
    [
      '10.0.0.0/8 10.1.2.1',
      '0.0.0.0/0 10.1.2.1',
      'fd00::/8 fd00:2::7',
      '10.3.0.0/16 undefined',
      '::/0 fd00:2::1',
    ],
  );
});

test('a route of a family without an address is left out', (t) => {
  const { row } = plan({ ipam: { subnet: '10.1.2.0/24', routes: [{ dst: '::/0' }] } });
  t.deepEqual(row.pod?.routes, [{ destination: '0.0.0.0/0' as Cidr, gateway: '10.1.2.1' as Ip }]);
});

test('the result has bridge, host end and container end, which has the addresses', (t) => {
  const { planned, ipam, row } = plan({});
  const result = planResult(row, ipam, planned);
  t.deepEqual(result.interfaces, [
    { name: 'cni0', mac: '0a:58:0a:01:02:01' as never, mtuBytes: 1450 },
    { name: row.hostName, mac: '0e:58:0a:01:02:09' as never, mtuBytes: 1450 },
    { name: 'eth0', mac: '0a:58:0a:01:02:09' as never, mtuBytes: 1450, sandbox: '/run/netns/x' },
  ]);
  t.deepEqual(
    result.ips.map(({ address, gateway, interface: index }) => `${address} ${gateway} ${index}`),
    ['10.1.2.9/24 10.1.2.1 2', 'fd00:2::9/64 fd00:2::1 2'],
  );
});

test('a bridge has a fixed MAC, an address in each subnet, and the host forwards both families', (t) => {
  const { planned } = plan({});
  const { link, addresses, sysctls } = planBridge(planned.bridge, planned.mtuBytes, planned.gateways);
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
