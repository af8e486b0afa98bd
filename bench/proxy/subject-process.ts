import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Space } from './space.ts';

export type ChangeKind = 'endpoint' | 'add' | 'remove';

/** What the proxy writes to. */
export type SubjectBackend = 'nftables' | 'iptables-nft' | 'iptables-legacy';

export type Question =
  | { readonly ask: 'start'; readonly services: number; readonly backend: SubjectBackend }
  | { readonly ask: 'change'; readonly kind: ChangeKind; readonly count: number }
  | { readonly ask: 'churn'; readonly perSecond: number; readonly seconds: number }
  | { readonly ask: 'point'; readonly endpoints: readonly string[] }
  | { readonly ask: 'memory' };

export type Answer =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly error: string };

export interface Started {
  /** From complete stores to the kernel's last acknowledgement. */
  readonly coldStartMs: number;
  /** The backend's part: the plan, its encoding, the kernel. The rest is the views. */
  readonly programmingMs: number;
}

export interface Changed {
  readonly latenciesMs: readonly number[];
  /** User and system time of the whole process for each change. */
  readonly cpuMs: number;
}

export interface Churned {
  readonly lagsMs: readonly number[];
  /** Of one CPU. */
  readonly cpuShare: number;
}

export interface Memory {
  readonly residentBytes: number;
  readonly peakBytes: number;
}

const program = fileURLToPath(new URL('./subject.ts', import.meta.url));
const launcher = fileURLToPath(new URL('../../fairlead', import.meta.url));

/** Fairlead's own translated code is kept from one start to the next, as by its launcher. */
const usualEnvironment = {
  NODE_COMPILE_CACHE: fileURLToPath(new URL('../../.cache/compiled', import.meta.url)),
  ...process.env,
};

/** The options that Fairlead is started with. */
function usualNodeArgs(): string[] {
  const given = /^exec "\$node" (.*)"\$root/m.exec(readFileSync(launcher, 'utf8'))?.[1];
  return given?.split(' ').filter((option) => option !== '') ?? [];
}

interface SubjectOptions {
  readonly backend?: SubjectBackend;
  readonly nodeArgs?: readonly string[];
}

/** A proxy in a process of its own, in a space. Its rules stay there when it has stopped. */
export class SubjectProcess implements AsyncDisposable {
  readonly #child: ChildProcess;
  #asked: PromiseWithResolvers<unknown> | undefined;

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.on('message', (answer: Answer) => {
      if (answer.ok) this.#asked?.resolve(answer.value);
      else this.#asked?.reject(new Error(answer.error));
    });
    child.on('error', (error) => this.#asked?.reject(error));
    child.on('exit', (code) => this.#asked?.reject(new Error(`the proxy's process ended with ${code}`)));
  }

  /** `nodeArgs` are more options of Node's, such as those of its profiler. */
  static async start(
    space: Space,
    services: number,
    { backend = 'nftables', nodeArgs = [] }: SubjectOptions = {},
  ): Promise<SubjectProcess & { readonly started: Started }> {
    const [command, args] = space.command([process.execPath, ...usualNodeArgs(), ...nodeArgs, program]);
    const stdio = ['ignore', 'inherit', 'inherit', 'ipc'] as const;
    const child = spawn(command, args, { env: usualEnvironment, stdio: [...stdio] });
    const subject = new SubjectProcess(child);
    try {
      return Object.assign(subject, {
        started: await subject.#ask<Started>({ ask: 'start', services, backend }),
      });
    } catch (error) {
      await subject[Symbol.asyncDispose]();
      throw error;
    }
  }

  change(kind: ChangeKind, count: number): Promise<Changed> {
    return this.#ask({ ask: 'change', kind, count });
  }

  churn(perSecond: number, seconds: number): Promise<Churned> {
    return this.#ask({ ask: 'churn', perSecond, seconds });
  }

  /** Gives the first service these endpoints. */
  point(endpoints: readonly string[]): Promise<void> {
    return this.#ask({ ask: 'point', endpoints });
  }

  memory(): Promise<Memory> {
    return this.#ask({ ask: 'memory' });
  }

  /** One question at a time. */
  async #ask<T>(question: Question): Promise<T> {
    this.#asked = Promise.withResolvers();
    this.#child.send(question);
    return (await this.#asked.promise) as T;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    if (this.#child.connected) this.#child.disconnect();
    else this.#child.kill('SIGKILL');
    await exited;
  }
}
