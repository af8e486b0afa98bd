import test from 'ava';
import { parseNetworkConfig } from '../../daemon/config.ts';
import { type LeaseAttributes, StoreError } from '../../daemon/lease.ts';
import { KubeLeaseStore, type KubeStoreOptions, readPodNodeName } from '../../daemon/store-kube.ts';
import { KubeClient } from '../../kube/client.ts';
import { NODES, PODS, type V1Node } from '../../kube/types.ts';
import { startTestServer, type TestServer } from '../controlplane/server.ts';
import { until } from './etcd-server.ts';
import { cidr, leaseOf } from './golden.ts';

// Against our own API server, over HTTP.

const { networks } = parseNetworkConfig(
  '{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/56","Backend":{"Type":"vxlan"}}',
);
const attributesOf = (n: number): LeaseAttributes => {
  const { publicIps, backendType, backendData } = leaseOf({ n, families: [4, 6] }, 'vxlan');
  return { publicIps, backendType, backendData };
};

let server: TestServer;
test.before(async () => {
  server = await startTestServer();
});
test.after.always(async () => {
  await server?.[Symbol.asyncDispose]();
});

let lastNode = 0;
function setUp(options: Partial<KubeStoreOptions> = {}) {
  const nodeName = `node-${++lastNode}`;
  const abort = new AbortController();
  const store = new KubeLeaseStore({
    client: server.client,
    nodeName,
    networks,
    registerNode: true,
    ...options,
  });
  const node = () => server.client.get<V1Node>(NODES, nodeName);
  const acquire = (attributes = attributesOf(1)) => store.acquire(attributes, { signal: abort.signal });
  return { nodeName, store, signal: abort.signal, node, acquire, [Symbol.dispose]: () => abort.abort() };
}

/** The node IPAM controller gives the subnets a moment after the Node is there. */
async function held(node: ReturnType<typeof setUp>, attributes?: LeaseAttributes) {
  let lease: Awaited<ReturnType<typeof node.acquire>> | undefined;
  await until('the node has subnets', async () => {
    lease = await node.acquire(attributes).catch((error: Error) => {
      if (error instanceof StoreError && /no IPv4 pod CIDR/.test(error.message)) return undefined;
      throw error;
    });
    return lease !== undefined;
  });
  if (lease === undefined) throw new Error('no lease');
  return lease;
}

test('a node registers itself, gets its subnets from the API server and says where it is', async (t) => {
  using one = setUp();
  const lease = await held(one);
  t.is(lease.key, one.nodeName);
  const node = await one.node();
  t.deepEqual(Object.values(lease.subnets) as string[], node?.spec?.podCIDRs);
  t.like(node?.metadata?.annotations, {
    'flannel.alpha.coreos.com/kube-subnet-manager': 'true',
    'flannel.alpha.coreos.com/backend-type': 'vxlan',
    'flannel.alpha.coreos.com/public-ip': '192.0.2.1',
    'flannel.alpha.coreos.com/backend-data': '{"VNI":1,"VtepMAC":"02:00:00:00:04:01"}',
    'flannel.alpha.coreos.com/public-ipv6': '2001:db8::1',
    'flannel.alpha.coreos.com/backend-v6-data': '{"VNI":1,"VtepMAC":"02:00:00:00:06:01"}',
  });
  t.deepEqual(node?.status?.addresses, [
    { type: 'InternalIP', address: '192.0.2.1' },
    { type: 'InternalIP', address: '2001:db8::1' },
    { type: 'Hostname', address: one.nodeName },
  ]);
});

test('nothing is written again when nothing is different', async (t) => {
  using one = setUp();
  await held(one);
  await one.store.announceReady(one.signal);
  const before = await one.node();
  await held(one);
  await one.store.announceReady(one.signal);
  t.is((await one.node())?.metadata?.resourceVersion, before?.metadata?.resourceVersion);
});

test('a changed address is announced, and other annotations stay', async (t) => {
  using one = setUp();
  await held(one);
  await server.client.patch(NODES, one.nodeName, { metadata: { annotations: { mine: 'stays' } } });
  await one.acquire(attributesOf(7));
  const node = await one.node();
  t.is(node?.metadata?.annotations?.['flannel.alpha.coreos.com/public-ip'], '192.0.2.7');
  t.is(node?.metadata?.annotations?.mine, 'stays');
  t.is(node?.status?.addresses?.[0]?.address, '192.0.2.7');
  t.is(node?.status?.addresses?.length, 3);
});

