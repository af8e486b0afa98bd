import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { removeAll, Watchdog } from './teardown.ts';
import { type Batch, type Machine, planTopology, renderTopology, type Topology } from './topology.ts';
import { Workload } from './workload-client.ts';

export const CLUSTERS_DIRECTORY = '/run/fairlead/cluster';

const run = promisify(execFile);

/** Runs one batch through iproute2. */
export async function applyBatch({ namespace, lines }: Batch): Promise<void> {
  const args = [...(namespace === undefined ? [] : ['-n', namespace]), '-batch', '-'];
  const child = run('ip', args);
  child.child.stdin?.end(`${lines.join('\n')}\n`);
  await child;
}

/** The machines of a cluster as network namespaces on a wire; disposing it leaves nothing behind. */
export class Lab implements AsyncDisposable {
  readonly name: string;
  readonly topology: Topology;
  /** For logs, sockets and state of the cluster's processes; removed with the lab. */
  readonly directory: string;
  readonly #watchdog: Watchdog;
  readonly #workloads: Workload[] = [];

  private constructor(name: string, topology: Topology, watchdog: Watchdog) {
    this.name = name;
    this.topology = topology;
    this.directory = directoryOf(name);
    this.#watchdog = watchdog;
  }

  /**
   * Makes the namespaces and the wire. Until {@link keep}, all of it is removed when this process ends, even by
   * kill -9. Throws when another process is making or removing a lab of this name.
   */
  static async create({ name, nodes }: { name: string; nodes: number }): Promise<Lab> {
    const topology = planTopology(name, nodes);
    const directory = directoryOf(name);
    const lab = new Lab(name, topology, await Watchdog.start({ prefix: topology.prefix, directory }));
    try {
      const [namespaces, wire, ...machines] = renderTopology(topology);
      for (const batch of [namespaces, wire]) if (batch !== undefined) await applyBatch(batch);
      await Promise.all(machines.map(applyBatch));
    } catch (error) {
      await lab[Symbol.asyncDispose]();
      throw error;
    }
    return lab;
  }

  get nodes(): Machine[] {
    return this.topology.machines.filter((machine) => machine.role === 'node');
  }

  get control(): Machine {
    return this.#machine('control');
  }

  get outside(): Machine {
    return this.#machine('outside');
  }

  /** An empty namespace for a pod, gone with the lab. */
  async podNamespace(pod: string): Promise<string> {
    const namespace = `${this.topology.prefix}pod-${pod}`;
    await run('ip', ['netns', 'add', namespace]);
    // As container runtimes do, before any plugin for the network is called.
    await run('ip', ['-n', namespace, 'link', 'set', 'lo', 'up']);
    return namespace;
  }

  /** An application on a machine or in a pod, gone with the lab. */
  workload(namespace: string, name: string): Workload {
    const workload = new Workload(namespace, name);
    this.#workloads.push(workload);
    return workload;
  }

  #machine(role: Machine['role']): Machine {
    const machine = this.topology.machines.find((candidate) => candidate.role === role);
    if (machine === undefined) throw new Error(`cluster ${this.name} has no ${role} machine`);
    return machine;
  }

  /** From here on it outlives this process; {@link removeLab} removes it. */
  keep(): void {
    this.#watchdog.keep();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#workloads.map((workload) => workload[Symbol.asyncDispose]()));
    await this.#watchdog[Symbol.asyncDispose]();
  }
}

export function directoryOf(name: string): string {
  return `${CLUSTERS_DIRECTORY}/${name}`;
}

/**
 * Removes a lab by its name, whoever made it; removing what is not there is fine. Throws when another process is
 * making or removing it.
 */
export function removeLab(name: string): Promise<void> {
  return removeAll({ prefix: planTopology(name, 0).prefix, directory: directoryOf(name) });
}
