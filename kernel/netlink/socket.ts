import { constants } from 'node:os';
import { type Descriptor, type Lane, native } from '../../native/index.ts';
import { KernelError } from '../errors.ts';
import { Slices } from '../nftables-slices.ts';
import {
  errorOf,
  framedBytes,
  frameMessages,
  type NetlinkMessage,
  NLM_F_ACK,
  NLM_F_DUMP,
  NLM_F_DUMP_INTR,
  NLMSG_DONE,
  NLMSG_ERROR,
  NLMSG_NOOP,
  operationOf,
  parseAck,
  parseMessages,
  type ReceivedMessage,
} from './message.ts';
import { align4 } from './wire.ts';

export const NETLINK_ROUTE = 0;
export const NETLINK_NETFILTER = 12;

export const AF_NETLINK = 16;
export const SOCK_RAW = 3;

/** Room for about ten thousand acknowledgements; nothing is reserved until it is needed. */
export const SOCKET_BUFFER_BYTES = 4 << 20;
/** A longer submit goes out as several datagrams. */
const DATAGRAM_BYTES_MAX = 32 << 10;
/** So much of a long answer is read at a time. */
const PART_BYTES = 64 << 10;
/** A table that changes faster than it can be read this often is given up. */
const DUMP_ATTEMPTS_MAX = 16;

export interface SocketOptions {
  /** The network namespace to open the socket in; else that of the process. Not kept. */
  readonly namespaceFd?: Descriptor | undefined;
  /** Send and receive buffer each. */
  readonly bufferBytes?: number | undefined;
  /** The thread to talk on. Without it every exchange blocks the calling thread for its (short) time. */
  readonly lane?: Lane | undefined;
}

/** A netlink socket for requests. Requests on one socket are answered in the order in which they were made. */
export class NetlinkSocket implements Disposable {
  readonly #lane: Lane | undefined;
  #fd: Descriptor | undefined;
  #sequence = 1;

  private constructor(fd: Descriptor, lane: Lane | undefined) {
    this.#fd = fd;
    this.#lane = lane;
  }

  static open(protocol: number, options: SocketOptions = {}): NetlinkSocket {
    const { namespaceFd = -1, bufferBytes = SOCKET_BUFFER_BYTES, lane } = options;
    try {
      const fd = native.openSocket(namespaceFd, AF_NETLINK, SOCK_RAW, protocol, bufferBytes);
      return new NetlinkSocket(fd, lane);
    } catch (error) {
      throw KernelError.from(`open netlink socket ${protocol}`, error);
    }
  }

  /**
   * Sends messages, each with NLM_F_ACK, in datagrams of bounded size. One entry per message: undefined when
   * the kernel did it, else its error. Never throws for a refused message.
   */
  async submit(messages: readonly NetlinkMessage[]): Promise<(KernelError | undefined)[]> {
    const outcomes: (KernelError | undefined)[] = [];
    for (const part of datagrams(messages)) {
      const { outcome, answered } = await this.#converse(part, NLM_F_ACK);
      part.forEach((message, index) => {
        const lost = answered[index] ? undefined : unanswered(message);
        outcomes.push(outcome[index] ?? lost);
      });
    }
    return outcomes;
  }

  /**
   * Sends all messages as one datagram with exactly the flags they have (nfnetlink takes a transaction only
   * so). One entry per message: the error it met, or undefined. `onAnswer` is told what NLM_F_ECHO brings.
   */
  async transaction(
    messages: readonly NetlinkMessage[],
    onAnswer: (answer: NetlinkMessage) => void = () => {},
  ): Promise<(KernelError | undefined)[]> {
    if (messages.length === 0) return [];
    const { outcome, answers } = await this.#converse(messages, 0);
    for (const answer of answers) onAnswer(answer);
    return outcome;
  }

  /** One message with NLM_F_ACK: throws its KernelError, or gives the answers (NLM_F_ECHO, get). */
  async request(message: NetlinkMessage): Promise<NetlinkMessage[]> {
    const { outcome, answered, answers } = await this.#converse([message], NLM_F_ACK);
    if (outcome[0] !== undefined) throw outcome[0];
    if (!answered[0]) throw unanswered(message);
    return answers;
  }

  /** All rows of a table. Read again, a limited number of times, when it changed meanwhile. */
  async dump(message: NetlinkMessage): Promise<NetlinkMessage[]> {
    for (let attempt = 0; attempt < DUMP_ATTEMPTS_MAX; attempt += 1) {
      const { outcome, answered, answers, interrupted } = await this.#converse([message], NLM_F_DUMP);
      if (outcome[0] !== undefined) throw outcome[0];
      if (!answered[0]) throw unanswered(message);
      if (!interrupted) return answers;
    }
    throw new KernelError(operationOf(message), constants.errno.EINTR, {
      detail: `the table changed during each of ${DUMP_ATTEMPTS_MAX} dumps`,
    });
  }

