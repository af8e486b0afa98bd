import type { ExecutionContext } from 'ava';
import type { Cluster } from '../../../cli/cluster/cluster.ts';
import type { Workload } from '../../../cli/cluster/workload-client.ts';
import type { Ip } from '../../../core/address.ts';
import { openCluster } from '../lab.ts';
import { WEB_ANSWER, WEB_PORT } from './root-filesystem.ts';
import { type Conflist, RuntimeHost } from './runtime-host.ts';
import { readDifference, readTraces } from './traces.ts';

/** Runs a command in a container and gives its output. */
export type Inside = (...command: string[]) => Promise<string>;

/** A pod that our own lab attached. */
export interface Peer {
  readonly ips: readonly Ip[];
  readonly app: Workload;
}

/**
 *     node-1, where the runtime is           node-2        outside
 *     container   near                        far             │
 *         └─ cni0 ─┘                           │              │
 *             └─────────────── wire ───────────┴──────────────┘
 */
export interface Stage {
  readonly cluster: Cluster;
  readonly host: RuntimeHost;
  readonly near: Peer;
  readonly far: Peer;
  /** How the machine was before its runtime's first container. */
  readonly before: readonly string[];
}

export async function openStage(
  t: ExecutionContext,
  conflist: Conflist,
  prepare: (host: RuntimeHost) => unknown,
): Promise<Stage> {
  const cluster = await openCluster(t, { nodes: 2, backend: 'host-gw' });
  const [near, far] = [await startPeer(cluster, 0, 'near'), await startPeer(cluster, 1, 'far')];
  const [node] = cluster.lab.nodes;
  if (node === undefined) throw new Error('the lab has no node');
  const host = await RuntimeHost.open(t, { cluster, node, conflist });
  await prepare(host);
  return { cluster, host, near, far, before: await readTraces(cluster, host) };
}

async function startPeer(cluster: Cluster, nodeIndex: number, name: string): Promise<Peer> {
  const node = cluster.lab.nodes[nodeIndex];
  if (node === undefined) throw new Error(`no node ${nodeIndex}`);
  const { ips, namespace } = await cluster.attach(node, `${cluster.lab.name}-${name}`);
  const app = cluster.lab.workload(namespace, name);
  await app.serve(name, WEB_PORT);
  return { ips, app };
}

export const url = (host: string, port: number = WEB_PORT) =>
  `http://${host.includes(':') ? `[${host}]` : host}:${port}/`;

/** Both ways, both families, with its own addresses on its packets; `inside` runs where the container is. */
export async function assertConnected(
  t: ExecutionContext,
  { near, far }: Stage,
  { ips, inside }: { ips: readonly string[]; inside: Inside },
): Promise<void> {
  t.is(ips.length, 2);
  for (const [name, { ips: targets, app }] of Object.entries({ near, far })) {
    for (const [index, ip] of ips.entries()) {
      const answer = await inside('/bin/wget', '-q', '-O', '-', url(targets[index] ?? ''));
      t.deepEqual(JSON.parse(answer), { name, peer: ip }, `${ip} → ${name}`);
      t.like(await app.get(url(ip)), { ok: true, answer: WEB_ANSWER }, `${name} → ${ip}`);
    }
  }
}

export async function assertNoTrace(t: ExecutionContext, { before, cluster, host }: Stage): Promise<void> {
  t.deepEqual(await readDifference(before, cluster, host), { left: [], lost: [] });
}
