import { chmodSync, mkdirSync, unlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import { type Descriptor, type Lane, native, type Poll, type Reply } from '../native/index.ts';

import { KernelError } from './errors.ts';

export type { Reply } from '../native/index.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOL_SOCKET = 1;
const SO_PASSCRED = 16;
/** sun_path less its NUL. */
const pathBytesMax = 107;
/** Connections that wait to be accepted; more are refused by the kernel. */
const backlog = 1024;
/** After a failed accept (all descriptors in use) nothing is accepted for so long. */
const acceptPauseMs = 100;

/** What one read brought: bytes, descriptors that came with them (now ours to close), the sender's user. */
export interface Received {
  readonly data: Uint8Array;
  readonly fds: readonly Descriptor[];
  readonly uid?: number;
}

/** What is sent on a connection by the thread that does the last work for it, as soon as that is done. */
export interface ReplyAhead {
  /** For the job; without {@link arm} it sends nothing. */
  readonly reply: Reply;
  /** With all that is to be sent. */
  arm(data: Uint8Array): void;
  /** "ours": not sent, and it will not be. Else it was, or could not be. */
  take(): 'ours' | 'sent' | 'failed';
}

/** Closes a descriptor that {@link UnixConnection.receive} brought. */
export function closeDescriptor(fd: Descriptor): void {
  native.close(fd);
}

/** One connection of a stream. Nothing here waits: what cannot be done at once says so. */
export class UnixConnection implements Disposable {
  readonly #fd: Descriptor;
  #poll: Poll | undefined;
  #closed = false;

  constructor(fd: Descriptor) {
    this.#fd = fd;
  }

  /** Undefined when nothing waits; empty data when the other side has ended. Throws when it was broken off. */
  receive(maxBytes: number): Received | undefined {
    return native.receive(this.#fd, maxBytes);
  }

  /** Whether all of it is on its way to the other side; false also when that has gone. */
  send(data: Uint8Array): boolean {
    try {
      return native.send(this.#fd, data) === data.length;
    } catch {
      return false;
    }
  }

  /** Taken before the connection is closed. */
  replyAhead(): ReplyAhead {
    const reply = native.reply(this.#fd);
    return {
      reply,
      arm: (data) => native.armReply(reply, data),
      take: () => native.takeReply(reply),
    };
  }

  /** Calls back whenever {@link receive} has something to say, until the connection is closed. */
  watch(callback: () => void): void {
    this.#poll ??= native.poll(this.#fd, callback);
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#poll?.stop();
    native.close(this.#fd);
  }
}

/**
 * A listening unix socket for programs of this machine: a directory for its owner alone (made if missing), a
 * socket for its owner alone, and the user of every sender.
 */
export class UnixListener implements Disposable {
  readonly #path: string;
  readonly #fd: Descriptor;
  readonly #onConnection: (connection: UnixConnection) => void;
  #poll: Poll | undefined;
  #closed = false;

  private constructor(path: string, fd: Descriptor, onConnection: (connection: UnixConnection) => void) {
    this.#path = path;
    this.#fd = fd;
    this.#onConnection = onConnection;
  }

  /** Takes the path over from whatever was there. Call {@link resume} to begin. */
  static listen(path: string, onConnection: (connection: UnixConnection) => void): UnixListener {
    const address = socketAddress(path);
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    unlinkIfThere(path);
    const fd = native.openSocket(-1, AF_UNIX, SOCK_STREAM, 0, 0);
    try {
      native.setOption(fd, SOL_SOCKET, SO_PASSCRED, 1);
      native.bind(fd, address, backlog);
      chmodSync(path, 0o600);
    } catch (error) {
      native.close(fd);
      throw KernelError.from(`listen on ${path}`, error);
    }
    return new UnixListener(path, fd, onConnection);
  }

  /** Accepts connections until {@link pause}. */
  resume(): void {
    this.#poll ??= native.poll(this.#fd, () => this.#accept());
  }

  /** Leaves new connections waiting in the kernel. */
  pause(): void {
    this.#poll?.stop();
    this.#poll = undefined;
  }

  /** Work of clients comes to this lane: its thread gets ready when one connects, before its request is read. */
  readyLane(lane: Lane): void {
    native.attend(lane, this.#fd);
  }

  #accept(): void {
    // One at a time: the poll calls again as long as more wait, and a fruitless accept costs more than that.
    const fd = this.#acceptOne();
    if (fd !== undefined) this.#onConnection(new UnixConnection(fd));
  }

  #acceptOne(): Descriptor | undefined {
    try {
      return native.accept(this.#fd);
    } catch {
      this.pause();
      setTimeout(() => !this.#closed && this.resume(), acceptPauseMs);
      return undefined;
    }
  }

  /** The path goes first, so that whoever comes now finds nobody instead of waiting. */
  [Symbol.dispose](): void {
    this.pause();
    this.#closed = true;
    unlinkIfThere(this.#path);
    native.close(this.#fd);
  }
}

function socketAddress(path: string): Uint8Array {
  const bytes = Buffer.from(path);
  if (bytes.length === 0 || bytes.length > pathBytesMax) {
    throw new RangeError(
      `socket path "${path}" has ${bytes.length} bytes, at most ${pathBytesMax} are possible`,
    );
  }
  return Buffer.concat([Buffer.from(Uint16Array.of(AF_UNIX).buffer), bytes, Buffer.of(0)]);
}

function unlinkIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
