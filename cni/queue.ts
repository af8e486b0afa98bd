import { mkdirSync, readdirSync, statSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CniError, cniCode } from './error.ts';
import { envBytesMax, frameHeaderBytes, parseFrame, type RequestFrame, stdinBytesMax } from './frame.ts';
import type { Log } from './log.ts';
import type { Call } from './plugin.ts';

/** Entries of the queue that are done at the same time. */
const concurrencyMax = 16;
/** How often an entry is tried again that failed, and how soon one is found that came while we were stuck. */
const queueRetryMs = 5_000;
/** At the start nobody is served before the queue is done, for no longer than this. */
const queueStartTimeoutMs = 10_000;
/** Whatever can be sent can be kept. */
const queuedBytesMax = frameHeaderBytes + envBytesMax + stdinBytesMax;
/** Entries that cannot be done are kept for an operator to see, the newest of them. */
export const refusedMax = 100;
const refusedName = 'refused';
/** A shim writes its file within less than that, or it was killed. */
const temporaryAgeMs = 60_000;

/** The time of change of a directory comes from a clock of ticks: within one, two changes look the same. */
const freshMs = 100;

/** What no later try can change: the request itself is refused. */
const refusals: readonly number[] = [
  cniCode.incompatibleVersion,
  cniCode.invalidEnvironment,
  cniCode.decodingFailure,
  cniCode.invalidConfig,
];

export interface DeletionQueueOptions {
  readonly directory: string;
  /** Serves one call to its end. */
  readonly serve: (call: Call) => Promise<void>;
  readonly log: Log;
}

/** An entry that failed and stays. */
interface Failed {
  readonly containerId: string;
  readonly error: string;
}

/** Where the shim that uses this socket keeps the DELs that nobody answers. */
export function queueDirectoryOf(socketPath: string): string {
  return join(dirname(socketPath), 'cni-queue');
}

/**
 * DELs that the shim kept because no daemon answered: each was a success for the runtime, so it must be done here.
 * Doing one again changes nothing. An ADD begins when all that were kept before it are done ({@link settle}), so that
 * addresses and host ports of pods that have ended are free, and no late DEL meets a container that is new.
 *
 * The namespaces of the callers are not here any more, and their paths may lead to others by now, so a DEL gets none.
 */
export class DeletionQueue implements AsyncDisposable {
  readonly #options: DeletionQueueOptions;
  readonly #failed = new Map<string, Failed>();
  readonly #timer: NodeJS.Timeout;
  #tail: Promise<void> = Promise.resolve();
  /** The directory's time of change when nothing was in it. */
  #emptySinceMs: number | undefined;
  #passes = 0;
  #isClosing = false;

  private constructor(options: DeletionQueueOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#retry(), queueRetryMs);
    this.#timer.unref();
  }

