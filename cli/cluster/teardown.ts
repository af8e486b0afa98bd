import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const PROGRAM = fileURLToPath(new URL('./teardown.sh', import.meta.url));
const TIMEOUT_MS = 60_000;
/** Exit status of the program when another one has the cluster locked. */
const EXIT_LOCKED = 75;

/** What is to be removed: all namespaces whose names begin with the prefix, and the directory. */
export interface Remains {
  readonly prefix: string;
  readonly directory: string;
}

export async function removeAll({ prefix, directory }: Remains): Promise<void> {
  try {
    await promisify(execFile)('sh', [PROGRAM, prefix, directory], { timeout: TIMEOUT_MS });
  } catch (error) {
    throw (error as { code?: unknown }).code === EXIT_LOCKED ? lockedError(directory) : error;
  }
}

/**
 * A process of its own that removes everything when this one has ended, however it ended. It holds the lock of the
 * cluster as long as it lives, so that nobody else makes or removes the cluster meanwhile.
 */
export class Watchdog implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #remains: Remains;
  #kept = false;

  private constructor(child: ChildProcess, remains: Remains) {
    this.#child = child;
    this.#remains = remains;
  }

  /** Makes the directory. Throws when another process has the lock. */
  static async start(remains: Remains): Promise<Watchdog> {
    // Detached: Ctrl-C goes to all processes of the terminal's group, and this one has to clean up after it.
    const child = spawn('sh', [PROGRAM, remains.prefix, remains.directory, '--watch'], {
      stdio: ['pipe', 'pipe', 'ignore'],
      detached: true,
    });
    const { stdin, stdout } = child;
    if (stdin === null || stdout === null) throw new Error('the watchdog has no pipes');
    stdin.on('error', () => undefined); // it has ended; disposing finds out
    const [said] = await Promise.race([once(stdout, 'data'), once(child, 'exit')]);
    if (said === EXIT_LOCKED) throw lockedError(remains.directory);
    if (!Buffer.isBuffer(said)) throw new Error(`the watchdog ended with ${said}`);
    stdout.destroy();
    child.unref();
    (stdin as unknown as { unref?: () => void }).unref?.();
    return new Watchdog(child, remains);
  }

  /** What it watches over stays. */
  keep(): void {
    this.#kept = true;
    this.#child.stdin?.end('keep\n');
  }

  /** Removes everything now, unless it is to be kept. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#kept) return;
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      const exit = once(this.#child, 'exit', { signal: AbortSignal.timeout(TIMEOUT_MS) });
      this.#child.ref();
      this.#child.stdin?.end('remove\n');
      await exit;
    }
    // Again, for what it could not do, and to say why.
    if (this.#child.exitCode !== 0) await removeAll(this.#remains);
  }
}

function lockedError(directory: string): Error {
  const name = directory.split('/').at(-1);
  return new Error(`cluster ${name} is being made or removed by another process; wait for it or end it`);
}
