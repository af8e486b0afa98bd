import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Ip, ipOf, parseHostCidr } from '../../core/address.ts';
import type { NodeStatus } from '../node-status.ts';
import { askStatus, statusSockets } from '../node-status.ts';
import type { Backend } from './backends.ts';
import { Lab } from './lab.ts';
import type { Machine } from './topology.ts';
import { inNamespace } from './workload-client.ts';

const CLI = fileURLToPath(new URL('../main.ts', import.meta.url));
const SHIM = fileURLToPath(new URL('../../.cache/native/fairlead-cni', import.meta.url));
const API_PORT = 6443;
const READY_TIMEOUT_MS = 120_000;
const READY_POLL_MS = 50;
const CNI_TIMEOUT_MS = 60_000;
/** Agents that start at the same time: more would only make each other late. */
const STARTS_AT_ONCE = 2 * availableParallelism();

/** Address ranges of every cluster that this command makes; the namespaces keep clusters apart. */
export const RANGES = {
  pods: '10.244.0.0/16,fd00:10:244::/56',
  services: '10.96.0.0/16,fd00:10:96::/112',
};

/** The nodes share one kernel: what counts for all of it is left as it is. */
const PROXY_CONFIG = {
  apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
  kind: 'KubeProxyConfiguration',
  mode: 'nftables',
  oomScoreAdj: 0,
  conntrack: { maxPerCore: 0 },
};

/** A pod that has been attached to its node's network. */
export interface AttachedPod {
  readonly name: string;
  readonly node: Machine;
  readonly namespace: string;
  /** IPv4 first. */
  readonly ips: readonly Ip[];
  /** Time of the whole CNI ADD, process start included. */
  readonly addMs: number;
}

/** Where the parts of a cluster keep their files, by convention, so that every command finds them. */
export function clusterPaths(directory: string) {
  return {
    control: `${directory}/control`,
    token: `${directory}/control/token`,
    kubeconfig: `${directory}/control/kubeconfig`,
    log: (name: string) => `${directory}/${name}.log`,
    run: (node: string) => `${directory}/${node}`,
    cniSocket: (node: string) => `${directory}/${node}/cni.sock`,
    proxyConfig: (node: string) => `${directory}/${node}/proxy-config.json`,
    statusSocket: (node: string) => `${directory}/${node}/${statusSockets.node}`,
  };
}

/** A control plane and nodes, each a process of its own in its own network namespace. */
export class Cluster implements AsyncDisposable {
  readonly lab: Lab;
  readonly paths: ReturnType<typeof clusterPaths>;
  readonly #detached: boolean;
  readonly #processes = new Map<string, ChildProcess>();

  private constructor(lab: Lab, detached: boolean) {
    this.lab = lab;
    this.paths = clusterPaths(lab.directory);
    this.#detached = detached;
  }

  /**
   * Brings everything up and waits until every node is ready; on failure nothing stays. A detached cluster may
   * outlive this process, and does after {@link Lab.keep}.
   */
  static async start(options: {
    name: string;
    nodes: number;
    backend: Backend;
    detached?: boolean;
    progress?: (text: string) => void;
    signal?: AbortSignal;
  }): Promise<Cluster> {
    const { name, nodes, backend, detached = false, progress = () => undefined, signal } = options;
    progress(`making ${nodes} machines as network namespaces`);
    const lab = await Lab.create({ name, nodes });
    const cluster = new Cluster(lab, detached);
    try {
      progress('starting the control plane');
      await cluster.startControlPlane(signal);
      progress(`starting ${nodes} nodes with backend ${backend}`);
      await eachOf(lab.nodes, STARTS_AT_ONCE, (node) => cluster.startNode(node, backend, signal));
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
    return cluster;
  }

  /** Starts the API server in its namespace, and for this machine's own clients on a loopback port. */
  async startControlPlane(signal?: AbortSignal): Promise<void> {
    const { control, token } = this.paths;
    mkdirSync(control, { recursive: true, mode: 0o700 });
    const args = ['controlplane', '--state-dir', control];
    args.push('--listen', `127.0.0.1:0@/proc/${process.pid}/ns/net`, '--listen', `[::]:${API_PORT}`);
    args.push('--cluster-cidr', RANGES.pods, '--service-cidr', RANGES.services);
    this.#spawn('control', this.lab.control.namespace, args);
    await this.#until(
      'control',
      () => readFileIfThere(this.paths.kubeconfig) && readFileIfThere(token),
      signal,
    );
  }

