import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { KubeConfig } from '../../kube/config.ts';

/** A control plane in a process of its own, at one address through all its lives. */
export class KillableServer implements AsyncDisposable {
  readonly stateDir = mkdtempSync(join(tmpdir(), 'fairlead-killable-'));
  url = '';
  token = '';
  #process: ChildProcess | undefined;

  get config(): KubeConfig {
    return { server: this.url, token: this.token };
  }

  static async start(): Promise<KillableServer> {
    const server = new KillableServer();
    await server.start();
    return server;
  }

  async start(): Promise<void> {
    const script = join(import.meta.dirname, 'server-process.ts');
    const port = this.url === '' ? '0' : new URL(this.url).port;
    this.#process = spawn(process.execPath, [script, this.stateDir, port], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const ended = once(this.#process, 'exit').then(([code]) => {
      throw new Error(`the server ended with ${code}`);
    });
    ended.catch(() => {});
    const [line] = await Promise.race([once(this.#process.stdout ?? process.stdin, 'data'), ended]);
    Object.assign(this, JSON.parse(String(line)));
  }

  /** As when the power of the process is cut: no handler runs. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  async #end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const ending = this.#process;
    this.#process = undefined;
    if (ending === undefined || ending.exitCode !== null) return;
    const ended = once(ending, 'exit');
    ending.kill(signal);
    await ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end('SIGTERM');
    rmSync(this.stateDir, { recursive: true });
  }
}