  /** Does what is in the queue. What is not done in time goes on behind. */
  static async open(options: DeletionQueueOptions): Promise<DeletionQueue> {
    mkdirSync(options.directory, { recursive: true, mode: 0o700 });
    const queue = new DeletionQueue(options);
    const late = new AbortController();
    const timeout = sleep(queueStartTimeoutMs, 'late' as const, { signal: late.signal }).catch(() => 'done');
    if ((await Promise.race([queue.#pass(isAny), timeout])) === 'late') {
      options.log.error({ queue: options.directory }, 'queued DELs are not done yet');
    }
    late.abort();
    return queue;
  }

  /**
   * Before an ADD. Undefined when there is nothing to wait for; else resolves when what was queued is done, to an
   * error when a DEL of the same container could not be.
   */
  settle(containerId: string): Promise<CniError | undefined> | undefined {
    const isWanted = (name: string) => {
      const failed = this.#failed.get(name);
      return failed === undefined || failed.containerId === containerId;
    };
    if (this.#passes === 0 && !this.#names().some(isWanted)) return undefined;
    return this.#pass(isWanted).then(() => this.#errorOf(containerId));
  }

  #errorOf(containerId: string): CniError | undefined {
    const failed = this.#failed.values().find((one) => one.containerId === containerId);
    if (failed === undefined) return undefined;
    const message = 'an earlier DEL of this container is not done yet';
    return new CniError(cniCode.tryAgain, message, failed.error);
  }

  #retry(): void {
    if (this.#passes === 0 && this.#names().length > 0) void this.#pass(isAny);
  }

  /** The directory is read only when it may have changed: a DEL waits for a daemon that is down, which is rare. */
  #names(): string[] {
    const { directory } = this.#options;
    try {
      const changedAtMs = statSync(directory).mtimeMs;
      if (changedAtMs === this.#emptySinceMs) return [];
      const names = entryNames(readdirSync(directory));
      const isOld = Date.now() - changedAtMs > freshMs;
      this.#emptySinceMs = names.length === 0 && isOld ? changedAtMs : undefined;
      return names;
    } catch (error) {
      // Whoever removed the directory took its entries.
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw error;
    }
  }

  /** One pass after the other: each sees all that was queued before it was asked for. Never rejects. */
  #pass(isWanted: (name: string) => boolean): Promise<void> {
    this.#passes += 1;
    this.#tail = this.#tail
      .then(() => this.#work(isWanted))
      .catch((error: Error) => this.#options.log.error({ error: error.message }, 'queued DELs are not read'))
      .finally(() => {
        this.#passes -= 1;
      });
    return this.#tail;
  }

  async #work(isWanted: (name: string) => boolean): Promise<void> {
    const { directory, log } = this.#options;
    const names = await inOrder(directory, this.#names().filter(isWanted));
    const rest = names.values();
    let done = 0;
    const worker = async () => {
      for (const name of rest) {
        if (this.#isClosing) return;
        if (await this.#attempt(name)) done += 1;
      }
    };
    await Promise.all(Array.from({ length: Math.min(concurrencyMax, names.length) }, worker));
    if (done > 0) log.info({ done }, 'DELs done that were queued while no daemon answered');
    await removeOldTemporaries(directory);
  }

  /** What becomes of one entry is nothing to the others. */
  async #attempt(name: string): Promise<boolean> {
    try {
      return await this.#do(name);
    } catch (error) {
      return this.#keep(name, '', (error as Error).message);
    }
  }

  #keep(name: string, containerId: string, error: string): false {
    const { directory, log } = this.#options;
    log.warn({ entry: join(directory, name), error }, 'queued DEL failed; it is tried again');
    this.#failed.set(name, { containerId, error });
    return false;
  }

  async #do(name: string): Promise<boolean> {
    const { directory, serve } = this.#options;
    const path = join(directory, name);
    const request = await readEntry(path);
    if (request === undefined) return false;
    if (typeof request === 'string') return this.#refuse(name, request);
    const error = await outcomeOf(request, serve);
    if (error !== undefined && refusals.includes(error.code)) return this.#refuse(name, error.message);
    if (error !== undefined) {
      const text = [error.message, error.details].filter((part) => part !== '').join(': ');
      return this.#keep(name, request.env.get('CNI_CONTAINERID') ?? '', text);
    }
    await rm(path, { force: true });
    this.#failed.delete(name);
    return true;
  }

  /** Sets an entry aside. */
  async #refuse(name: string, problem: string): Promise<false> {
    const { directory, log } = this.#options;
    const to = join(directory, refusedName);
    await mkdir(to, { recursive: true, mode: 0o700 });
    const path = join(to, name);
    await rename(join(directory, name), path);
    this.#failed.delete(name);
    log.error({ entry: path, problem }, 'queued DEL cannot be done and was set aside');
    const others = await inOrder(to, await readdir(to));
    for (const old of others.slice(0, -refusedMax)) await rm(join(to, old), { force: true });
    return false;
  }

  /** Waits for what is being done; the rest stays queued. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosing = true;
    clearInterval(this.#timer);
    await this.#tail;
  }
}

const isAny = () => true;

/** A dot begins the name of a file that is being written. */
function entryNames(names: readonly string[]): string[] {
  return names.filter((name) => name !== refusedName && !name.startsWith('.'));
}

/** Oldest first. Files that are gone meanwhile are left out. */
async function inOrder(directory: string, names: readonly string[]): Promise<string[]> {
  const found = await Promise.all(
    names.map(async (name) => ({ name, at: (await statIfThere(join(directory, name)))?.mtimeMs })),
  );
  return found
    .filter((file): file is { name: string; at: number } => file.at !== undefined)
    .sort((a, b) => a.at - b.at || (a.name < b.name ? -1 : 1))
    .map(({ name }) => name);
}

async function statIfThere(path: string) {
  try {
    return await stat(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

async function removeOldTemporaries(directory: string): Promise<void> {
  const before = Date.now() - temporaryAgeMs;
  for (const name of (await readdir(directory)).filter((one) => one.startsWith('.'))) {
    const path = join(directory, name);
    if (((await statIfThere(path))?.mtimeMs ?? before) < before) await rm(path, { force: true });
  }
}

/** The request, or what is wrong with it; undefined when the file is gone. */
async function readEntry(path: string): Promise<RequestFrame | string | undefined> {
  const status = await statIfThere(path);
  if (status === undefined) return undefined;
  if (!status.isFile()) return 'it is no file';
  if (status.size > queuedBytesMax)
    return `it has ${status.size} bytes, at most ${queuedBytesMax} are possible`;
  const request = parseFrame(await readFile(path));
  if (typeof request === 'string') return request;
  const verb = request.env.get('CNI_COMMAND');
  return verb === 'DEL' ? request : `it is no DEL but ${JSON.stringify(verb)}`;
}

/** Undefined when it was done. */
async function outcomeOf(
  request: RequestFrame,
  serve: (call: Call) => Promise<void>,
): Promise<CniError | undefined> {
  let error: CniError | undefined = new CniError(cniCode.internal, 'it was not answered');
  const answer = (exitCode: number, stdout: string) => {
    error = exitCode === 0 ? undefined : parseError(stdout);
    return true;
  };
  try {
    await serve({ ...request, answer });
  } catch (thrown) {
    return CniError.from(thrown);
  }
  return error;
}

function parseError(stdout: string): CniError {
  const { code, msg, details } = JSON.parse(stdout) as { code: number; msg: string; details?: string };
  return new CniError(code, msg, details);
}