  /** Starts a node's agent and waits until it says that it is ready. */
  async startNode(node: Machine, backend: Backend, signal?: AbortSignal): Promise<NodeStatus> {
    const run = this.paths.run(node.name);
    mkdirSync(run, { recursive: true, mode: 0o700 });
    const args = ['node', '--node-name', node.name, '--run-dir', run, '--register-node'];
    args.push('--api-server', `http://${this.lab.control.addresses[0]}:${API_PORT}`);
    args.push('--token-file', this.paths.token, '--backend', backend, '--cluster-cidr', RANGES.pods);
    const proxyConfig = this.paths.proxyConfig(node.name);
    writeFileSync(proxyConfig, JSON.stringify(PROXY_CONFIG));
    args.push('--proxy-config', proxyConfig);
    this.#spawn(node.name, node.namespace, args);
    return this.#until(
      node.name,
      async () => {
        const status = await this.status(node);
        return status?.ready === true ? status : undefined;
      },
      signal,
    );
  }

  /** Ends a node's agent by signal and waits for its end; the data plane stays. */
  async stopNode(node: Machine, signal: NodeJS.Signals): Promise<void> {
    const child = this.#processes.get(node.name);
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, 'exit');
    child.kill(signal);
    await exit;
  }

  /** What a node says of itself; undefined when its agent does not answer. */
  status(node: Machine): Promise<NodeStatus | undefined> {
    return askStatus(this.paths.statusSocket(node.name));
  }

  /** Makes a pod's namespace and runs CNI ADD for it through the shim, as a container runtime does. */
  async attach(node: Machine, name: string): Promise<AttachedPod> {
    const namespace = await this.lab.podNamespace(name);
    const start = performance.now();
    const result = JSON.parse(await this.#cni('ADD', node, name, namespace)) as {
      ips: { address: string }[];
    };
    const addMs = performance.now() - start;
    const ips = result.ips.map(({ address }) => {
      const parsed = parseHostCidr(address);
      if (parsed === undefined) throw new Error(`CNI ADD of ${name} answered the address "${address}"`);
      return ipOf(parsed);
    });
    return { name, node, namespace, ips, addMs };
  }

  async detach(pod: AttachedPod): Promise<void> {
    await this.#cni('DEL', pod.node, pod.name, pod.namespace);
  }

  async #cni(command: string, node: Machine, container: string, namespace: string): Promise<string> {
    const env = {
      CNI_COMMAND: command,
      CNI_CONTAINERID: container,
      CNI_NETNS: `/run/netns/${namespace}`,
      CNI_IFNAME: 'eth0',
      CNI_PATH: '/opt/cni/bin',
      FAIRLEAD_SOCKET: this.paths.cniSocket(node.name),
    };
    const [program, args] = inNamespace(node.namespace, [SHIM]);
    return new Promise((resolve, reject) => {
      const child = execFile(program, args, { env, timeout: CNI_TIMEOUT_MS }, (error, stdout) =>
        error === null
          ? resolve(stdout)
          : reject(new Error(`CNI ${command} of ${container}: ${stdout || error.message}`)),
      );
      child.stdin?.end('{"cniVersion":"1.0.0","name":"fairlead","type":"fairlead"}');
    });
  }

  #spawn(name: string, namespace: string, args: readonly string[]): void {
    const [command, rest] = inNamespace(namespace, [process.execPath, CLI, ...args]);
    const log = openSync(this.paths.log(name), 'a', 0o600);
    const child = spawn(command, rest, { stdio: ['ignore', log, log], detached: this.#detached });
    closeSync(log);
    if (this.#detached) child.unref();
    this.#processes.set(name, child);
  }

  /** Polls until `probe` has an answer; fails at once when the process has ended, with the end of its log. */
  async #until<T>(
    name: string,
    probe: () => T | undefined | Promise<T | undefined>,
    signal?: AbortSignal,
  ): Promise<T> {
    const deadline = performance.now() + READY_TIMEOUT_MS;
    for (;;) {
      signal?.throwIfAborted();
      const answer = await probe();
      if (answer) return answer;
      const child = this.#processes.get(name);
      if (child && (child.exitCode !== null || child.signalCode !== null)) {
        throw new Error(`${name} ended with ${child.signalCode ?? child.exitCode}: ${this.#logEnd(name)}`);
      }
      if (performance.now() > deadline) {
        throw new Error(`${name} is not ready after ${READY_TIMEOUT_MS / 1000} s: ${this.#logEnd(name)}`);
      }
      await sleep(READY_POLL_MS);
    }
  }

  #logEnd(name: string): string {
    return (readFileIfThere(this.paths.log(name)) ?? '').trimEnd().split('\n').slice(-5).join('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.lab[Symbol.asyncDispose]();
  }
}

function readFileIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** Runs `act` for every item, for at most `limit` of them at once. After the first failure none is begun. */
async function eachOf<T>(
  items: readonly T[],
  limit: number,
  act: (item: T) => Promise<unknown>,
): Promise<void> {
  const waiting = [...items];
  const worker = async () => {
    for (let item = waiting.shift(); item !== undefined; item = waiting.shift()) {
      await act(item).catch((error) => {
        waiting.length = 0;
        throw error;
      });
    }
  };
  await Promise.all(Array.from({ length: limit }, worker));
}
