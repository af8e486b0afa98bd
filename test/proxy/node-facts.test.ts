import test from 'ava';
import type { Cidr, Ip } from '../../core/address.ts';
import type { V1Node, V1ServiceCIDR } from '../../kube/types.ts';
import { needsLocalIps, parseNode, parseServiceCidrs, planNodeFacts } from '../../proxy/node-facts.ts';

const nodeOf = (...addresses: readonly string[]): V1Node => ({
  metadata: { name: 'here', labels: { 'topology.kubernetes.io/zone': 'a' } },
  status: {
    addresses: addresses.map((text) => {
      const [type = '', address = ''] = text.split(' ');
      return { type, address };
    }),
  },
});

test('a node is known by its internal address of each family, else by an external one', (t) => {
  const ips = (...addresses: readonly string[]) => [...parseNode(nodeOf(...addresses)).nodeIps] as string[];
  t.deepEqual(ips('ExternalIP 203.0.113.1', 'InternalIP 192.0.2.1', 'InternalIP 192.0.2.2'), ['192.0.2.1']);
  t.deepEqual(ips('InternalIP fd00::1', 'ExternalIP 203.0.113.1'), ['203.0.113.1', 'fd00::1']);
  t.deepEqual(ips('Hostname here', 'InternalIP nonsense', 'InternalIP 192.000.002.001'), ['192.0.2.1']);
  t.deepEqual(ips(), []);
});

test('given addresses stand in for those of their family', (t) => {
  const node = nodeOf('InternalIP 192.0.2.1', 'InternalIP fd00::1');
  t.deepEqual([...parseNode(node, ['198.51.100.1' as Ip]).nodeIps] as string[], ['198.51.100.1', 'fd00::1']);
});

test('a node that is not there, or full of nonsense, says nothing', (t) => {
  t.deepEqual(parseNode(undefined), { zone: undefined, nodeIps: [] });
  const nonsense = [
    { metadata: 7, status: 'x' },
    { status: { addresses: [null, 7, { type: 'InternalIP' }] } },
  ];
  for (const node of nonsense) t.deepEqual(parseNode(node as unknown as V1Node).nodeIps, []);
  t.is(parseNode(nodeOf()).zone, 'a');
});

const localIps = ['127.0.0.1', '::1', '10.0.0.1', '192.0.2.1', 'fd00::1', 'fe80::1'] as unknown as Ip[];
const nodeIps = ['192.0.2.1', 'fd00::1'] as unknown as Ip[];

for (const { says, addresses, v4, v6 } of [
  { says: 'primary', addresses: 'primary', v4: ['192.0.2.1'], v6: ['fd00::1'] },
  { says: 'nothing', addresses: [], v4: 'all', v6: 'all' },
  { says: 'networks of one family', addresses: ['10.0.0.0/8'], v4: ['10.0.0.1'], v6: 'all' },
  { says: 'a network and all', addresses: ['10.0.0.0/8', '0.0.0.0/0', '::/0'], v4: 'all', v6: 'all' },
  { says: 'loopback', addresses: ['127.0.0.0/8', 'fd00::/8'], v4: [], v6: ['fd00::1'] },
] as const) {
  test(`where node ports are open when nodePortAddresses says ${says}`, (t) => {
    const nodePortAddresses = addresses as unknown as 'primary' | Cidr[];
    const facts = planNodeFacts({ nodePortAddresses }, { nodeIps, localIps, serviceCidrs: [] });
    t.deepEqual(facts.nodePortIps as unknown, { 4: v4, 6: v6 });
    const isAsked = addresses !== 'primary' && (v4 !== 'all' || v6 !== 'all');
    t.is(needsLocalIps({ nodePortAddresses }), isAsked);
  });
}

test('service CIDRs are those of all objects, each once, without what is none', (t) => {
  const of = (...cidrs: unknown[]) => ({ spec: { cidrs } }) as V1ServiceCIDR;
  const objects = [of('10.96.0.0/16', 'fd00:96::/108'), of('10.96.0.0/16', '10.32.0.0/12'), of(7, 'x'), {}];
  t.deepEqual(parseServiceCidrs(objects) as string[], ['10.32.0.0/12', '10.96.0.0/16', 'fd00:96::/108']);
});
