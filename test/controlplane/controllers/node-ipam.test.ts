import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { type ControlPlaneOptions, startControlPlane } from '../../../controlplane/main.ts';
import { KubeClient } from '../../../kube/client.ts';
import { NODES, type V1Node } from '../../../kube/types.ts';
import { cidrs, silent, startTestServer, until } from '../server.ts';

async function podCidrs(client: KubeClient, name: string): Promise<string[] | undefined> {
  return (await client.get<V1Node>(NODES, name))?.spec?.podCIDRs;
}

async function join_(client: KubeClient, name: string): Promise<string[]> {
  await client.create(NODES, { metadata: { name } });
  await until(async () => (await podCidrs(client, name)) !== undefined, `subnets of ${name}`);
  return (await podCidrs(client, name)) ?? [];
}

test('nodes get subnets of both families in the order in which they come', async (t) => {
  await using server = await startTestServer();
  t.deepEqual(await join_(server.client, 'n1'), ['10.244.0.0/24', 'fd00:10:244::/64']);
  t.deepEqual(await join_(server.client, 'n0'), ['10.244.1.0/24', 'fd00:10:244:1::/64']);
  const node = await server.client.get<V1Node>(NODES, 'n1');
  t.is(node?.spec?.podCIDR, '10.244.0.0/24');
});

test('the subnet of a node that has gone is given to the next one', async (t) => {
  await using server = await startTestServer();
  for (const name of ['n1', 'n2', 'n3']) await join_(server.client, name);
  await server.client.delete(NODES, 'n2');
  t.deepEqual(await join_(server.client, 'n4'), ['10.244.1.0/24', 'fd00:10:244:1::/64']);
});

test('a hundred nodes that come at once get a hundred subnets', async (t) => {
  await using server = await startTestServer();
  const names = Array.from({ length: 100 }, (_, i) => `n${i}`);
  const all = await Promise.all(names.map((name) => join_(server.client, name)));
  t.is(new Set(all.map(([first]) => first)).size, 100);
  t.is(new Set(all.map(([, second]) => second)).size, 100);
});

test('a node that brings its own subnets keeps them, and nobody else gets them', async (t) => {
  await using server = await startTestServer();
  const spec = { podCIDRs: ['10.244.0.0/24', 'fd00:10:244::/64'] };
  await server.client.create<V1Node>(NODES, { metadata: { name: 'own' }, spec });
  t.deepEqual(await join_(server.client, 'n1'), ['10.244.1.0/24', 'fd00:10:244:1::/64']);
});

test('when the networks are used up, a node gets its subnets as soon as another one leaves', async (t) => {
  await using server = await startTestServer({ clusterCidrs: cidrs('10.244.0.0/23') });
  await join_(server.client, 'n1');
  await join_(server.client, 'n2');
  await server.client.create(NODES, { metadata: { name: 'n3' } });
  await new Promise((resolve) => setTimeout(resolve, 150));
  t.is(await podCidrs(server.client, 'n3'), undefined);
  await server.client.delete(NODES, 'n1');
  await until(async () => (await podCidrs(server.client, 'n3')) !== undefined);
  t.deepEqual(await podCidrs(server.client, 'n3'), ['10.244.0.0/24']);
});

test('a restart takes what nodes have for granted', async (t) => {
  const stateDir = mkdtempSync(join(tmpdir(), 'fairlead-ipam-'));
  t.teardown(() => rmSync(stateDir, { recursive: true }));
  const options: ControlPlaneOptions = {
    stateDir,
    listeners: [{ host: '127.0.0.1', port: 0 }],
    clusterCidrs: cidrs('10.244.0.0/16'),
    serviceCidrs: cidrs('10.96.0.0/16'),
    log: silent,
  };
  for (const [round, expected] of ['10.244.0.0/24', '10.244.1.0/24', '10.244.2.0/24'].entries()) {
    await using controlPlane = await startControlPlane(options);
    using client = new KubeClient({ server: controlPlane.urls[0] ?? '', token: controlPlane.token });
    t.deepEqual(await join_(client, `n${round}`), [expected]);
  }
});

test('the range of the services is left out', async (t) => {
  await using server = await startTestServer({ clusterCidrs: cidrs('10.96.0.0/15') });
  t.deepEqual(await join_(server.client, 'n1'), ['10.97.0.0/24']);
});
