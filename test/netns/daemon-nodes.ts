import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync } from 'node:fs';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import type { Lab } from '../../cli/cluster/lab.ts';
import type { Machine } from '../../cli/cluster/topology.ts';
import { inNamespace, type Workload } from '../../cli/cluster/workload-client.ts';
import type { DaemonStatus } from '../../daemon/status.ts';
import type { AgentArguments } from '../daemon/agent-process.ts';
import { EtcdServer, until } from '../daemon/etcd-server.ts';
import { openLab } from './lab.ts';

const AGENT = fileURLToPath(new URL('../daemon/agent-process.ts', import.meta.url));
const SHIM = fileURLToPath(new URL('../../.cache/native/fairlead-cni', import.meta.url));

export interface LogLine {
  readonly level: string;
  readonly message: string;
  readonly problem?: string;
}

/** Nodes with a real agent each, joined by etcd on the lab's control machine:
 *
 *     control (etcd)     node-1 ── pod a      node-2 ── pod b     outside
 *         └───────────────┴───────── wire ─────┴───────────────────┘
 */
export class Nodes {
  readonly lab: Lab;
  readonly etcd: EtcdServer;
  readonly agents = new Map<string, Agent>();

  private constructor(lab: Lab, etcd: EtcdServer) {
    this.lab = lab;
    this.etcd = etcd;
  }

  static async open(t: ExecutionContext, count: number): Promise<Nodes> {
    const lab = await openLab(t, count);
    const { namespace, addresses } = lab.control;
    inside(namespace, 'ip', 'link', 'set', 'lo', 'up');
    const etcd = await EtcdServer.start({ host: addresses[0], namespace });
    t.teardown(() => etcd[Symbol.asyncDispose]());
    const nodes = new Nodes(lab, etcd);
    t.teardown(() => nodes.stop());
    return nodes;
  }

  /** The agent of the lab's node number n, counted from 0; not yet ready. */
  start(n: number, config: string, more: Partial<AgentArguments> = {}): Agent {
    const machine = this.machine(n);
    const directory = `${this.lab.directory}/${machine.name}`;
    mkdirSync(directory, { recursive: true });
    const agent = new Agent(machine, {
      nodeName: machine.name,
      endpoint: this.etcd.endpoint,
      config,
      directory,
      ...more,
    });
    this.agents.set(machine.name, agent);
    return agent;
  }

  /** Starts agents on the first nodes and waits until each knows all others. */
  async startAll(count: number, config: string): Promise<Agent[]> {
    const agents = Array.from({ length: count }, (_, n) => this.start(n, config));
    await Promise.all(agents.map((agent) => agent.ready()));
    await Promise.all(agents.map((agent) => agent.until('all peers', ({ peers }) => peers === count - 1)));
    return agents;
  }

  machine(n: number): Machine {
    const machine = this.lab.nodes[n];
    if (machine === undefined) throw new Error(`no node ${n}`);
    return machine;
  }

  /** A pod on the node, attached by the CNI shim, with an application that serves on port 8080. */
  async pod(n: number, name: string): Promise<Pod> {
    const machine = this.machine(n);
    const namespace = await this.lab.podNamespace(name);
    const result = cni('ADD', machine, `${this.lab.directory}/${machine.name}/cni.sock`, name, namespace);
    const { ips } = JSON.parse(result) as { ips: { address: string }[] };
    const workload = this.lab.workload(namespace, name);
    await workload.serve(name, 8080);
    return { name, namespace, workload, ips: ips.map(({ address }) => address.split('/')[0] ?? '') };
  }

  async stop(): Promise<void> {
    await Promise.all([...this.agents.values()].map((agent) => agent.end('SIGKILL')));
  }
}

export interface Pod {
  readonly name: string;
  readonly namespace: string;
  readonly workload: Workload;
  /** IPv4 first. */
  readonly ips: readonly string[];
}

export function cni(verb: string, machine: Machine, socket: string, name: string, namespace: string): string {
  const env = {
    CNI_COMMAND: verb,
    CNI_CONTAINERID: name,
    CNI_NETNS: `/run/netns/${namespace}`,
    CNI_IFNAME: 'eth0',
    CNI_PATH: '/opt/cni/bin',
    FAIRLEAD_SOCKET: socket,
  };
  const [command, args] = inNamespace(machine.namespace, [SHIM]);
  const input = '{"cniVersion":"1.0.0","name":"fairlead","type":"fairlead"}';
  return execFileSync(command, args, { env, input, encoding: 'utf8', timeout: 60_000 });
}

