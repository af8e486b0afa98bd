import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import { inNamespace } from '../../cli/cluster/workload-client.ts';
import { KubeClient } from '../../kube/client.ts';
import { loadKubeConfig } from '../../kube/config.ts';
import {
  ENDPOINT_SLICES,
  type KubeObject,
  NODES,
  type Resource,
  SERVICES,
  type V1Node,
} from '../../kube/types.ts';
import { CLUSTER_CIDRS, type ProxyLab } from './proxy-lab.ts';

const CLI = fileURLToPath(new URL('../../cli/main.ts', import.meta.url));
const API_PORT = 6443;
/** The size of the table of connections is the whole machine's: it is left alone. */
const SAFE = ['--conntrack-max-per-core=0', '--oom-score-adj=0'];

/** An API server on a lab's control machine, and `fairlead proxy` on its first node, as processes of their own. */
export class ProxyApi {
  readonly client: KubeClient;
  readonly #t: ExecutionContext;
  readonly #lab: ProxyLab;
  readonly #folder: string;

  constructor(t: ExecutionContext, lab: ProxyLab, folder: string, client: KubeClient) {
    this.#t = t;
    this.#lab = lab;
    this.#folder = folder;
    this.client = client;
  }

  get runDir(): string {
    return join(this.#folder, 'run');
  }

  async create(resource: Resource, object: KubeObject): Promise<void> {
    await this.client.create(resource, { ...kindOf(resource), ...object });
  }

  /** Resolves when it has written everything once. */
  async startProxy(mode: string, ...more: readonly string[]): Promise<Running> {
    const { node, control } = this.#lab;
    const access = ['--kubeconfig', join(this.#folder, 'kubeconfig')];
    access.push('--master', `http://${control.addresses[0]}:${API_PORT}`);
    const own = ['--hostname-override', node.name, '--cluster-cidr', CLUSTER_CIDRS.join()];
    const places = ['--run-dir', this.runDir, '--proxy-mode', mode];
    const words = ['proxy', ...access, ...own, ...SAFE, ...places, ...more];
    const proxy = new Running(this.#t, node.namespace, words);
    await proxy.until(() => proxy.said.includes('full sync'));
    return proxy;
  }
}

export async function openProxyApi(t: ExecutionContext, lab: ProxyLab): Promise<ProxyApi> {
  const folder = mkdtempSync(join(tmpdir(), 'fairlead-proxy-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const listen = ['--listen', `127.0.0.1:0@/proc/${process.pid}/ns/net`, '--listen', `[::]:${API_PORT}`];
  const words = ['controlplane', '--state-dir', folder, ...listen];
  const server = new Running(t, lab.control.namespace, words);
  await server.until(() => existsSync(join(folder, 'kubeconfig')) && server.said.includes('serving'));
  const client = new KubeClient(await loadKubeConfig(join(folder, 'kubeconfig')));
  t.teardown(() => client[Symbol.dispose]());
  const { name, addresses } = lab.node;
  await client.create<V1Node>(NODES, { apiVersion: 'v1', kind: 'Node', metadata: { name } });
  const status = { addresses: addresses.map((address) => ({ type: 'InternalIP', address })) };
  await client.patch(NODES, name, { status }, { subresource: 'status' });
  return new ProxyApi(t, lab, folder, client);
}

function kindOf(resource: Resource) {
  if (resource === SERVICES) return { apiVersion: 'v1', kind: 'Service' };
  if (resource === ENDPOINT_SLICES) return { apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice' };
  throw new Error(`what is ${resource.plural}?`);
}

/** `fairlead …` in a namespace, killed with the test. */
export class Running {
  said = '';
  readonly #child: ChildProcess;

  constructor(t: ExecutionContext, namespace: string, words: readonly string[]) {
    const [command, args] = inNamespace(namespace, [process.execPath, CLI, ...words]);
    this.#child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    t.teardown(() => this.#child.kill('SIGKILL'));
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.setEncoding('utf8').on('data', (part: string) => {
        this.said += part;
      });
  }

  async until(condition: () => boolean): Promise<void> {
    for (let tries = 0; !condition(); tries += 1) {
      if (tries > 3_000 || this.#hasEnded) throw new Error(`it did not come to pass: ${this.said}`);
      await sleep(20);
    }
  }

  get #hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** Its exit status; null when a signal ended it. */
  async end(signal: NodeJS.Signals): Promise<number | null> {
    const exit = once(this.#child, 'exit');
    if (this.#hasEnded) return this.#child.exitCode;
    this.#child.kill(signal);
    const [code] = (await exit) as [number | null];
    return code;
  }
}
