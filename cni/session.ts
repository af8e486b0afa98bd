import type { ReplyAhead } from '../kernel/unix-socket.ts';
import { CniError, cniCode } from './error.ts';
import {
  encodeReply,
  type FrameHeader,
  frameHeaderBytes,
  parseEnvironment,
  parseFrameHeader,
} from './frame.ts';
import type { Call, StdoutAhead } from './plugin.ts';
import { renderError } from './result.ts';
import { newestVersion } from './version.ts';

/** What a session needs of its connection: kernel/unix-socket.ts, or a test's. */
export interface SessionConnection extends Disposable {
  receive(maxBytes: number): { data: Uint8Array; fds: readonly number[]; uid?: number } | undefined;
  send(data: Uint8Array): boolean;
  replyAhead?(): ReplyAhead;
  watch(callback: () => void): void;
}

export interface SessionOptions {
  readonly connection: SessionConnection;
  /** Serves one call to its end. */
  readonly serve: (call: Call) => Promise<void>;
  readonly closeDescriptor: (fd: number) => void;
  /** Called once, when everything of the session is closed. */
  readonly onEnd: (session: Session) => void;
}

const readBytes = 64 << 10;
/**
 * So long a verb may take until it is answered, a little less than the shim waits: the caller hears what is the
 * matter, and an ADD whose result comes later is undone, as one whose caller has gone.
 */
export const answerTimeoutMs = 25_000;
export const statusTimeoutMs = 4_000;
/** The shim's own namespace and the pod's. */
const descriptorsMax = 2;
const rootUid = 0;

/** One connection of the shim: reads its request, serves it, closes everything. */
export class Session {
  readonly #options: SessionOptions;
  readonly #chunks: Uint8Array[] = [];
  readonly #fds: number[] = [];
  readonly #startedMs: number;
  #length = 0;
  #header: FrameHeader | undefined;
  #isReading = true;
  #isAnswered = false;
  #ahead: ReplyAhead | undefined;
  #wasSentAhead = false;
  /** Until when the call that is served is to be answered. */
  #deadlineMs = Number.POSITIVE_INFINITY;
  #lateCode: number = cniCode.tryAgain;

  constructor(options: SessionOptions, nowMs: number) {
    this.#options = options;
    this.#startedMs = nowMs;
  }

  /** Begins to read; what the shim has sent by now is served before this returns. */
  begin(): void {
    this.#read();
    if (this.#isReading) this.#options.connection.watch(() => this.#read());
  }

  /** Since when the request is awaited; undefined once it is complete. */
  get waitingSinceMs(): number | undefined {
    return this.#isReading ? this.#startedMs : undefined;
  }

  /** Answers a call that has taken too long; it is served to its end nevertheless. */
  answerLate(nowMs: number): void {
    if (nowMs < this.#deadlineMs) return;
    const error = new CniError(this.#lateCode, 'the fairlead node daemon could not do this in time');
    this.#answer(1, renderError(error, newestVersion));
  }

  /** Ends a session that still waits for its request. */
  abandon(): void {
    if (!this.#isReading) return;
    this.#isReading = false;
    this.#end();
  }

  #read(): void {
    try {
      while (this.#isReading && this.#take()) {}
    } catch {
      // Broken off by the other side: nobody is there to be told.
      this.abandon();
    }
  }

  /** Takes what one read brings; false when nothing waits. */
  #take(): boolean {
    const received = this.#options.connection.receive(readBytes);
    if (received === undefined) return false;
    this.#fds.push(...received.fds);
    if (received.data.length === 0 || this.#fds.length > descriptorsMax) this.abandon();
    else if (received.uid !== rootUid) this.#refuse('only root may use the Fairlead plugin');
    else this.#append(received.data);
    return true;
  }

  #append(data: Uint8Array): void {
    this.#chunks.push(data);
    this.#length += data.length;
    if (this.#header === undefined && this.#length >= frameHeaderBytes) {
      const header = parseFrameHeader(this.#joined());
      if (typeof header === 'string') {
        this.#refuse(header);
        return;
      }
      this.#header = header;
    }
    if (this.#header === undefined) return;
    const { envBytes, stdinBytes } = this.#header;
    if (this.#length >= frameHeaderBytes + envBytes + stdinBytes) this.#serve(envBytes, stdinBytes);
  }

  #joined(): Uint8Array {
    const [only, ...more] = this.#chunks;
    if (only !== undefined && more.length === 0) return only;
    const all = Buffer.concat(this.#chunks);
    this.#chunks.splice(0, this.#chunks.length, all);
    return all;
  }

  #refuse(message: string): void {
    this.#isReading = false;
    this.#answer(1, renderError(new CniError(cniCode.ioFailure, message), newestVersion));
    this.#end();
  }

  async #serve(envBytes: number, stdinBytes: number): Promise<void> {
    this.#isReading = false;
    const bytes = this.#joined();
    const stdinAt = frameHeaderBytes + envBytes;
    const [ownNamespaceFd, podNamespaceFd] = this.#fds;
    const env = parseEnvironment(bytes.subarray(frameHeaderBytes, stdinAt));
    this.#setDeadline(env.get('CNI_COMMAND') === 'STATUS');
    try {
      await this.#options.serve({
        env,
        stdin: bytes.subarray(stdinAt, stdinAt + stdinBytes),
        ownNamespaceFd,
        podNamespaceFd,
        answer: (exitCode, stdout) => this.#answer(exitCode, stdout),
        ...(this.#options.connection.replyAhead && { openAhead: () => this.#openAhead() }),
      });
    } finally {
      this.#end();
    }
  }

  #setDeadline(isStatus: boolean): void {
    if (isStatus) this.#lateCode = cniCode.notAvailable;
    this.#deadlineMs = performance.now() + (isStatus ? statusTimeoutMs : answerTimeoutMs);
  }

  #openAhead(): StdoutAhead {
    const ahead = this.#options.connection.replyAhead?.();
    if (ahead === undefined) throw new Error('a connection without replies ahead');
    this.#ahead = ahead;
    return { reply: ahead.reply, arm: (stdout) => ahead.arm(encodeReply(0, stdout)) };
  }

  /**
   * One answer for one call: false for a second one, as when nobody is there any more. True for the one that was
   * sent ahead.
   */
  #answer(exitCode: number, stdout: string): boolean {
    if (this.#isAnswered) return this.#wasSentAhead;
    this.#isAnswered = true;
    this.#deadlineMs = Number.POSITIVE_INFINITY;
    const ahead = this.#ahead?.take() ?? 'ours';
    this.#wasSentAhead = ahead === 'sent';
    return ahead === 'ours' ? this.#options.connection.send(encodeReply(exitCode, stdout)) : ahead === 'sent';
  }

  #end(): void {
    this.#ahead?.take();
    this.#options.connection[Symbol.dispose]();
    for (const fd of this.#fds) this.#options.closeDescriptor(fd);
    this.#fds.length = 0;
    this.#options.onEnd(this);
  }
}
