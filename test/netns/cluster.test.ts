/**
 *   control      node-1            node-2            outside
 *      │       pod-a  pod-c       pod-b  pod-d          │
 *      │          └cni0┘             └cni0┘             │
 *      └──────────── eth0 ─ wire ─ eth0 ────────────────┘
 */
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { BACKENDS, backendProblem } from '../../cli/cluster/backends.ts';
import type { Cluster } from '../../cli/cluster/cluster.ts';
import type { Workload } from '../../cli/cluster/workload-client.ts';
import { familyOf } from '../../core/address.ts';
import { type AttachedPod, OUTSIDE_ADDRESSES, openCluster } from './lab.ts';
import { factOf } from './missing.ts';

const PORT = 8080;
const url = (host: string, port: number) => `http://${host.includes(':') ? `[${host}]` : host}:${port}/`;

interface RunningPod extends AttachedPod {
  readonly app: Workload;
}

async function startPod(cluster: Cluster, nodeIndex: number, name: string): Promise<RunningPod> {
  const node = cluster.lab.nodes[nodeIndex];
  if (node === undefined) throw new Error(`no node ${nodeIndex}`);
  const unique = `${cluster.lab.name}-${name}`;
  const pod = await cluster.attach(node, unique);
  const app = cluster.lab.workload(pod.namespace, name);
  await app.serve(name, PORT);
  return { ...pod, name: unique, app };
}

/** Every pod to every other over TCP, UDP and with full-size packets; the server sees the pod's own address. */
async function assertAllReachAll(t: ExecutionContext, pods: readonly RunningPod[]): Promise<void> {
  for (const from of pods) {
    for (const to of pods) {
      if (from === to) continue;
      for (const [index, ip] of to.ips.entries()) {
        const what = `${from.name} → ${to.name} ${ip}`;
        const expected = { ok: true, answer: { peer: from.ips[index] } } as const;
        t.like(await from.app.get(url(ip, PORT)), expected, `${what} TCP`);
        t.like(await from.app.datagram(ip, PORT), expected, `${what} UDP`);
        t.like(await from.app.send(ip, PORT + 1, 300_000), { ok: true }, `${what} 300 kB`);
      }
    }
  }
}

// All that is awaited is so before the first test is declared: with it they begin.
const problems = await Promise.all(BACKENDS.map(backendProblem));
for (const [index, backend] of BACKENDS.entries()) {
  const problem = problems[index];
  // Without the name of the backend, which stands in the titles.
  const fact = factOf(problem?.slice(problem.indexOf(': ') + 2), test);
  fact(
    `pods reach each other over ${backend}, on one node and across nodes, over both families`,
    async (t) => {
      const cluster = await openCluster(t, { nodes: 2, backend });
      const pods = [
        await startPod(cluster, 0, 'a'),
        await startPod(cluster, 1, 'b'),
        await startPod(cluster, 0, 'c'),
        await startPod(cluster, 1, 'd'),
      ];
      t.deepEqual(
        pods.map((pod) => pod.ips.map(familyOf)),
        Array(4).fill([4, 6]),
      );
      await assertAllReachAll(t, pods);

      const outside = cluster.lab.workload(cluster.lab.outside.namespace, 'outside');
      await outside.serve('outside', PORT);
      for (const pod of pods) {
        for (const [index, target] of OUTSIDE_ADDRESSES.entries()) {
          const seen = await pod.app.get(url(target, PORT));
          t.like(seen, { ok: true, answer: { peer: pod.node.addresses[index] } }, `${pod.name} → ${target}`);
        }
      }
    },
  );

  // The others' devices are the kernel's; packets of udp go through the agent.
  if (backend === 'udp') continue;
  fact(
    `an agent killed with -9 over ${backend} breaks no flow, and its restart writes nothing`,
    async (t) => {
      const cluster = await openCluster(t, { nodes: 2, backend });
      const [a, b] = [await startPod(cluster, 0, 'a'), await startPod(cluster, 1, 'b')];
      const held = await Promise.all(
        b.ips.map(async (ip) => {
          const client = cluster.lab.workload(a.namespace, `held-${familyOf(ip)}`);
          t.like(await client.hold(ip, PORT + 1, 5), { ok: true });
          return client;
        }),
      );
      await cluster.stopNode(a.node, 'SIGKILL');
      await sleep(300);
      const status = await cluster.startNode(a.node, backend);
      t.like(status, { daemon: { writes: 0 }, proxy: { writes: 0 } });
      for (const client of held) {
        const report = await client.report();
        t.deepEqual(report.failures, []);
        t.true((report.byServer.held ?? 0) > 20);
      }
      const c = await startPod(cluster, 0, 'c');
      t.is(new Set([...a.ips, ...b.ips, ...c.ips]).size, 6, 'the restarted agent gives no address twice');
      await assertAllReachAll(t, [a, b, c]);
    },
  );
}

test('a removed pod leaves nothing, and one that comes after it works', async (t) => {
  const cluster = await openCluster(t, { nodes: 1, backend: 'host-gw' });
  const first = await startPod(cluster, 0, 'first');
  const second = await startPod(cluster, 0, 'second');
  await cluster.detach(first);
  await cluster.detach(first);
  const third = await startPod(cluster, 0, 'third');
  await assertAllReachAll(t, [second, third]);
  t.like(await second.app.get(url(first.ips[0] ?? '', PORT), 500), { ok: false });
});
