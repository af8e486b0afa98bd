import test from 'ava';
import { CniError } from '../../../cni/error.ts';
import { foldKeys } from '../../../cni/fields.ts';
import type { IpamResult } from '../../../cni/ipam-result.ts';
import type { NodeNetwork } from '../../../cni/node-network.ts';
import type { InterfacePlugin, Planned } from '../../../cni/plugin-type.ts';
import {
  type BridgeConfig,
  parseBridge,
  planBridge,
  planBridgeAddresses,
} from '../../../cni/types/bridge.ts';
import { parseMode } from '../../../cni/types/mode.ts';
import type { Cidr, HostCidr, Ip } from '../../../core/address.ts';

const id = { network: 'net', containerId: 'c1', ifname: 'eth0' };
const hostName = 'fl6e5fcbeeefc74';
const noDns = { nameservers: [], search: [], options: [] };
const input = { cniVersion: '1.0.0', args: {}, configText: '' } as const;

function parse(config: object, args = {}, type: 'bridge' | 'fairlead' = 'bridge'): BridgeConfig | string {
  const fields = foldKeys({ ...config });
  const parsed = parseBridge(fields, { ...input, args }, type);
  return parsed instanceof CniError ? `${parsed.code} ${parsed.message}` : parsed;
}

function ipamResult(
  ips: readonly (readonly [string, string?])[],
  more: Partial<IpamResult> = {},
): IpamResult {
  return {
    ips: ips.map(([address, gateway]) => ({
      address: address as HostCidr,
      gateway: gateway as Ip | undefined,
    })),
    routes: [],
    dns: noDns,
    ...more,
  };
}

const both = ipamResult([
  ['10.1.2.9/24', '10.1.2.1'],
  ['fd00:2::9/64', 'fd00:2::1'],
]);

function plan(config: object, ipam: IpamResult = both): Planned {
  const parsed = parse({ ipam: { type: 'static' }, ...config });
  if (typeof parsed === 'string') throw new Error(parsed);
  const pair = planBridge(parsed, { id, sandbox: '/run/netns/x', args: {}, ipam });
  const planned = pair instanceof CniError ? pair : pair.rest();
  if (planned instanceof CniError) throw planned;
  return planned;
}

function routesOf({ rows }: Planned): string[] {
  return (rows.attachment?.pod?.routes ?? []).map(({ destination, gateway }) => `${destination} ${gateway}`);
}

test('the defaults of type bridge are those of the reference plugin', (t) => {
  t.deepEqual(parse({}), {
    bridge: 'cni0',
    mtuBytes: undefined,
    mac: undefined,
    masquerade: false,
    dns: undefined,
    ipam: { kind: 'none' },
    routes: [],
    isGateway: false,
    isDefaultGateway: false,
    addressConflict: 'refuse',
    hairpin: false,
    promiscuous: false,
    vlans: undefined,
    spoofCheck: 'none',
    detectsDuplicates: false,
    isDown: false,
    isolated: false,
  });
});

test('type fairlead is a gateway with hairpin, and takes addresses of the node', (t) => {
  t.like(parse({}, {}, 'fairlead'), {
    bridge: undefined,
    isGateway: true,
    isDefaultGateway: true,
    hairpin: true,
    addressConflict: 'keep',
    ipam: { kind: 'own', rangeSets: [], imports: false },
  });
});

for (const [config, text] of [
  [{ hairpinMode: true, promiscMode: true }, 'cannot set hairpin mode and promiscuous mode at the same time'],
  [{ vlan: 4095 }, 'invalid VLAN ID 4095 (must be between 0 and 4094)'],
  [{ vlan: -1 }, 'invalid VLAN ID -1 (must be between 0 and 4094)'],
  [{ vlanTrunk: [{ minID: 0, maxID: 5 }] }, 'incorrect trunk minID parameter'],
  [{ vlanTrunk: [{ minID: 5, maxID: 4095 }] }, 'incorrect trunk maxID parameter'],
  [{ vlanTrunk: [{ id: 4095 }] }, 'incorrect trunk id parameter'],
  [{ vlanTrunk: [{ minID: 6, maxID: 5 }] }, 'minID is greater than maxID in trunk parameter'],
  [{ vlanTrunk: [{ maxID: 5 }] }, 'minID and maxID should be configured simultaneously, minID is missing'],
  [{ vlanTrunk: [{ minID: 5 }] }, 'minID and maxID should be configured simultaneously, maxID is missing'],
  [
    { disableContainerInterface: true, ipam: { type: 'host-local', subnet: '10.1.2.0/24' } },
    'cannot use IPAM when DisableContainerInterface flag is set',
  ],
] as const) {
  test(`${JSON.stringify(config)} is refused`, (t) => {
    t.is(parse(config), `7 ${text}`);
  });
}

