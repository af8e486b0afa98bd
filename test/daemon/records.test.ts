import test from 'ava';
import fc from 'fast-check';
import { parseLease, parseSubnetKey, renderLeaseValue, subnetKey } from '../../daemon/etcd-record.ts';
import { type Lease, sameLease } from '../../daemon/lease.ts';
import { readMachineIdentity } from '../../daemon/machine-identity.ts';
import {
  annotationKey,
  leaseAnnotations,
  nodeSubnets,
  nodeWishes,
  parseAnnotationPrefix,
  parseNodeLease,
} from '../../daemon/node-record.ts';
import { parseNodeState, renderNodeState } from '../../daemon/state-file.ts';
import { parseSubnetEnv, renderSubnetEnv } from '../../daemon/subnet-env.ts';
import { cidr, ip, leaseOf, type TestNode } from './golden.ts';

const prefix = 'flannel.alpha.coreos.com';
const nodes = fc.record({
  n: fc.integer({ min: 1, max: 250 }),
  families: fc.constantFrom<(4 | 6)[]>([4], [6], [4, 6]),
});
const backends = fc.constantFrom('vxlan', 'host-gw');

function nodeOf(lease: Lease) {
  return {
    metadata: { name: lease.key, annotations: Object.fromEntries(leaseAnnotations(lease, prefix)) },
    spec: { podCIDRs: Object.values(lease.subnets) },
  };
}

test('a lease written to etcd or to a Node is read back the same', (t) => {
  fc.assert(
    fc.property(nodes, backends, (node: TestNode, backend) => {
      const lease = leaseOf(node, backend);
      const key = subnetKey(lease.subnets);
      const fromEtcd = parseLease(key, renderLeaseValue(lease));
      const fromNode = parseNodeLease(nodeOf(lease), prefix);
      return (
        !('problem' in fromEtcd) &&
        sameLease(fromEtcd, { ...lease, key }) &&
        fromNode !== undefined &&
        !('problem' in fromNode) &&
        sameLease(fromNode, lease)
      );
    }),
    { numRuns: 100 },
  );
  t.pass();
});

test('keys in etcd are read as strictly as flannel writes them', (t) => {
  t.deepEqual(parseSubnetKey('10.5.52.0-24') as unknown, { 4: '10.5.52.0/24' });
  t.deepEqual(parseSubnetKey('10.5.52.0-24&fc00:0:0:1::-64') as unknown, {
    4: '10.5.52.0/24',
    6: 'fc00:0:0:1::/64',
  });
  t.deepEqual(parseSubnetKey('0.0.0.0-0&fc00:0:0:1::-64') as unknown, { 6: 'fc00:0:0:1::/64' });
  for (const bad of ['10.5.52.1-24', '10.5.52.0', '10.5.52.0-33', '10.5.52.0-24&10.6.0.0-24', 'x', '']) {
    t.is(parseSubnetKey(bad), undefined, bad);
  }
});

test('the annotations of a Node are flannel’s', (t) => {
  t.deepEqual(nodeOf(leaseOf({ n: 2, families: [4, 6] }, 'vxlan')).metadata.annotations, {
    'flannel.alpha.coreos.com/kube-subnet-manager': 'true',
    'flannel.alpha.coreos.com/backend-type': 'vxlan',
    'flannel.alpha.coreos.com/public-ip': '192.0.2.2',
    'flannel.alpha.coreos.com/backend-data': '{"VNI":1,"VtepMAC":"02:00:00:00:04:02"}',
    'flannel.alpha.coreos.com/public-ipv6': '2001:db8::2',
    'flannel.alpha.coreos.com/backend-v6-data': '{"VNI":1,"VtepMAC":"02:00:00:00:06:02"}',
  });
  const hostGw = nodeOf(leaseOf({ n: 2 }, 'host-gw')).metadata.annotations;
  t.is(hostGw['flannel.alpha.coreos.com/backend-data'], 'null');
});

test('a prefix with a slash is completed with a hyphen', (t) => {
  t.is(annotationKey('flannel.alpha.coreos.com', 'public-ip'), 'flannel.alpha.coreos.com/public-ip');
  t.is(annotationKey('example.com/net', 'public-ip'), 'example.com/net-public-ip');
  t.is(annotationKey('example.com/', 'public-ip'), 'example.com/public-ip');
  t.is(annotationKey('example.com/net-', 'public-ip'), 'example.com/net-public-ip');
});

test('a prefix that Kubernetes would not take as part of an annotation’s name is refused', (t) => {
  t.is(parseAnnotationPrefix('flannel.alpha.coreos.com'), 'flannel.alpha.coreos.com/');
  t.is(parseAnnotationPrefix('example.com/net'), 'example.com/net-');
  t.deepEqual(parseAnnotationPrefix('a.b/c/d'), { problem: '"a.b/c/d" has more than one slash' });
  for (const bad of ['', 'flannel', 'Example.com', 'a.b/ c', 'a..b', 'a.b/c.d']) {
    t.true(typeof parseAnnotationPrefix(bad) !== 'string', bad);
  }
});