test('an address that the operator set wins', async (t) => {
  using one = setUp();
  await held(one);
  const annotations = { 'flannel.alpha.coreos.com/public-ip-overwrite': '203.0.113.9' };
  await server.client.patch(NODES, one.nodeName, { metadata: { annotations } });
  const lease = await one.acquire();
  t.is(lease.publicIps[4] as string, '203.0.113.9');
  t.is((await one.node())?.metadata?.annotations?.['flannel.alpha.coreos.com/public-ip'], '203.0.113.9');
});

test('what an operator wrote is told at once, also while the agent runs', async (t) => {
  using one = setUp();
  let changes = 0;
  const onChange = () => {
    changes += 1;
  };
  const view = one.store.watch({ onChange, signal: one.signal });
  await held(one);
  await until('the lease is seen', () => view.leases().has(one.nodeName));
  const before = changes;
  const annotations = {
    'flannel.alpha.coreos.com/node-public-ip': '192.0.2.50',
    'flannel.alpha.coreos.com/public-ipv6-overwrite': '2001:db8::50',
  };
  await server.client.patch(NODES, one.nodeName, { metadata: { annotations } });
  await until('the wish is seen', () => changes > before);
  t.deepEqual(view.wishes?.() as unknown, {
    publicIps: { 4: '192.0.2.50' },
    announced: { 6: '2001:db8::50' },
  });
});

test('a node that gives up a family takes its annotations away, and no others', async (t) => {
  using one = setUp();
  await held(one);
  const annotations = { 'flannel.alpha.coreos.com/public-ipv6-overwrite': '2001:db8::50', mine: 'stays' };
  await server.client.patch(NODES, one.nodeName, { metadata: { annotations } });
  const { publicIps, backendType, backendData } = attributesOf(1);
  const v4 = { publicIps: { 4: publicIps[4] }, backendType, backendData: { 4: backendData[4] } };
  const only4 = new KubeLeaseStore({
    client: server.client,
    nodeName: one.nodeName,
    networks: { 4: networks[4] } as typeof networks,
  });
  await only4.acquire(v4 as LeaseAttributes, { signal: one.signal });
  const left = Object.keys((await one.node())?.metadata?.annotations ?? {});
  t.false(left.includes('flannel.alpha.coreos.com/public-ipv6'));
  t.false(left.includes('flannel.alpha.coreos.com/backend-v6-data'));
  t.true(left.includes('flannel.alpha.coreos.com/public-ip'));
  t.true(left.includes('flannel.alpha.coreos.com/public-ipv6-overwrite'));
  t.true(left.includes('mine'));
});

test('annotations stand under the prefix that was chosen, and nodes of another prefix are no peers', async (t) => {
  using one = setUp({ annotationPrefix: 'example.com/net-' });
  using other = setUp();
  await held(one);
  await held(other);
  const { annotations = {} } = (await one.node())?.metadata ?? {};
  t.is(annotations['example.com/net-public-ip'], '192.0.2.1');
  t.false(Object.keys(annotations).some((key) => key.startsWith('flannel')));
  const view = one.store.watch({ onChange: () => {}, signal: one.signal });
  await view.synced;
  t.true(view.leases().has(one.nodeName));
  t.false(view.leases().has(other.nodeName));
});

test('a change of one family of a dual-stack peer is seen, and so is a peer that was made anew with other subnets', async (t) => {
  using one = setUp();
  using peer = setUp();
  const view = one.store.watch({ onChange: () => {}, signal: one.signal });
  const before = await held(peer);
  await until('the peer is seen', () => view.leases().has(peer.nodeName));
  const data = '{"VNI":1,"VtepMAC":"02:00:00:00:04:99"}';
  const annotations = { 'flannel.alpha.coreos.com/backend-data': data };
  await server.client.patch(NODES, peer.nodeName, { metadata: { annotations } });
  const seen = () => view.leases().get(peer.nodeName);
  await until('the new MAC is seen', () => JSON.stringify(seen()?.backendData[4]) === data);
  t.deepEqual(seen()?.backendData[6], before.backendData[6]);

  await server.client.delete(NODES, peer.nodeName);
  await until('the end is seen', () => seen() === undefined);
  const metadata = { name: peer.nodeName };
  const podCIDRs = ['10.244.250.0/24', 'fd00:10:244:fa::/64'];
  const spec = { podCIDR: podCIDRs[0], podCIDRs };
  await server.client.create(NODES, { apiVersion: 'v1', kind: 'Node', metadata, spec } as V1Node);
  await held(peer);
  await until('the new subnets are seen', () => seen() !== undefined);
  t.deepEqual(Object.values(seen()?.subnets ?? {}) as string[], podCIDRs);
});

