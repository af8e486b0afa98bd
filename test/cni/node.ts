import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { ExecutionContext } from 'ava';
import type { AbandonedTimes } from '../../cni/abandoned.ts';
import type { FaultPoint } from '../../cni/attacher.ts';
import type { HostTimes } from '../../cni/hosts.ts';
import type { NodeNetwork } from '../../cni/node-network.ts';
import { queueDirectoryOf } from '../../cni/queue.ts';
import { createNamespace, deleteNamespace } from '../../kernel/netns.ts';

const run = promisify(execFile);
const shim = fileURLToPath(new URL('../../.cache/native/fairlead-cni', import.meta.url));
const serverProcess = fileURLToPath(new URL('./server-process.ts', import.meta.url));

/** What server-process.ts takes as its only argument. */
export interface ServerProcessOptions {
  readonly socketPath: string;
  readonly stateDir: string;
  readonly network?: NodeNetwork | undefined;
  /** Shorter than those of the agent. */
  readonly abandonedTimes?: AbandonedTimes | undefined;
  readonly hostTimes?: HostTimes | undefined;
  /** Where the process ends itself with SIGKILL, at the n-th time that it passes there. */
  readonly killAt?: { readonly point: FaultPoint; readonly times: number } | undefined;
  /** Where the process ends itself with SIGKILL: see kill-steps.ts. */
  readonly killAfter?: { readonly from: 'start' | 'ready'; readonly steps: number } | undefined;
  /** See {@link CniNode.takeLoopDelay}. */
  readonly measuresLoop?: boolean | undefined;
}

/** Of the line that the process logs on SIGUSR2. */
export const loopMessage = 'longest turn of the loop';

/** What a runtime sees of one call of the plugin. */
export interface CallResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CallOptions {
  readonly containerId: string;
  readonly netns?: string | undefined;
  readonly ifname?: string;
  /** An object is given as JSON. */
  readonly config?: object | string;
  readonly env?: Readonly<Record<string, string>>;
  /** Path of the namespace that the runtime is in; by default the node's. */
  readonly from?: string;
}

export interface Pod {
  readonly containerId: string;
  /** Path of the namespace. */
  readonly netns: string;
}

/** A configuration that needs nothing of the node. */
export function testConfig(options: object = {}): object {
  return {
    cniVersion: '1.0.0',
    name: 'testnet',
    type: 'fairlead',
    bridge: 'cni0',
    ipam: { ranges: [[{ subnet: '10.55.0.0/24' }], [{ subnet: 'fd55::/64' }]] },
    ...options,
  };
}

/** A machine in a network namespace of its own, with the server of the plugin on it. Gone when the test ends. */
export class CniNode implements AsyncDisposable {
  readonly directory = mkdtempSync('/run/fairlead-test-');
  readonly namespace = `/run/netns/cnit-${randomBytes(4).toString('hex')}`;
  readonly #pods: string[] = [];
  #server: ChildProcess | undefined;
  log: string[] = [];

  static open(t: ExecutionContext): CniNode {
    const node = CniNode.create();
    t.teardown(() => node[Symbol.asyncDispose]());
    return node;
  }

  static create(): CniNode {
    const node = new CniNode();
    createNamespace(node.namespace);
    return node;
  }

  get stateDir(): string {
    return join(this.directory, 'state');
  }

  get socketPath(): string {
    return join(this.directory, 'cni.sock');
  }

  get serverPid(): number {
    return this.#server?.pid ?? -1;
  }