/** Runs a program in a namespace and gives its output. */
export function inside(namespace: string, ...command: string[]): string {
  const [program, args] = inNamespace(namespace, command);
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** A node agent in its machine's namespace. */
export class Agent {
  readonly machine: Machine;
  readonly options: AgentArguments;
  readonly log: LogLine[] = [];
  readonly #child: ChildProcess;
  readonly #waiting: PromiseWithResolvers<DaemonStatus>[] = [];

  constructor(machine: Machine, options: AgentArguments) {
    this.machine = machine;
    this.options = options;
    const [command, args] = inNamespace(machine.namespace, [
      process.execPath,
      AGENT,
      JSON.stringify(options),
    ]);
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#child.stdin?.on('error', () => {}); // it ended; whoever waits fails by time
    this.#child.once('exit', (code, signal) => {
      const error = new Error(`the agent of ${machine.name} has ended: ${signal ?? `exit status ${code}`}`);
      for (const answer of this.#waiting.splice(0)) answer.reject(error);
    });
    if (this.#child.stdout === null) throw new Error('no stdout');
    readline.createInterface({ input: this.#child.stdout }).on('line', (line) => {
      const { status, ...said } = JSON.parse(line) as LogLine & { status?: DaemonStatus };
      if (status === undefined) this.log.push(said);
      else this.#waiting.shift()?.resolve(status);
    });
  }

  status(): Promise<DaemonStatus> {
    const answer = Promise.withResolvers<DaemonStatus>();
    if (this.#hasEnded()) answer.reject(new Error(`the agent of ${this.machine.name} has ended`));
    else this.#waiting.push(answer);
    this.#child.stdin?.write('status\n');
    return answer.promise;
  }

  /** Tells it something that is not answered. */
  say(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  async until(
    what: string,
    holds: (status: DaemonStatus) => boolean,
    timeoutMs = 60_000,
  ): Promise<DaemonStatus> {
    let status = await this.status();
    const name = `${this.machine.name}: ${what}`;
    try {
      await until(
        name,
        async () => {
          status = await this.status();
          return holds(status);
        },
        timeoutMs,
      );
    } catch (error) {
      throw new Error(
        `${(error as Error).message}\n${JSON.stringify(status)}\n${JSON.stringify(this.log, null, 1)}`,
      );
    }
    return status;
  }

  #hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  ready(): Promise<DaemonStatus> {
    return this.until('ready', (status) => status.ready);
  }

  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    if (this.#hasEnded()) return;
    const gone = once(this.#child, 'exit');
    this.#child.kill(signal);
    await gone;
  }

  /** Runs a program in the machine's namespace and gives its output. */
  run(command: string, ...args: string[]): string {
    return inside(this.machine.namespace, command, ...args);
  }

  /** What iproute2 and nft say about the machine: equal texts, equal kernels. */
  kernel(): string {
    const parts = [
      this.run('ip', '-d', 'link', 'show', 'type', 'vxlan'),
      this.run('ip', '-o', 'link', 'show'),
      this.run('ip', '-o', 'addr', 'show'),
      this.run('ip', 'route'),
      this.run('ip', '-6', 'route'),
      this.run('ip', 'neigh', 'show', 'nud', 'permanent'),
      this.run('bridge', 'fdb', 'show')
        .split('\n')
        .filter((line) => line.includes('dst'))
        .join('\n'),
      this.run('/usr/sbin/nft', 'list', 'ruleset'),
    ];
    return steady(parts.join('\n'));
  }

  file(name: string): string {
    return readFileSync(`${this.options.directory}/${name}`, 'utf8');
  }
}

/**
 * Without what the kernel changes by itself: indexes of links made anew, the order of lists, the state of an
 * address that is being checked for duplicates.
 */
export function steady(text: string): string {
  const lines = text.split('\n').filter((line) => !/\bcni0\b/.test(line));
  return lines
    .map((line) => line.replace(/^\d+: | tentative|qlen \d+/g, '').trim())
    .sort()
    .join('\n');
}
