import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type Batch, type Machine, planTopology, renderTopology, type Topology } from './topology.ts';
import { Workload } from './workload-client.ts';

const TEARDOWN = fileURLToPath(new URL('./teardown.sh', import.meta.url));
const TEARDOWN_TIMEOUT_MS = 30_000;
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
  readonly #watchdog: ChildProcess | undefined;
  readonly #workloads: Workload[] = [];

  private constructor(name: string, topology: Topology, watchdog: ChildProcess | undefined) {
    this.name = name;
    this.topology = topology;
    this.directory = directoryOf(name);
    this.#watchdog = watchdog;
  }

  /**
   * Makes the namespaces and the wire. Unless `detached`, a watchdog removes everything when this process ends
   * without having done so, even by kill -9.
   */
  static async create(options: { name: string; nodes: number; detached?: boolean }): Promise<Lab> {
    const { name, nodes, detached = false } = options;
    const topology = planTopology(name, nodes);
    const directory = directoryOf(name);
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    const lab = new Lab(name, topology, detached ? undefined : startWatchdog(topology.prefix, directory));
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

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#workloads.map((workload) => workload[Symbol.asyncDispose]()));
    await removeLab(this.name);
    this.#watchdog?.stdin?.end();
  }
}

export function directoryOf(name: string): string {
  return `${CLUSTERS_DIRECTORY}/${name}`;
}

/** Removes a lab by its name, whoever made it; removing what is not there is fine. */
export async function removeLab(name: string): Promise<void> {
  const args = [TEARDOWN, planTopology(name, 0).prefix, directoryOf(name)];
  await run('sh', args, { timeout: TEARDOWN_TIMEOUT_MS });
}

function startWatchdog(prefix: string, directory: string): ChildProcess {
  const watchdog = spawn('sh', [TEARDOWN, prefix, directory, '--when-stdin-ends'], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  watchdog.unref();
  (watchdog.stdin as unknown as { unref?: () => void } | null)?.unref?.();
  return watchdog;
}
