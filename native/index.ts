import { createRequire } from 'node:module';

/** A file descriptor that the caller owns and must give to {@link Native.close}. */
export type Descriptor = number;

/** Kernel errors of the byte pipe come as this, with libc's name in `code`. */
export interface SystemError extends Error {
  /** "EACCES", "ENOBUFS"… */
  readonly code: string;
  /** Positive errno. */
  readonly errno: number;
  /** The system call that failed. */
  readonly syscall: string;
}

/** One step of {@link Native.run}. Without `fd`, a fresh socket of `protocol` is opened inside `namespaceFd`. */
export type Step =
  | { readonly fd: Descriptor; readonly data: Uint8Array }
  | { readonly namespaceFd: Descriptor; readonly protocol: number; readonly data: Uint8Array };

declare const begunBrand: unique symbol;

/** See {@link Native.begin}. */
export interface Begun {
  readonly [begunBrand]: never;
}

declare const replyBrand: unique symbol;

/** See {@link Native.reply}. */
export interface Reply {
  readonly [replyBrand]: never;
}

/** A poll of one descriptor on Node's own loop. Stopping does not close the descriptor. */
export interface Poll {
  stop(): void;
}

declare const pumpBrand: unique symbol;

/** See {@link Native.pump}. */
export interface Pump {
  readonly [pumpBrand]: never;
}

/** Counts of inner packets since the start. */
export interface PumpState {
  /** False: the device is gone. */
  readonly runs: boolean;
  readonly sent: number;
  readonly received: number;
  /** Dropped: to no peer; from no peer; not IP; not taken by the kernel. */
  readonly noRoute: number;
  readonly badSender: number;
  readonly malformed: number;
  readonly lost: number;
}

/** A thread of the addon's own with a queue: jobs run in order, and never on libuv's pool. */
export interface Lane {
  /** Ends the thread after the jobs already queued. */
  close(): void;
}

/**
 * The byte pipe to the kernel. No policy: nothing here knows a message type, except that a netlink reply
 * with a negative NLMSG_ERROR ends a job. All descriptors are close-on-exec.
 */
export interface Native {
  /**
   * Opens a socket, inside another network namespace when `namespaceFd` >= 0: setns happens on a thread made
   * for this call and thrown away. Netlink sockets come bound, non-blocking, with extended acks, strict checks
   * and buffers of `bufferBytes` (forced above the system's limits where allowed).
   */
  openSocket(
    namespaceFd: Descriptor,
    domain: number,
    type: number,
    protocol: number,
    bufferBytes: number,
  ): Descriptor;
  /** setsockopt with an int value; netlink multicast groups are joined with it. */
  setOption(fd: Descriptor, level: number, option: number, value: number): void;
  /** bind (raw sockaddr bytes), and listen when `backlog` > 0. */
  bind(fd: Descriptor, sockaddr: Uint8Array, backlog: number): void;
  /** Accepts one connection, non-blocking; undefined when none waits. */
  accept(fd: Descriptor): Descriptor | undefined;
  /**
   * One recvmsg without blocking, with the descriptors that came along (SCM_RIGHTS) and, on a unix socket
   * with SO_PASSCRED set, the sender's uid; undefined when nothing waits; empty data at the end of a stream.
   */
  receive(fd: Descriptor, maxBytes: number): { data: Buffer; fds: Descriptor[]; uid?: number } | undefined;
  /** One send without blocking: bytes taken; undefined when the socket is full. */
  send(fd: Descriptor, data: Uint8Array): number | undefined;
  /**
   * Sends one datagram on a netlink socket and reads until nothing waits. The kernel answers inside the send
   * and refills a dump inside each receive, so this is the whole answer. Blocks the calling thread.
   */
  exchange(fd: Descriptor, data: Uint8Array): Buffer;
  /** A new thread with its queue. */
  lane(): Lane;
  /**
   * Runs steps in order on the lane, each as {@link exchange}. Stops after the first answer that holds a
   * negative NLMSG_ERROR. Resolves to one answer per step that ran; rejects with SystemError. For a step with a
   * namespace the lane's own thread goes there and back; where the way back fails the process aborts. When all
   * steps ran and none was refused, the lane's thread sends the reply, if it is armed by then.
   *
   * The steps are the second part of a job where another was `begun` on this lane: they run when all of that was done,
   * and its answers come first.
   */
  run(lane: Lane, steps: readonly Step[], reply?: Reply, begun?: Begun): Promise<Buffer[]>;
  /** The first part of a job, to be run while the second comes together. What comes of it only `run` tells. */
  begin(lane: Lane, steps: readonly Step[]): Begun;
  /**
   * From now on, until `fd` is closed: whenever a client connects to this listener, the lane's thread wakes up and
   * waits awake for a job, for at most 0.4 ms. A thread that is at work goes on.
   */
  attend(lane: Lane, fd: Descriptor): void;
  /** What may be sent on the stream `fd` at the end of a job, without waiting for Node's thread to wake up. */
  reply(fd: Descriptor): Reply;
  /** Once, with all of it: from here the job's end sends it. Nothing happens when it was taken. */
  armReply(reply: Reply, data: Uint8Array): void;
  /**
   * "ours": not sent, and it will not be; the descriptor may be closed. Else what became of it: all of it is on its
   * way, or not (the other side has gone).
   */
  takeReply(reply: Reply): 'ours' | 'sent' | 'failed';
  /** Calls back each time the descriptor is readable, on Node's loop. */
  poll(fd: Descriptor, callback: () => void): Poll;
  /** Opens a file as seen from inside a network namespace (/proc/sys/net is), on a thread thrown away. */
  openFile(namespaceFd: Descriptor, path: string, flags: number): Descriptor;
  /** Makes a new network namespace and binds it to `path` (an existing empty file), like `ip netns add`. */
  createNamespace(path: string): void;
  /** Lazily unmounts a namespace that is bound to `path`. The file stays. */
  unmountNamespace(path: string): void;
  close(fd: Descriptor): void;
  /** malloc_trim(3): pages that hold nothing any more go back to the system, wherever in the heap they are. */
  trimMemory(): void;
  /**
   * Opens the TUN device of this name, which is made where it is not there; `mustBeNew`: EBUSY where it is. Packets
   * are read and written with a struct virtio_net_hdr in front, TCP uncut.
   */
  openTun(namespaceFd: Descriptor, name: string, mustBeNew: boolean): Descriptor;
  /** From here the device stays when nobody has it open. */
  keepTun(fd: Descriptor): void;
  /** One ETHTOOL_… command with one number (struct ethtool_value), on any socket: the number after it. */
  ethtool(fd: Descriptor, name: string, command: number, value: number): number;
  /**
   * A thread that carries packets between a TUN device and UDP sockets (-1: none of that family) until it is stopped
   * or the device is gone. The descriptors stay the caller's; they must outlive it.
   */
  pump(tunFd: Descriptor, udp4Fd: Descriptor, udp6Fd: Descriptor): Pump;
  /**
   * Replaces the table. Addresses are 16 bytes, IPv4 as ::ffff:0:0/96, in ascending order. `routes`: rows of first
   * and last address, endpoint, port in network order, two zeros; not overlapping. `senders`: whose datagrams are
   * taken.
   */
  setPumpTable(pump: Pump, routes: Uint8Array, senders: Uint8Array): void;
  pumpState(pump: Pump): PumpState;
  stopPump(pump: Pump): void;
}

/** The addon, built by `npm run setup` into `.cache/native/`. */
export const native: Native = createRequire(import.meta.url)('../.cache/native/fairlead.node');