test('a pod tells which node it is on', async (t) => {
  await t.throwsAsync(readPodNodeName(server.client, 'nobody', 'default'), {
    instanceOf: StoreError,
    message: 'pod default/nobody does not exist',
  });
  const spec = { nodeName: 'node-x', containers: [{ name: 'a', image: 'a' }] };
  const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'agent', namespace: 'default' }, spec };
  await server.client.create(PODS, pod);
  t.is(await readPodNodeName(server.client, 'agent', 'default'), 'node-x');
});

test('a ready node says so in its conditions, beside those of others', async (t) => {
  using one = setUp();
  await held(one);
  const conditions = [{ type: 'Ready', status: 'True' }];
  await server.client.patch(NODES, one.nodeName, { status: { conditions } }, { subresource: 'status' });
  await one.store.announceReady(one.signal);
  const types = (await one.node())?.status?.conditions?.map(({ type, status }) => `${type}=${status}`);
  t.deepEqual(types?.sort(), ['NetworkUnavailable=False', 'Ready=True']);
});

test.serial('a watch tells of leases, and not of what is no lease', async (t) => {
  using one = setUp();
  using other = setUp();
  let changes = 0;
  const onChange = () => {
    changes += 1;
  };
  const view = one.store.watch({ onChange, signal: one.signal });
  await view.synced;
  const lease = await held(other);
  await until('the lease is seen', () => view.leases().has(other.nodeName));
  t.deepEqual(view.leases().get(other.nodeName), lease);
  const before = changes;
  await server.client.patch(NODES, other.nodeName, { metadata: { labels: { heart: 'beat' } } });
  await server.client.patch(NODES, other.nodeName, {
    metadata: { annotations: { 'flannel.alpha.coreos.com/public-ip': 'x' } },
  });
  await until('the bad address is seen', () => view.problems().length === 1);
  t.is(changes, before + 1, 'a label is not told');
  t.deepEqual(view.problems(), [`node ${other.nodeName}: public-ip is no address: "x"`]);
  t.is(view.behindMs(), 0);
  t.false(view.leases().has(other.nodeName));
  await server.client.delete(NODES, other.nodeName);
  await until('the end is seen', () => view.problems().length === 0);
});

test('a node that is not there is not made unless that is wished', async (t) => {
  using one = setUp({ registerNode: false });
  await t.throwsAsync(one.acquire(), {
    instanceOf: StoreError,
    message: `node ${one.nodeName} does not exist`,
  });
  t.is(await one.node(), undefined);
});

test('a subnet outside of the network is refused by name', async (t) => {
  const other = { 4: { ...networks[4], network: cidr('10.99.0.0/16') } } as typeof networks;
  using one = setUp({ networks: other });
  await until('the subnet is refused', async () => {
    const error = await one.acquire().then(
      () => undefined,
      (refused: Error) => refused,
    );
    return /its pod CIDR 10\.244\.\d+\.0\/24 is outside of the network 10\.99\.0\.0\/16/.test(
      error?.message ?? '',
    );
  });
  t.pass();
});

test('a server that does not answer is told by name', async (t) => {
  using client = new KubeClient({ server: 'http://127.0.0.1:1' });
  using one = setUp({ client });
  await t.throwsAsync(one.acquire(), { instanceOf: StoreError, message: /ECONNREFUSED/ });
  const view = one.store.watch({ onChange: () => {}, signal: one.signal });
  await until('the problem is told', () => view.problems().length === 1);
  t.regex(view.problems()[0] ?? '', /^nodes cannot be watched: .*ECONNREFUSED/);
  t.true(view.behindMs() > 0);
});