test('other problems come with their path, all of them at once', (t) => {
  t.is(
    parse({
      bridge: 'much-too-long-a-name',
      mtu: 67,
      isGateway: 'yes',
      vlan: 5000,
      ipam: { type: 'host-local' },
      runtimeConfig: { mac: 'x' },
    }),
    '7 invalid network config: mtu: at least 68, not 67; ipam.ranges: no IP ranges specified; ' +
      'runtimeConfig.mac: must be a MAC address, not "x"; ' +
      'bridge: must be a link name of at most 15 characters, not "much-too-long-a-name"; ' +
      'isGateway: must be true or false, not "yes"; ' +
      'invalid VLAN ID 5000 (must be between 0 and 4094)',
  );
});

test('a VLAN of a gateway needs a name of the bridge that leaves room for it', (t) => {
  t.regex(
    String(parse({ bridge: 'bridge-of-pods', vlan: 100, isGateway: true })),
    /bridge: .*longer than 15/,
  );
});

test('runtimeConfig.mac goes before args.cni.mac, and that before CNI_ARGS', (t) => {
  const mac = (last: number) => `02:00:00:00:00:0${last}`;
  const args = { cni: { mac: mac(2) } };
  t.like(parse({ args, runtimeConfig: { mac: mac(1) } }, { mac: mac(3) }), { mac: mac(1) });
  t.like(parse({ args }, { mac: mac(3) }), { mac: mac(2) });
  t.like(parse({}, { mac: mac(3) }), { mac: mac(3) });
  t.is(parse({}, { mac: 'x' }), '7 invalid network config: CNI_ARGS: MAC: must be a MAC address, not "x"');
});

test('addresses come from the own book, from another plugin, or there are none', (t) => {
  t.like(parse({ ipam: {} }), { ipam: { kind: 'none' } });
  t.like(parse({ ipam: { type: 'dhcp' } }), { ipam: { kind: 'foreign', type: 'dhcp' } });
  t.like(parse({ ipam: { type: 'host-local', subnet: '10.1.2.0/24', resolvConf: '/etc/r' } }), {
    ipam: { kind: 'own', imports: true, resolvConf: '/etc/r' },
  });
});

test('a pod: the pair with its addresses; without isGateway the bridge has none', (t) => {
  const { rows, bridge, result } = plan({ mtu: 1400 });
  t.deepEqual(rows, {
    attachment: {
      hostName,
      alias: 'fairlead net/c1/eth0',
      bridge: 'cni0',
      mtuBytes: 1400,
      hairpin: false,
      pod: {
        sandbox: '/run/netns/x',
        ifname: 'eth0',
        mac: '0a:58:0a:01:02:09',
        hostMac: '0e:58:0a:01:02:09',
        addresses: ['10.1.2.9/24', 'fd00:2::9/64'],
        routes: [],
      },
    },
  } as never);
  t.deepEqual(bridge, { bridge: 'cni0', mtuBytes: 1400, gateways: [], addressConflict: 'refuse' } as never);
  t.deepEqual(
    result.interfaces.map(({ name, mac, sandbox }) => [name, mac, sandbox]),
    [
      ['cni0', undefined, undefined],
      [hostName, '0e:58:0a:01:02:09' as never, undefined],
      ['eth0', '0a:58:0a:01:02:09' as never, '/run/netns/x'],
    ],
  );
  t.deepEqual(
    result.ips.map(({ interface: index }) => index),
    [2, 2],
  );
});

test('isGateway gives the bridge the gateways, by default the first address of the subnet', (t) => {
  const planned = plan({ isGateway: true }, ipamResult([['10.1.2.9/24'], ['fd00:2::9/64', 'fd00:2::fe']]));
  t.deepEqual(planned.bridge?.gateways, ['10.1.2.1/24', 'fd00:2::fe/64'] as never);
  t.is(planned.result.interfaces[0]?.mac, '0a:58:0a:01:02:01' as never);
  t.deepEqual(
    planned.result.ips.map(({ gateway }) => gateway),
    ['10.1.2.1', 'fd00:2::fe'] as never,
  );
  t.deepEqual(routesOf(planned), []);
});

test('of own ranges the bridge has the gateways of all, whichever a pod is in', (t) => {
  const ranges = [[{ subnet: '10.1.2.0/24' }, { subnet: '10.9.0.0/24' }], [{ subnet: 'fd00:2::/64' }]];
  const planned = plan({ isGateway: true, ipam: { type: 'host-local', ranges } });
  t.deepEqual(planned.bridge?.gateways, ['10.1.2.1/24', '10.9.0.1/24', 'fd00:2::1/64'] as never);
});

