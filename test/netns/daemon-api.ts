import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import { inNamespace } from '../../cli/cluster/workload-client.ts';
import { startControlPlane } from '../../controlplane/main.ts';
import { SqliteStorage } from '../../controlplane/storage/sqlite.ts';
import { KubeClient } from '../../kube/client.ts';
import { NODES, type V1Node } from '../../kube/types.ts';
import { cidrs, silent } from '../controlplane/server.ts';
import { until } from '../daemon/etcd-server.ts';
import { inside, type Nodes } from './daemon-nodes.ts';

const CLI = fileURLToPath(new URL('../../cli/main.ts', import.meta.url));
const PORT = 6443;
const network = '10.244.0.0/16';

/** Our API server on the lab's control machine, where agents have their leases; it can end and come back. */
export class LabApi {
  readonly #namespace: string;
  readonly #host: string;
  readonly #directory: string;
  #process: ChildProcess | undefined;

  private constructor({ lab }: Nodes) {
    this.#namespace = lab.control.namespace;
    this.#host = lab.control.addresses[0];
    this.#directory = join(lab.directory, 'api');
    mkdirSync(this.#directory, { recursive: true });
  }

  static async start(t: ExecutionContext, nodes: Nodes): Promise<LabApi> {
    const api = new LabApi(nodes);
    t.teardown(() => api.stop());
    await api.start();
    return api;
  }

  /** How agents reach it. */
  get server(): { readonly server: string; readonly token: string } {
    const token = readFileSync(join(this.#directory, 'token'), 'utf8').trim();
    return { server: `http://${this.#host}:${PORT}`, token };
  }

  async start(): Promise<void> {
    const places = ['--state-dir', this.#directory, '--listen', `${this.#host}:${PORT}`];
    const words = ['controlplane', ...places, '--cluster-cidr', network, '--log-level', 'error'];
    const [command, args] = inNamespace(this.#namespace, [process.execPath, CLI, ...words]);
    this.#process = spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    await until('the API server listens', () =>
      inside(this.#namespace, 'ss', '-Htln', `sport = :${PORT}`).includes(`${this.#host}:${PORT}`),
    );
  }

  async stop(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  }

  /** To others as if the way to it were cut. */
  pause(): void {
    this.#process?.kill('SIGSTOP');
  }

  resume(): void {
    this.#process?.kill('SIGCONT');
  }

  /** While it is stopped: a node joins, and what was watched so far cannot be watched from there any more. */
  async joinUnseen(name: string, annotations: Readonly<Record<string, string>>): Promise<void> {
    const options = { clusterCidrs: cidrs(network), serviceCidrs: cidrs('10.96.0.0/16'), log: silent };
    const listeners = [{ host: '127.0.0.1', port: 0 }];
    {
      await using elsewhere = await startControlPlane({ stateDir: this.#directory, listeners, ...options });
      using client = new KubeClient({ server: elsewhere.urls[0] ?? '', token: elsewhere.token });
      await client.create<V1Node>(NODES, { apiVersion: 'v1', kind: 'Node', metadata: { name, annotations } });
      while ((await client.get<V1Node>(NODES, name))?.spec?.podCIDR === undefined) await sleep(20);
    }
    await using storage = SqliteStorage.open(join(this.#directory, 'state.db'));
    await storage.compact(await storage.revision());
  }
}
