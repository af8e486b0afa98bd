import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { createNamespace, deleteNamespace } from '../../kernel/netns.ts';

const execute = promisify(execFile);

/** Not node_modules/.bin/nft, which is another program. */
export const NFT = '/usr/sbin/nft';
const V1_ROOT = '/sys/fs/cgroup/memory';
const V2_ROOT = '/sys/fs/cgroup';
/** The kernel takes namespaces and tables apart later, and counts memory in small portions for each CPU. */
const SETTLE_INTERVAL_MS = 150;
const SETTLE_ATTEMPTS_MAX = 40;

/** What kernel memory is told by: a control group's own account, or else what the whole machine has. */
export type MemoryAccount = 'cgroup v1' | 'cgroup v2' | '/proc/meminfo';

export const memoryAccount: MemoryAccount = existsSync(`${V1_ROOT}/memory.kmem.usage_in_bytes`)
  ? 'cgroup v1'
  : existsSync(`${V2_ROOT}/cgroup.subtree_control`) &&
      readFileSync(`${V2_ROOT}/cgroup.subtree_control`, 'utf8').includes('memory')
    ? 'cgroup v2'
    : '/proc/meminfo';

/** A network namespace, and a control group that is charged for what the processes started in it make the kernel hold. */
export class Space implements Disposable {
  readonly name = `bench-${randomBytes(6).toString('hex')}`;
  readonly #group: string | undefined;
  #isThere = true;

  constructor() {
    createNamespace(this.path);
    const root = { 'cgroup v1': V1_ROOT, 'cgroup v2': V2_ROOT, '/proc/meminfo': undefined }[memoryAccount];
    this.#group = root && `${root}/${this.name}`;
    if (this.#group !== undefined) mkdirSync(this.#group);
  }

  get path(): string {
    return `/run/netns/${this.name}`;
  }

  /** The command, to be run inside. */
  command(command: readonly string[]): [string, string[]] {
    const inside = [`--net=${this.path}`, '--', ...command];
    if (this.#group === undefined) return ['nsenter', inside];
    return ['sh', ['-c', 'echo $$ > "$0" && exec nsenter "$@"', `${this.#group}/cgroup.procs`, ...inside]];
  }

  /** Runs a command inside; its output. */
  async run(command: readonly string[]): Promise<string> {
    const [program, args] = this.command(command);
    return (await execute(program, args, { maxBuffer: 1 << 30 })).stdout;
  }

  /**
   * Removes the namespace and answers how many bytes the kernel has got back: what was in it. No process may run in
   * the space any more.
   */
  async removeAndMeasure(): Promise<number> {
    const before = await this.#settled();
    this.#removeNamespace();
    return before - (await this.#settled());
  }

  async #settled(): Promise<number> {
    let last = this.#kernelBytes();
    let calm = 0;
    for (let attempt = 0; attempt < SETTLE_ATTEMPTS_MAX && calm < 3; attempt += 1) {
      await sleep(SETTLE_INTERVAL_MS);
      const now = this.#kernelBytes();
      calm = now === last ? calm + 1 : 0;
      last = now;
    }
    return last;
  }

  #kernelBytes(): number {
    if (memoryAccount === 'cgroup v1')
      return Number(readFileSync(`${this.#group}/memory.kmem.usage_in_bytes`, 'utf8'));
    if (memoryAccount === 'cgroup v2')
      return numberAfter('kernel', readFileSync(`${this.#group}/memory.stat`, 'utf8'));
    const text = readFileSync('/proc/meminfo', 'utf8');
    return 1024 * (numberAfter('SUnreclaim:', text) + numberAfter('VmallocUsed:', text));
  }

  #removeNamespace(): void {
    if (this.#isThere) deleteNamespace(this.path);
    this.#isThere = false;
  }

  [Symbol.dispose](): void {
    this.#removeNamespace();
    if (this.#group !== undefined) removeGroup(this.#group);
  }
}

/** A program that the proxy had started may outlive it for a moment. */
function removeGroup(path: string): void {
  for (let tries = 1; ; tries += 1) {
    try {
      rmdirSync(path);
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || tries === groupTriesMax) throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, groupTryMs);
    }
  }
}

const groupTriesMax = 100;
const groupTryMs = 50;

function numberAfter(name: string, text: string): number {
  return Number(new RegExp(`^${name}\\s+(\\d+)`, 'm').exec(text)?.[1]);
}
