import type { Lane } from '../kernel/lane.ts';
import { closeDescriptor, type UnixConnection, UnixListener } from '../kernel/unix-socket.ts';
import type { CniError } from './error.ts';
import type { Call } from './plugin.ts';
import { DeletionQueue, type DeletionQueueOptions, queueDirectoryOf } from './queue.ts';
import { renderError } from './result.ts';
import { Session } from './session.ts';
import { newestVersion } from './version.ts';

/** Calls served at the same time; more wait in the kernel until one has ended. */
export const sessionsMax = 256;
/** A client must have sent its whole request within this time. */
export const requestTimeoutMs = 5_000;
const sweepMs = 1_000;

export interface EndpointOptions extends Pick<DeletionQueueOptions, 'serve' | 'log'> {
  readonly socketPath: string;
  /** Where requests end in the kernel. */
  readonly lane?: Lane;
}

/** The socket that the shim talks to, with the sessions on it, and what the shim queued when nobody listened. */
export class Endpoint implements AsyncDisposable {
  readonly #listener: UnixListener;
  readonly #queue: DeletionQueue;
  readonly #serve: (call: Call) => Promise<void>;
  readonly #sessions = new Set<Session>();
  #sweep: NodeJS.Timeout | undefined;
  #isClosing = false;
  #onIdle: (() => void) | undefined;

  private constructor({ socketPath, serve, lane }: EndpointOptions, queue: DeletionQueue) {
    this.#queue = queue;
    this.#serve = serve;
    this.#listener = UnixListener.listen(socketPath, (connection) => this.#begin(connection));
    if (lane !== undefined) this.#listener.readyLane(lane);
    this.#listener.resume();
  }

  /** Does the DELs that are queued beside the socket before anybody is served. */
  static async open(options: EndpointOptions): Promise<Endpoint> {
    const { socketPath, serve, log } = options;
    const queue = await DeletionQueue.open({ directory: queueDirectoryOf(socketPath), serve, log });
    try {
      return new Endpoint(options, queue);
    } catch (error) {
      await queue[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** An ADD comes after every DEL that was queued before it. */
  #serveInOrder(call: Call): Promise<void> {
    if (call.env.get('CNI_COMMAND') !== 'ADD') return this.#serve(call);
    const settled = this.#queue.settle(call.env.get('CNI_CONTAINERID') ?? '');
    return settled === undefined ? this.#serve(call) : this.#serveAfter(settled, call);
  }

  async #serveAfter(settled: Promise<CniError | undefined>, call: Call): Promise<void> {
    const error = await settled;
    if (error === undefined) await this.#serve(call);
    else call.answer(1, renderError(error, newestVersion));
  }

  #begin(connection: UnixConnection): void {
    const onEnd = (ended: Session) => this.#end(ended);
    const session = new Session(
      { connection, serve: (call) => this.#serveInOrder(call), closeDescriptor, onEnd },
      performance.now(),
    );
    this.#sessions.add(session);
    if (this.#sessions.size >= sessionsMax) this.#listener.pause();
    session.begin();
    if (this.#sessions.has(session)) this.#sweep ??= setInterval(() => this.#sweepLate(), sweepMs);
  }

  #end(session: Session): void {
    this.#sessions.delete(session);
    if (this.#sessions.size < sessionsMax && !this.#isClosing) this.#listener.resume();
    if (this.#sessions.size === 0) this.#onIdle?.();
  }

  #sweepLate(): void {
    const nowMs = performance.now();
    const before = nowMs - requestTimeoutMs;
    for (const session of this.#sessions) {
      if ((session.waitingSinceMs ?? Number.POSITIVE_INFINITY) < before) session.abandon();
      else session.answerLate(nowMs);
    }
    if (this.#sessions.size > 0) return;
    clearInterval(this.#sweep);
    this.#sweep = undefined;
  }

  /** Accepts nothing any more, drops who has not asked yet, and waits for the others. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosing = true;
    this.#listener[Symbol.dispose]();
    clearInterval(this.#sweep);
    for (const session of [...this.#sessions]) session.abandon();
    if (this.#sessions.size > 0) {
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
      });
    }
    await this.#queue[Symbol.asyncDispose]();
  }
}
