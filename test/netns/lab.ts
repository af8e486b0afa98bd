import { randomBytes } from 'node:crypto';
import { readdirSync } from 'node:fs';
import type { ExecutionContext } from 'ava';
import type { Backend } from '../../cli/cluster/backends.ts';
import { Cluster } from '../../cli/cluster/cluster.ts';
import { Lab } from '../../cli/cluster/lab.ts';

export type { AttachedPod } from '../../cli/cluster/cluster.ts';
export { OUTSIDE_ADDRESSES } from '../../cli/cluster/topology.ts';

/** A name that no other test has. */
export function labName(): string {
  return `t${randomBytes(4).toString('hex')}`;
}

/** Machines on a wire, without any Fairlead on them; removed when the test ends, however it ends. */
export async function openLab(t: ExecutionContext, nodes: number): Promise<Lab> {
  const lab = await Lab.create({ name: labName(), nodes });
  t.teardown(() => lab[Symbol.asyncDispose]());
  return lab;
}

/** A running cluster; removed when the test ends, however it ends. */
export async function openCluster(
  t: ExecutionContext,
  options: { nodes: number; backend: Backend },
): Promise<Cluster> {
  const cluster = await Cluster.start({ name: labName(), ...options });
  t.teardown(() => cluster[Symbol.asyncDispose]());
  return cluster;
}

/** Named network namespaces that begin with `prefix`. */
export function namespacesOf(prefix: string): string[] {
  return readdirSync('/run/netns').filter((name) => name.startsWith(prefix));
}