test('isDefaultGateway adds a default route to each family that has none by a gateway', (t) => {
  t.deepEqual(routesOf(plan({ isDefaultGateway: true })), ['0.0.0.0/0 10.1.2.1', '::/0 fd00:2::1']);
  const routes = [{ destination: '0.0.0.0/0' as Cidr, gateway: '10.1.2.7' as Ip }];
  const planned = plan({ isDefaultGateway: true }, { ...both, routes });
  t.deepEqual(routesOf(planned), ['0.0.0.0/0 10.1.2.7', '::/0 fd00:2::1']);
});

test('a default route without a gateway comes twice in the result and once in the container', (t) => {
  const planned = plan(
    { isDefaultGateway: true },
    { ...both, routes: [{ destination: '0.0.0.0/0' as Cidr }] },
  );
  t.deepEqual(routesOf(planned), ['0.0.0.0/0 10.1.2.1', '::/0 fd00:2::1']);
  t.deepEqual(
    planned.result.routes.map(({ destination, gateway }) => `${destination} ${gateway}`),
    ['0.0.0.0/0 undefined', '0.0.0.0/0 10.1.2.1', '::/0 fd00:2::1'],
  );
});

test('routes go by the gateway of their family, those of a family without an address not at all', (t) => {
  const ipam = {
    type: 'host-local',
    subnet: '10.1.2.0/24',
    routes: [{ dst: '10.0.0.0/8' }, { dst: 'fd00::/8' }],
  };
  const scoped = { destination: '10.3.0.0/16' as Cidr, scope: 253 };
  const planned = plan({ ipam }, ipamResult([['10.1.2.9/24', '10.1.2.1']], { routes: [scoped] }));
  t.deepEqual(routesOf(planned), ['10.0.0.0/8 10.1.2.1', '10.3.0.0/16 undefined']);
});

test('no address of a plugin that was asked for some is an error; none that were asked for are none', (t) => {
  t.throws(() => plan({}, ipamResult([])), { message: 'IPAM plugin returned missing IP config' });
  const { rows } = plan({ ipam: {}, isGateway: true, ipMasq: true }, ipamResult([]));
  t.deepEqual(rows.attachment?.pod?.addresses, []);
  t.is(rows.elements, undefined);
});

test('dns of the configuration takes the place of all that came with the addresses', (t) => {
  const ipam = { ...both, dns: { ...noDns, nameservers: ['10.0.0.10'], domain: 'a' } };
  t.is(plan({}, ipam).result.dns, ipam.dns);
  t.like(plan({ dns: { search: ['b'] } }, ipam).result.dns, { nameservers: [], search: ['b'] });
  t.like(plan({ dns: { nameservers: [] } }, ipam).result.dns, { nameservers: [] });
  t.is(plan({ dns: { domain: '' } }, ipam).result.dns, ipam.dns);
});

test('a VLAN: native on the port, and the gateway on an own link of the host, last in the result', (t) => {
  const { rows, bridge, result } = plan({ vlan: 100, isGateway: true });
  const gateway = (bridge as { vlanGateway?: { device: string; attachment: { hostName: string } } })
    .vlanGateway;
  t.like(gateway, {
    device: 'cni0.100',
    attachment: {
      alias: 'fairlead-gateway cni0.100',
      bridge: 'cni0',
      pod: { ifname: 'cni0.100', addresses: ['10.1.2.1/24', 'fd00:2::1/64'] },
    },
  } as never);
  const vlans = [{ id: 100, pvid: true, untagged: true }];
  t.deepEqual(rows.vlans, [
    { port: hostName, vlans },
    { port: gateway?.attachment.hostName ?? '', vlans },
  ]);
  t.deepEqual(bridge?.gateways, []);
  t.deepEqual(
    result.interfaces.map(({ name }) => name),
    ['cni0', hostName, 'eth0', 'cni0.100'],
  );
});

test('a trunk has VLAN 1 without a tag unless there is another, and may keep what the bridge gives', (t) => {
  const vlanTrunk = [{ minID: 5, maxID: 9 }, { id: 20 }];
  const tagged = [{ id: 5, lastId: 9 }, { id: 20 }];
  t.deepEqual(plan({ vlanTrunk }).rows.vlans, [
    { port: hostName, vlans: [...tagged, { id: 1, pvid: true, untagged: true }] },
  ]);
  t.deepEqual(plan({ vlanTrunk, vlan: 7, preserveDefaultVlan: true }).rows.vlans, [
    { port: hostName, vlans: [...tagged, { id: 7, pvid: true, untagged: true }], keepsOthers: true },
  ]);
});

