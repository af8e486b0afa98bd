import test from 'ava';
import { CniError } from '../../../cni/error.ts';
import { foldKeys } from '../../../cni/fields.ts';
import type { Planned } from '../../../cni/plugin-type.ts';
import { parsePtp, planPtp } from '../../../cni/types/ptp.ts';
import type { HostCidr, Ip } from '../../../core/address.ts';

const id = { network: 'net', containerId: 'c1', ifname: 'eth0' };
const hostName = 'fl6e5fcbeeefc74';
const input = { cniVersion: '1.0.0', args: {}, configText: '' } as const;

function plan(
  config: object,
  ips: readonly (readonly [string, string?])[],
  type: 'ptp' | 'fairlead' = 'ptp',
): Planned | string {
  const parsed = parsePtp(foldKeys({ ipam: { type: 'static' }, ...config }), input, type);
  if (parsed instanceof CniError) return parsed.message;
  const ipam = {
    ips: ips.map(([address, gateway]) => ({
      address: address as HostCidr,
      gateway: gateway as Ip | undefined,
    })),
    routes: [],
    dns: { nameservers: [], search: [], options: [] },
  };
  const pair = planPtp(parsed, { id, sandbox: '/run/netns/x', args: {}, ipam });
  const planned = pair instanceof CniError ? pair : pair.rest();
  return planned instanceof CniError ? planned.message : planned;
}

const both = [
  ['10.1.2.9/24', '10.1.2.1'],
  ['fd00:2::9/64', 'fd00:2::1'],
] as const;

test('a pod: the pair, the gateways alone on the end on the host, neighbours both ways, routes to the pod', (t) => {
  const planned = plan({ mtu: 1400 }, both);
  if (typeof planned === 'string') return t.fail(planned);
  const [mac, hostMac] = ['0a:58:0a:01:02:09', '0e:58:0a:01:02:09'];
  t.deepEqual(planned.rows, {
    attachment: {
      hostName,
      alias: 'fairlead net/c1/eth0',
      mtuBytes: 1400,
      host: {
        addresses: ['10.1.2.1/32', 'fd00:2::1/128'],
        neighbors: [
          { ip: '10.1.2.9', mac },
          { ip: 'fd00:2::9', mac },
        ],
      },
      pod: {
        sandbox: '/run/netns/x',
        ifname: 'eth0',
        mac,
        hostMac,
        addresses: ['10.1.2.9/24', 'fd00:2::9/64'],
        isRouted: true,
        neighbors: [
          { ip: '10.1.2.1', mac: hostMac },
          { ip: 'fd00:2::1', mac: hostMac },
        ],
        routes: [
          { destination: '10.1.2.1/32', source: '10.1.2.9', scope: 253 },
          { destination: 'fd00:2::1/128', source: 'fd00:2::9', scope: 253 },
          { destination: '10.1.2.0/24', gateway: '10.1.2.1', source: '10.1.2.9' },
          { destination: 'fd00:2::/64', gateway: 'fd00:2::1', source: 'fd00:2::9' },
        ],
      },
    },
    routes: [
      { destination: '10.1.2.9/32', device: hostName },
      { destination: 'fd00:2::9/128', device: hostName },
    ],
    sysctls: [
      { key: 'net/ipv4/ip_forward', value: '1' },
      { key: 'net/ipv6/conf/all/forwarding', value: '1' },
    ],
  } as never);
  t.is(planned.bridge, undefined);
});

test('the result has both ends, and the addresses on the second', (t) => {
  const planned = plan({}, both);
  if (typeof planned === 'string') return t.fail(planned);
  t.deepEqual(
    planned.result.interfaces.map(({ name, sandbox }) => [name, sandbox]),
    [
      [hostName, undefined],
      ['eth0', '/run/netns/x'],
    ],
  );
  t.deepEqual(
    planned.result.ips.map(({ address, gateway, interface: index }) => `${address} ${gateway} ${index}`),
    ['10.1.2.9/24 10.1.2.1 1', 'fd00:2::9/64 fd00:2::1 1'],
  );
});

test('two addresses behind one gateway: it is on the end on the host once', (t) => {
  const planned = plan({}, [
    ['10.1.2.9/24', '10.1.2.1'],
    ['10.1.2.10/24', '10.1.2.1'],
  ]);
  if (typeof planned === 'string') return t.fail(planned);
  t.deepEqual(planned.rows.attachment?.host?.addresses, ['10.1.2.1/32'] as never);
  t.is(planned.rows.routes?.length, 2);
});

test('an address without a gateway goes by the first of its subnet, if there is another', (t) => {
  t.like(plan({}, [['10.1.2.9/24']]), { result: { ips: [{ gateway: '10.1.2.1' }] } } as never);
  t.is(plan({}, [['10.1.2.1/24']]), 'IPAM plugin returned no gateway for 10.1.2.1/24');
  t.is(plan({}, [['10.1.2.9/32']]), 'IPAM plugin returned no gateway for 10.1.2.9/32');
});

test('a gateway may lie outside of the subnet', (t) => {
  const planned = plan({}, [['10.1.2.9/32', '169.254.1.1']]);
  if (typeof planned === 'string') return t.fail(planned);
  t.deepEqual(planned.rows.attachment?.pod?.routes, [
    { destination: '169.254.1.1/32', source: '10.1.2.9', scope: 253 },
  ] as never);
});

test('in type fairlead addresses stand alone, and what is masqueraded is still what leaves the subnet', (t) => {
  const [own, reference] = [plan({ ipMasq: true }, both, 'fairlead'), plan({ ipMasq: true }, both)];
  if (typeof own === 'string' || typeof reference === 'string') return t.fail();
  t.deepEqual(own.rows.attachment?.pod?.addresses, ['10.1.2.9/32', 'fd00:2::9/128'] as never);
  t.deepEqual(own.rows.elements, reference.rows.elements);
  t.is(own.rows.elements?.length, 4);
});

test('what came without an address, and problems of the configuration, are errors', (t) => {
  t.is(plan({}, []), 'IPAM plugin returned missing IP config');
  t.is(
    plan({ mtu: 'x' }, both),
    'invalid network config: mtu: must be a whole number from 0 to 65535, not "x"',
  );
});
