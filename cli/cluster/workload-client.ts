import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Command, LoadReport, Outcome } from './workload.ts';

const PROGRAM = fileURLToPath(new URL('./workload.ts', import.meta.url));

/** An answer that must come: on a busy machine it may take long. */
const ANSWER_TIMEOUT_MS = 20_000;

/** Arguments that run a program inside a named network namespace, as that very process. */
export function inNamespace(namespace: string, command: readonly string[]): [string, string[]] {
  return ['nsenter', [`--net=/run/netns/${namespace}`, '--', ...command]];
}

/** A workload process in a namespace, and the questions that can be put to it. */
export class Workload implements AsyncDisposable {
  readonly namespace: string;
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (outcome: Outcome & { report?: LoadReport }) => void>();
  #nextId = 1;

  constructor(namespace: string, name: string) {
    this.namespace = namespace;
    const [command, args] = inNamespace(namespace, [process.execPath, PROGRAM, name]);
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#child.stdin?.on('error', () => undefined); // the exit handler below answers whoever waits
    this.#child.on('exit', () => {
      for (const answer of this.#waiting.values()) answer({ ok: false, ms: 0, error: 'the workload ended' });
      this.#waiting.clear();
    });
    if (this.#child.stdout === null) throw new Error('the workload has no stdout');
    readline.createInterface({ input: this.#child.stdout }).on('line', (line) => {
      const { id, ...outcome } = JSON.parse(line);
      this.#waiting.get(id)?.(outcome);
      this.#waiting.delete(id);
    });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** HTTP and UDP on `port`, TCP echo on the port after it, both families. */
  async serve(name: string, port: number): Promise<void> {
    const outcome = await this.#ask({ op: 'serve', name, port });
    if (!outcome.ok) throw new Error(`${name} cannot serve on port ${port}: ${outcome.error}`);
  }

  /** Waits until the server has had no HTTP connection for so long. */
  async drain(quietMs: number, timeoutMs = ANSWER_TIMEOUT_MS): Promise<void> {
    const outcome = await this.#ask({ op: 'drain', quietMs, timeoutMs });
    if (!outcome.ok) throw new Error(`cannot drain: ${outcome.error}`);
  }

  get(url: string, timeoutMs = ANSWER_TIMEOUT_MS): Promise<Outcome> {
    return this.#ask({ op: 'get', url, timeoutMs });
  }

  datagram(host: string, port: number, timeoutMs = ANSWER_TIMEOUT_MS): Promise<Outcome> {
    return this.#ask({ op: 'datagram', host, port, timeoutMs });
  }

  /** Echoes `bytes` through the TCP echo port. */
  send(host: string, port: number, bytes: number, timeoutMs = ANSWER_TIMEOUT_MS): Promise<Outcome> {
    return this.#ask({ op: 'send', host, port, bytes, timeoutMs });
  }

  /** A new connection every `intervalMs` until the workload ends; see {@link report}. */
  load(url: string, intervalMs: number, timeoutMs = 2000): Promise<Outcome> {
    return this.#ask({ op: 'load', url, intervalMs, timeoutMs });
  }

  /** One connection to an echo port that stays open, with a byte every `intervalMs`. */
  hold(host: string, port: number, intervalMs: number): Promise<Outcome> {
    return this.#ask({ op: 'hold', host, port, intervalMs });
  }

  /** What load and hold saw since the last report. */
  async report(): Promise<LoadReport> {
    const { report } = (await this.#ask({ op: 'report' })) as { report?: LoadReport };
    if (report === undefined) throw new Error('the workload ended before its report');
    return report;
  }

  #ask(command: Command): Promise<Outcome> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) {
      return Promise.resolve({ ok: false, ms: 0, error: 'the workload ended' });
    }
    const id = this.#nextId++;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.#child.stdin?.write(`${JSON.stringify({ id, ...command })}\n`);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exit = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exit;
  }
}