test('isolation, promiscuous mode, spoof check and masquerading are rows of their own', (t) => {
  const { rows, bridge } = plan({ portIsolation: true, promiscMode: true, macspoofchk: true, ipMasq: true });
  t.like(rows, { attachment: { isolated: true, hairpin: false }, ports: [{ port: hostName }] } as never);
  t.is(rows.bridgeElements?.length, 2);
  t.is(rows.elements?.length, 4);
  t.like(bridge, { promiscuous: true } as never);
  t.true((plan({ ipspoofchk: true }).rows.bridgeElements?.length ?? 0) > 2);
});

test('pods of layer 2 only have different MACs', (t) => {
  const config = parse({});
  if (typeof config === 'string') return t.fail();
  const macs = ['c1', 'c2'].map((containerId) => {
    const call = { id: { ...id, containerId }, sandbox: '', args: {}, ipam: ipamResult([]) };
    const pair = planBridge(config, call);
    return pair instanceof CniError ? undefined : pair.attachment?.pod?.mac;
  });
  t.not(macs[0], macs[1]);
});

const needs = { bridge: 'cni0', gateways: ['10.1.2.1/24', 'fd00:2::1/64'] as HostCidr[] };

test('another IPv4 address of the bridge, or an IPv6 one of the same network, is in the way', (t) => {
  const refuse = (there: readonly string[]) => {
    const outcome = planBridgeAddresses({ ...needs, addressConflict: 'refuse' }, there as HostCidr[]);
    return outcome instanceof CniError ? outcome.message : outcome;
  };
  t.deepEqual(refuse(['10.1.2.1/24', 'fd00:2::1/64', 'fd00:3::1/64']), []);
  t.is(refuse(['192.0.2.1/24']), '"cni0" already has an IP address different from 10.1.2.1/24');
  t.is(refuse(['fd00:2::7/64']), '"cni0" already has an IP address different from fd00:2::1/64');
});

test('forceAddress removes what is in the way; type fairlead lets it stay', (t) => {
  const there = ['192.0.2.1/24', 'fd00:2::7/64', 'fd00:3::1/64', '10.1.2.1/24'] as HostCidr[];
  t.like(parse({ forceAddress: true }), { addressConflict: 'replace' });
  t.deepEqual(planBridgeAddresses({ ...needs, addressConflict: 'replace' }, there), there.slice(0, 2));
  t.deepEqual(planBridgeAddresses({ ...needs, addressConflict: 'keep' }, there), []);
});

const node: NodeNetwork = {
  name: 'pods0',
  subnets: ['10.1.2.0/24' as Cidr, 'fd00:2::/64' as Cidr],
  mtuBytes: 1450,
  masquerade: true,
};

function mode(config: object): InterfacePlugin | string {
  const parsed = parseMode(foldKeys({ ...config }), input);
  return parsed instanceof CniError ? parsed.message : parsed;
}

function planMode(config: object): Planned | string {
  const plugin = mode(config);
  if (typeof plugin === 'string') return plugin;
  const network = plugin.network(node);
  if (network instanceof CniError) return network.message;
  const pair = network.plan({ id, sandbox: '/x', args: {}, ipam: both });
  const planned = pair instanceof CniError ? pair : pair.rest();
  return planned instanceof CniError ? planned.message : planned;
}

test('type fairlead has bridge, MTU and addresses of the node, unless it says otherwise', (t) => {
  t.like(planMode({}), {
    rows: { attachment: { bridge: 'pods0', mtuBytes: 1450, hairpin: true } },
    bridge: { bridge: 'pods0', gateways: ['10.1.2.1/24', 'fd00:2::1/64'] },
  } as never);
  t.like(planMode({ bridge: 'br1', mtu: 9000 }), { bridge: { bridge: 'br1', mtuBytes: 9000 } } as never);
});

test('mode "ptp" has no bridge, single addresses and default routes; there is no third mode', (t) => {
  const planned = planMode({ mode: 'ptp' });
  if (typeof planned === 'string') return t.fail(planned);
  t.is(planned.bridge, undefined);
  t.deepEqual(planned.rows.attachment?.pod?.addresses, ['10.1.2.9/32', 'fd00:2::9/128'] as never);
  t.true(routesOf(planned).includes('0.0.0.0/0 10.1.2.1'));
  t.is(mode({ mode: 'x' }) as string, 'invalid network config: mode: must be "bridge" or "ptp", not "x"');
  t.regex(mode({ mode: 'ptp', macspoofchk: true }) as string, /macspoofchk: there is no bridge/);
});

test('a node without a subnet yet is told to try again', (t) => {
  const plugin = mode({});
  if (typeof plugin === 'string') return t.fail(plugin);
  t.like(plugin.network(undefined), { code: 11, message: 'the node has no pod subnet yet' } as never);
  t.like(plugin.network({ ...node, subnets: [] }), { code: 11 } as never);
});