  /**
   * Tells `onRow` of the rows of a table that may be long, in slices, so that others get their turn. Rows of a table
   * that changes meanwhile may come twice or not at all.
   */
  async dumpInSlices(message: NetlinkMessage, onRow: (row: NetlinkMessage) => void): Promise<void> {
    const first = this.#sequence;
    this.#sequence = (first + 1) >>> 0;
    const bytes = await this.#exchange(frameMessages([message], first, NLM_F_DUMP)).catch((error) => {
      throw KernelError.from(operationOf(message), error);
    });
    const slices = new Slices();
    let isAnswered = false;
    for (const part of partsOf(bytes)) {
      const { outcome, answered, answers } = readAnswers([message], first, part);
      if (outcome[0] !== undefined) throw outcome[0];
      isAnswered ||= answered[0] === true;
      for (const answer of answers) onRow(answer);
      if (slices.isOver) await slices.next();
    }
    if (!isAnswered) throw unanswered(message);
  }

  async #converse(messages: readonly NetlinkMessage[], flags: number): Promise<Conversation> {
    const first = this.#sequence;
    this.#sequence = (this.#sequence + messages.length) >>> 0;
    try {
      return readAnswers(messages, first, await this.#exchange(frameMessages(messages, first, flags)));
    } catch (error) {
      const failed = KernelError.from(operationOf(messages[0] as NetlinkMessage), error);
      if (!(failed instanceof KernelError)) throw failed;
      const outcome = messages.map((message) => new KernelError(operationOf(message), failed.errno, failed));
      return { outcome, answered: messages.map(() => true), answers: [], interrupted: false };
    }
  }

  async #exchange(data: Uint8Array): Promise<Uint8Array> {
    if (this.#fd === undefined) throw new Error('the netlink socket is closed');
    if (this.#lane === undefined) return native.exchange(this.#fd, data);
    const [answer] = await native.run(this.#lane, [{ fd: this.#fd, data }]);
    return answer ?? new Uint8Array();
  }

  /** Closes the socket. With a lane: only once its jobs are done, so await them first. */
  [Symbol.dispose](): void {
    if (this.#fd !== undefined) native.close(this.#fd);
    this.#fd = undefined;
  }
}

interface Conversation {
  /** Per message: the error it met. */
  readonly outcome: (KernelError | undefined)[];
  /** Per message: whether an acknowledgement, an error or the end of a dump came. */
  readonly answered: boolean[];
  readonly answers: NetlinkMessage[];
  readonly interrupted: boolean;
}

/** Matches what came to what was asked, by sequence number; whatever answers something older is passed over. */
export function readAnswers(
  messages: readonly NetlinkMessage[],
  firstSequence: number,
  bytes: Uint8Array,
): Conversation {
  const outcome: (KernelError | undefined)[] = messages.map(() => undefined);
  const answered: boolean[] = messages.map(() => false);
  const answers: ReceivedMessage[] = [];
  let interrupted = false;
  for (const received of parseMessages(bytes)) {
    const index = (received.sequence - firstSequence) >>> 0;
    const asked = messages[index];
    // What nf_tables says of elements for NLM_F_ECHO has no number.
    if (asked === undefined && received.sequence === 0) answers.push(received);
    if (asked === undefined) continue;
    if ((received.flags & NLM_F_DUMP_INTR) !== 0 && received.type !== NLMSG_ERROR) interrupted = true;
    if (received.type === NLMSG_ERROR || received.type === NLMSG_DONE) {
      answered[index] = true;
      outcome[index] ??= errorOf(asked, parseAck(received));
    } else if (received.type !== NLMSG_NOOP) answers.push(received);
  }
  return { outcome, answered, answers, interrupted };
}

function unanswered(message: NetlinkMessage): KernelError {
  return new KernelError(operationOf(message), constants.errno.ENOBUFS, {
    detail: 'the kernel gave no answer (receive buffer full)',
  });
}

/** Whole messages in portions of some hundred. */
function* partsOf(bytes: Uint8Array): Generator<Uint8Array> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let from = 0;
  for (let at = 0; at + 4 <= bytes.length; ) {
    // A length that cannot be is found by who reads the part.
    at += Math.max(4, align4(view.getUint32(at, true)));
    if (at - from < PART_BYTES && at < bytes.length) continue;
    yield bytes.subarray(from, Math.min(at, bytes.length));
    from = at;
  }
}

function* datagrams(messages: readonly NetlinkMessage[]): Generator<NetlinkMessage[]> {
  let part: NetlinkMessage[] = [];
  let size = 0;
  for (const message of messages) {
    const bytes = framedBytes(message);
    if (part.length > 0 && size + bytes > DATAGRAM_BYTES_MAX) {
      yield part;
      part = [];
      size = 0;
    }
    part.push(message);
    size += bytes;
  }
  if (part.length > 0) yield part;
}