test('what an operator wrote at a Node is told apart from what the node wrote, and nonsense is left out', (t) => {
  const annotations = {
    'flannel.alpha.coreos.com/node-public-ip': '192.0.2.50',
    'flannel.alpha.coreos.com/node-public-ipv6': '192.0.2.51',
    'flannel.alpha.coreos.com/public-ipv6-overwrite': '2001:db8::50',
    'flannel.alpha.coreos.com/public-ip-overwrite': 'x',
    'flannel.alpha.coreos.com/public-ip': '192.0.2.1',
  };
  t.deepEqual(nodeWishes({ metadata: { annotations } }, prefix) as unknown, {
    publicIps: { 4: '192.0.2.50' },
    announced: { 6: '2001:db8::50' },
  });
});

test('a Node is read strictly, and one without a lease is none', (t) => {
  const good = nodeOf(leaseOf({ n: 2 }, 'vxlan'));
  const annotated = (name: string, value: string) => ({
    ...good,
    metadata: {
      ...good.metadata,
      annotations: { ...good.metadata.annotations, [annotationKey(prefix, name)]: value },
    },
  });
  t.is(parseNodeLease({ metadata: { name: 'x' }, spec: { podCIDR: '10.244.1.0/24' } }, prefix), undefined);
  t.deepEqual(parseNodeLease(annotated('public-ip', '$(reboot)'), prefix), {
    problem: 'public-ip is no address: "$(reboot)"',
  });
  t.deepEqual(parseNodeLease(annotated('backend-data', '{'), prefix), {
    problem: 'backend-data is not JSON: {',
  });
  t.deepEqual(nodeSubnets({ spec: { podCIDRs: ['10.244.1.0/24', '10.244.2.0/24'] } }), {
    problem: 'it has two pod CIDRs of IPv4: 10.244.1.0/24, 10.244.2.0/24',
  });
  t.deepEqual(nodeSubnets({ spec: { podCIDR: '10.244.1.7/24' } }), {
    problem: 'its pod CIDR is not a network: "10.244.1.7/24"',
  });
  t.deepEqual(nodeSubnets({}), {});
});

test('addresses of a Node that it does not announce are known as well', (t) => {
  const addresses = [
    { type: 'Hostname', address: 'node-2' },
    { type: 'InternalIP', address: '192.0.2.2' },
    { type: 'InternalIP', address: '10.0.0.2' },
    { type: 'ExternalIP', address: '2001:db8::99' },
  ];
  const node = { ...nodeOf(leaseOf({ n: 2 }, 'vxlan')), status: { addresses } };
  t.deepEqual((parseNodeLease(node, prefix) as Lease).addresses, [ip('10.0.0.2'), ip('2001:db8::99')]);
  const usual = { ...node, status: { addresses: addresses.slice(0, 2) } };
  t.false('addresses' in (parseNodeLease(usual, prefix) ?? {}));
});

test('subnet.env is flannel’s', (t) => {
  const networks = { 4: cidr('10.244.0.0/16'), 6: cidr('fd00:10:244::/48') };
  const subnets = { 4: cidr('10.244.1.0/24'), 6: cidr('fd00:10:244:1::/64') };
  t.is(
    renderSubnetEnv({ networks, subnets, mtuBytes: 1450, masquerade: true }),
    'FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n' +
      'FLANNEL_IPV6_NETWORK=fd00:10:244::/48\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\n' +
      'FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n',
  );
});

test('subnet.env is read as well: what flanneld left tells the subnets of before', (t) => {
  const networks = { 4: cidr('10.244.0.0/16'), 6: cidr('fd00:10:244::/48') };
  const subnets = { 4: cidr('10.244.1.0/24'), 6: cidr('fd00:10:244:1::/64') };
  t.deepEqual(
    parseSubnetEnv(renderSubnetEnv({ networks, subnets, mtuBytes: 1450, masquerade: true })),
    subnets,
  );
  t.deepEqual(parseSubnetEnv('FLANNEL_NETWORK=10.0.0.0/8\r\nFLANNEL_SUBNET=10.5.7.1/24,10.6.7.1/24\r\n'), {
    4: cidr('10.5.7.0/24'),
  });
  t.deepEqual(parseSubnetEnv('FLANNEL_SUBNET=fd00::1/64\nFLANNEL_IPV6_SUBNET=x'), {});
  t.deepEqual(parseSubnetEnv(''), {});
});

test('what a node remembers is believed only when this node wrote it', (t) => {
  const state = { nodeName: 'n1', key: 'k', subnets: { 4: cidr('10.244.1.0/24') }, mtuBytes: 1450 };
  t.deepEqual(parseNodeState(renderNodeState(state), 'n1'), state);
  const told = { publicIps: { 4: ip('192.0.2.1') }, backendData: { 4: { VNI: 1 } } };
  const more = { ...state, ...told, machine: readMachineIdentity() };
  t.deepEqual(parseNodeState(renderNodeState(more), 'n1'), more);
  t.is(parseNodeState(renderNodeState(state), 'n2'), undefined);
  for (const bad of [
    '',
    'null',
    '{}',
    '[]',
    '"x"',
    '{"nodeName":"n1","key":"k","mtuBytes":1,"subnets":{"4":"x"}}',
  ]) {
    t.is(parseNodeState(bad, 'n1'), undefined, bad);
  }
});
