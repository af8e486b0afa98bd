import { type Descriptor, native, type Poll } from '../../native/index.ts';
import { KernelError } from '../errors.ts';
import { parseMessages, type ReceivedMessage } from './message.ts';
import { AF_NETLINK, NETLINK_ROUTE, SOCK_RAW } from './socket.ts';

const SOL_NETLINK = 270;
const NETLINK_ADD_MEMBERSHIP = 1;
/** Room for several thousand notifications while the loop is busy. */
const MONITOR_BUFFER_BYTES = 4 << 20;
/** Messages kept for a slow reader; beyond it they are dropped and the reader is told. */
const QUEUE_MESSAGES_MAX = 4096;
const DATAGRAM_BYTES_MAX = 64 << 10;
/** Datagrams read in one turn of the loop, so that a flood does not starve everything else. */
const DATAGRAMS_PER_TURN = 64;

export type MonitorEvent =
  | { readonly kind: 'messages'; readonly messages: readonly ReceivedMessage[] }
  /** Notifications were lost: read everything again. */
  | { readonly kind: 'overrun' };

export interface MonitorOptions {
  readonly namespaceFd?: Descriptor | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly protocol?: number | undefined;
  readonly bufferBytes?: number | undefined;
}

/**
 * Notifications of the kernel. They are collected from this call on (not from the first `next`), so that
 * "watch, then read" misses nothing; the iteration ends with the signal, with `break` or with disposal.
 */
export function monitor(groups: readonly number[], options: MonitorOptions = {}): Monitor {
  return new Monitor(groups, options);
}

export class Monitor implements AsyncIterableIterator<MonitorEvent>, Disposable {
  readonly #fd: Descriptor;
  readonly #poll: Poll;
  readonly #signal: AbortSignal | undefined;
  #queue: ReceivedMessage[] = [];
  #overrun = false;
  #failure: unknown;
  #closed = false;
  #wake: (() => void) | undefined;

  constructor(groups: readonly number[], options: MonitorOptions) {
    const { namespaceFd = -1, protocol = NETLINK_ROUTE, bufferBytes = MONITOR_BUFFER_BYTES } = options;
    this.#fd = openMonitor(groups, namespaceFd, protocol, bufferBytes);
    this.#poll = native.poll(this.#fd, () => this.#receive());
    this.#signal = options.signal;
    this.#signal?.addEventListener('abort', this.#onAbort);
    if (this.#signal?.aborted) this.#close();
  }

  readonly #onAbort = () => this.#close();

  #receive(): void {
    try {
      for (let turn = 0; turn < DATAGRAMS_PER_TURN && !this.#closed; turn += 1) {
        const received = native.receive(this.#fd, DATAGRAM_BYTES_MAX);
        if (received === undefined) break;
        this.#enqueue(parseMessages(received.data));
      }
    } catch (error) {
      if ((error as { code?: unknown }).code === 'ENOBUFS') this.#lose();
      else {
        this.#failure = KernelError.from('netlink notifications', error);
        this.#close();
      }
    }
    this.#wake?.();
  }

  #enqueue(messages: readonly ReceivedMessage[]): void {
    if (this.#overrun) return;
    this.#queue.push(...messages);
    if (this.#queue.length > QUEUE_MESSAGES_MAX) this.#lose();
  }

  #lose(): void {
    this.#overrun = true;
    this.#queue = [];
  }

  async next(): Promise<IteratorResult<MonitorEvent, undefined>> {
    for (;;) {
      const event = this.#take();
      if (event !== undefined) return { done: false, value: event };
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#closed) return { done: true, value: undefined };
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }

  #take(): MonitorEvent | undefined {
    if (this.#overrun) {
      this.#overrun = false;
      return { kind: 'overrun' };
    }
    if (this.#queue.length === 0) return undefined;
    const messages = this.#queue;
    this.#queue = [];
    return { kind: 'messages', messages };
  }

  async return(): Promise<IteratorResult<MonitorEvent, undefined>> {
    this.#close();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  [Symbol.dispose](): void {
    this.#close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#close();
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#signal?.removeEventListener('abort', this.#onAbort);
    this.#poll.stop();
    native.close(this.#fd);
    this.#wake?.();
  }
}

function openMonitor(
  groups: readonly number[],
  namespaceFd: Descriptor,
  protocol: number,
  bufferBytes: number,
): Descriptor {
  try {
    const fd = native.openSocket(namespaceFd, AF_NETLINK, SOCK_RAW, protocol, bufferBytes);
    try {
      for (const group of groups) native.setOption(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group);
      return fd;
    } catch (error) {
      native.close(fd);
      throw error;
    }
  } catch (error) {
    throw KernelError.from(`netlink notifications of groups ${groups.join(', ')}`, error);
  }
}
