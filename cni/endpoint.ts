import { closeDescriptor, type UnixConnection, UnixListener } from '../kernel/unix-socket.ts';
import type { Call } from './plugin.ts';
import { Session } from './session.ts';

/** Calls served at the same time; more wait in the kernel until one has ended. */
export const sessionsMax = 256;
/** A client must have sent its whole request within this time. */
export const requestTimeoutMs = 5_000;
const sweepMs = 1_000;

/** The socket that the shim talks to, with the sessions on it. */
export class Endpoint implements AsyncDisposable {
  readonly #listener: UnixListener;
  readonly #serve: (call: Call) => Promise<void>;
  readonly #sessions = new Set<Session>();
  #sweep: NodeJS.Timeout | undefined;
  #isClosing = false;
  #onIdle: (() => void) | undefined;

  constructor(socketPath: string, serve: (call: Call) => Promise<void>) {
    this.#serve = serve;
    this.#listener = UnixListener.listen(socketPath, (connection) => this.#begin(connection));
    this.#listener.resume();
  }

  #begin(connection: UnixConnection): void {
    const onEnd = (ended: Session) => this.#end(ended);
    const session = new Session(
      { connection, serve: this.#serve, closeDescriptor, onEnd },
      performance.now(),
    );
    this.#sessions.add(session);
    if (this.#sessions.size >= sessionsMax) this.#listener.pause();
    session.begin();
    if (session.waitingSinceMs !== undefined) this.#sweep ??= setInterval(() => this.#abandonLate(), sweepMs);
  }

  #end(session: Session): void {
    this.#sessions.delete(session);
    if (this.#sessions.size < sessionsMax && !this.#isClosing) this.#listener.resume();
    if (this.#sessions.size === 0) this.#onIdle?.();
  }

  #abandonLate(): void {
    const before = performance.now() - requestTimeoutMs;
    for (const session of this.#sessions) {
      if ((session.waitingSinceMs ?? Number.POSITIVE_INFINITY) < before) session.abandon();
    }
    if ([...this.#sessions].some(({ waitingSinceMs }) => waitingSinceMs !== undefined)) return;
    clearInterval(this.#sweep);
    this.#sweep = undefined;
  }

  /** Accepts nothing any more, drops who has not asked yet, and waits for the others. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosing = true;
    this.#listener[Symbol.dispose]();
    clearInterval(this.#sweep);
    for (const session of [...this.#sessions]) session.abandon();
    if (this.#sessions.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#onIdle = resolve;
    });
  }
}