  /** Starts the server and waits until it serves. `path` is where it finds programs; `more` are further variables. */
  async start(
    options: Partial<ServerProcessOptions> = {},
    path = process.env.PATH,
    more: Readonly<Record<string, string>> = {},
  ): Promise<void> {
    const { socketPath, stateDir } = this;
    const json = JSON.stringify({ socketPath, stateDir, ...options } satisfies ServerProcessOptions);
    const args = [`--net=${this.namespace}`, process.execPath, serverProcess, json];
    const env = { ...process.env, PATH: path, ...more };
    this.#server = spawn('nsenter', args, { stdio: ['ignore', 'pipe', 'pipe'], env });
    createInterface({ input: this.#server.stderr as NodeJS.ReadableStream }).on('line', (line) =>
      this.log.push(line),
    );
    const exited = once(this.#server, 'exit').then(() => {
      throw new Error(`the server ended: ${this.log.join('\n')}`);
    });
    exited.catch(() => {});
    await Promise.race([once(this.#server.stdout as NodeJS.ReadableStream, 'data'), exited]);
  }

  async kill(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    if (this.#server === undefined) return;
    const server = this.#server;
    if (server.exitCode === null && server.signalCode === null) {
      server.kill(signal);
      await once(server, 'exit');
    }
    this.#server = undefined;
  }

  /** Resolves when the server has ended by itself. */
  async ended(): Promise<void> {
    const server = this.#server;
    if (server === undefined || server.exitCode !== null || server.signalCode !== null) return;
    await once(server, 'exit');
  }

  /** How long, in milliseconds, the server's loop stood still at most since the last question. */
  async takeLoopDelay(): Promise<number> {
    const before = this.log.length;
    this.#server?.kill('SIGUSR2');
    const answer = () => this.log.slice(before).find((line) => line.includes(loopMessage));
    if (!(await eventually(async () => answer() !== undefined)))
      throw new Error('the server does not answer');
    const { longestMs } = JSON.parse(answer() ?? '') as { longestMs: number };
    return longestMs;
  }

  pod(): Pod {
    const containerId = randomBytes(8).toString('hex');
    const netns = `/run/netns/cnit-pod-${containerId}`;
    createNamespace(netns);
    this.#pods.push(netns);
    return { containerId, netns };
  }

  removeNamespace(pod: Pod): void {
    deleteNamespace(pod.netns);
  }

  /**
   * Runs the real shim in the node's namespace. On a machine that is busy a DEL may take longer than the shim waits: the
   * shim says that it is done, and the server does it a little later, which is waited for here.
   */
  async call(verb: string, options: CallOptions): Promise<CallResult> {
    const { containerId, netns, ifname = 'eth0', config = testConfig(), env = {} } = options;
    const child = spawn('nsenter', [`--net=${options.from ?? this.namespace}`, shim], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: {
        CNI_COMMAND: verb,
        CNI_CONTAINERID: containerId,
        ...(netns === undefined ? {} : { CNI_NETNS: netns }),
        CNI_IFNAME: ifname,
        CNI_PATH: '/opt/cni/bin',
        FAIRLEAD_SOCKET: this.socketPath,
        PATH: process.env.PATH ?? '',
        ...env,
      },
    });
    const exit = once(child, 'close');
    const [stdout, stderr] = [collect(child.stdout), collect(child.stderr)];
    child.stdin.on('error', () => {});
    child.stdin.end(typeof config === 'string' ? config : JSON.stringify(config));
    const [exitCode] = await exit;
    if (verb === 'DEL' && env.FAIRLEAD_SOCKET === undefined) await this.#queueDone();
    return { exitCode, stdout: await stdout, stderr: await stderr };
  }

  /** What the shim kept is done, unless no server runs that could do it. */
  async #queueDone(): Promise<void> {
    const directory = queueDirectoryOf(this.socketPath);
    const isEmpty = () =>
      !existsSync(directory) || readdirSync(directory).every((name) => name === 'refused');
    await eventually(async () => isEmpty() || !this.isServing);
  }

  get isServing(): boolean {
    if (this.#server === undefined || this.#server.exitCode !== null || this.#server.signalCode !== null)
      return false;
    try {
      return !/\) [TZ] /.test(readFileSync(`/proc/${this.serverPid}/stat`, 'utf8'));
    } catch {
      return false;
    }
  }

  /** Runs a program in the node's namespace and gives its output. */
  exec(...command: string[]): Promise<string> {
    return execIn(this.namespace, ...command);
  }

  /** Names of the links in the node's namespace, without lo. */
  async links(): Promise<string[]> {
    const links: { ifname: string }[] = JSON.parse(await this.exec('ip', '-json', 'link'));
    return links.map(({ ifname }) => ifname).filter((name) => name !== 'lo');
  }

  /** Ends of pods on this node. */
  async pairs(): Promise<string[]> {
    return (await this.links()).filter((name) => name.startsWith('fl'));
  }

  /** Lines of the journal that are in force: attachment and type of each part. */
  leases(): string[] {
    const keys = new Set<string>();
    for (const line of readFileSync(join(this.stateDir, 'leases.journal'), 'utf8').trim().split('\n')) {
      const { part, del, type } = JSON.parse(line);
      if (part !== undefined) keys.add(`${part.network}/${part.containerId}/${part.ifname} ${part.type}`);
      if (del !== undefined) keys.delete(`${del} ${type}`);
    }
    return [...keys];
  }

  /** Open descriptors of the server. */
  descriptors(): number {
    return readdirSync(`/proc/${this.#nodePid()}/fd`).length;
  }

  /** The least of a moment: those of a call are open a little longer than until its answer. */
  async descriptorsAtRest(): Promise<number> {
    let least = this.descriptors();
    for (let reading = 0; reading < 20; reading += 1) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      least = Math.min(least, this.descriptors());
    }
    return least;
  }

  /** nsenter becomes the program: it has the same number. */
  #nodePid(): number {
    return this.serverPid;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill('SIGKILL');
    for (const path of [...this.#pods, this.namespace]) deleteNamespace(path);
    rmSync(this.directory, { recursive: true, force: true });
  }
}

export async function execIn(namespace: string, ...command: string[]): Promise<string> {
  const { stdout } = await run('nsenter', [`--net=${namespace}`, ...command]);
  return stdout;
}

async function collect(stream: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

/** Waits until `check` holds, a limited time: where others use the processors, it takes what it takes. */
export async function eventually(check: () => Promise<boolean>, timeoutMs = 30_000): Promise<boolean> {
  for (const end = performance.now() + timeoutMs; performance.now() < end; ) {
    if (await check()) return true;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return false;
}
