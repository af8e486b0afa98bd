import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import readline from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Machine } from '../../cli/cluster/topology.ts';
import { inNamespace } from '../../cli/cluster/workload-client.ts';
import { askStatus, statusSockets } from '../../cli/node-status.ts';
import type { DaemonStatus } from '../../daemon/status.ts';

const launcher = fileURLToPath(new URL('../../fairlead', import.meta.url));
const timeoutMs = 60_000;

/** `fairlead …` as operators start it, in a machine's namespace. */
export class Command implements AsyncDisposable {
  readonly startedMs = performance.now();
  readonly #child: ChildProcess;
  readonly #said = new Map<string, number>();
  readonly #lines: string[] = [];
  #news = Promise.withResolvers<void>();

  constructor({ namespace }: Pick<Machine, 'namespace'>, args: readonly string[]) {
    const [program, words] = inNamespace(namespace, [launcher, ...args]);
    this.#child = spawn(program, words, { stdio: ['ignore', 'pipe', 'inherit'] });
    if (this.#child.stdout === null) throw new Error('no stdout');
    readline.createInterface({ input: this.#child.stdout }).on('line', (line) => this.#hear(line));
    this.#child.once('exit', () => this.#news.resolve());
  }

  #hear(line: string): void {
    const { msg } = JSON.parse(line) as { msg: string };
    if (!this.#said.has(msg)) this.#said.set(msg, performance.now());
    this.#lines.push(line);
    this.#news.resolve();
  }

  /** Milliseconds from the start of the process to the first line of its log that says so. */
  async saidMs(message: string): Promise<number> {
    const deadlineMs = performance.now() + timeoutMs;
    for (;;) {
      const atMs = this.#said.get(message);
      if (atMs !== undefined) return atMs - this.startedMs;
      if (this.#child.exitCode !== null || performance.now() > deadlineMs) {
        throw new Error(`"${message}" was not said: ${this.#lines.slice(-5).join('\n')}`);
      }
      this.#news = Promise.withResolvers();
      const timer = setTimeout(this.#news.resolve, deadlineMs - performance.now());
      await this.#news.promise;
      clearTimeout(timer);
    }
  }

  residentBytes(): number {
    const kilobytes = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${this.#child.pid}/status`, 'utf8'))?.[1];
    return Number(kilobytes) * 1024;
  }

  /** Time on a processor since the start, of all threads that live. */
  cpuMs(): number {
    const tasks = `/proc/${this.#child.pid}/task`;
    const each = readdirSync(tasks).map((task) => readFileSync(`${tasks}/${task}/schedstat`, 'utf8'));
    return each.reduce((sum, text) => sum + Number(text.split(' ')[0]) / 1e6, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await gone;
  }
}

/** `fairlead node` without the service proxy. */
export class BenchAgent extends Command {
  readonly machine: Machine;
  readonly runDir: string;

  constructor(machine: Machine, runDir: string, options: readonly string[]) {
    const own = ['node', '--node-name', machine.name, '--run-dir', runDir, '--no-proxy', '--iface', 'eth0'];
    super(machine, [...own, ...options]);
    this.machine = machine;
    this.runDir = runDir;
  }

  async status(): Promise<DaemonStatus> {
    const status = await askStatus(`${this.runDir}/${statusSockets.node}`);
    if (status?.daemon === undefined) throw new Error(`the agent of ${this.machine.name} does not answer`);
    return status.daemon as DaemonStatus;
  }

  async until(holds: (status: DaemonStatus) => boolean): Promise<void> {
    const deadlineMs = performance.now() + timeoutMs;
    for (;;) {
      const status = await this.status().catch(() => undefined);
      if (status !== undefined && holds(status)) return;
      if (performance.now() > deadlineMs) throw new Error(`${this.machine.name}: ${JSON.stringify(status)}`);
      await sleep(20);
    }
  }
}
