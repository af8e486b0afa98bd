import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { type BusCall, type BusReply, type BusValue, decodeMessage, encodeCall } from './message.ts';

/** Where the system's bus is when the environment does not say; the specification's path is a link to it. */
const systemBusPath = '/run/dbus/system_bus_socket';
const greetingBytesMax = 4096;

const busService = {
  destination: 'org.freedesktop.DBus',
  path: '/org/freedesktop/DBus',
  interface: 'org.freedesktop.DBus',
} as const;

/** The bus, or the service that was called, refused. */
export class BusError extends Error {
  override readonly name = 'BusError';
  /** As `org.freedesktop.DBus.Error.ServiceUnknown`. */
  readonly error: string;

  constructor(error: string, message: string) {
    super(message === '' ? error : message);
    this.error = error;
  }
}

/** No answer within the time: whether the call was served is not known. */
export class BusTimeoutError extends Error {
  override readonly name = 'BusTimeoutError';
}

/** Nobody is at the bus by that name, or there is no bus. */
export function isAbsent(error: unknown): boolean {
  if (error instanceof BusError) return absentErrors.has(error.error);
  const { code } = (error ?? {}) as { code?: unknown };
  return code === 'ENOENT' || code === 'ECONNREFUSED';
}

const absentErrors: ReadonlySet<string> = new Set(
  ['ServiceUnknown', 'NameHasNoOwner', 'NoReply', 'Disconnected'].map(
    (name) => `org.freedesktop.DBus.Error.${name}`,
  ),
);

/**
 * Path of the socket that an address of the bus names, as in DBUS_SYSTEM_BUS_ADDRESS: the first of its addresses that is
 * one. Throws for other kinds.
 */
export function parseBusAddress(address: string | undefined): string {
  if (address === undefined || address === '') return systemBusPath;
  for (const one of address.split(';')) {
    const [, kind, value] = /^unix:(?:[^,]*,)*?(path|abstract)=([^,]+)/.exec(one) ?? [];
    if (value !== undefined) return (kind === 'abstract' ? '\0' : '') + decodeURIComponent(value);
  }
  throw new Error(`DBUS_SYSTEM_BUS_ADDRESS: ${JSON.stringify(address)} names no unix socket`);
}

export interface BusOptions {
  readonly path: string;
  /** For all that is asked of it. */
  readonly timeoutMs: number;
}

/** A connection to a bus, for a few calls one after the other. What goes wrong ends it. */
export class Bus implements Disposable {
  readonly #socket: Socket;
  readonly #signal: AbortSignal;
  #received = Buffer.alloc(0);
  #serial = 0;

  private constructor(socket: Socket, signal: AbortSignal) {
    this.#socket = socket;
    this.#signal = signal;
    // Whoever waits is told; else nobody needs to know.
    socket.on('error', () => {});
  }

  /** Throws what the system says, BusError or BusTimeoutError. */
  static async open({ path, timeoutMs }: BusOptions): Promise<Bus> {
    const bus = new Bus(createConnection(path), AbortSignal.timeout(timeoutMs));
    try {
      await bus.#waitFor('connect');
      await bus.#authenticate();
      await bus.call({ ...busService, member: 'Hello' });
      return bus;
    } catch (error) {
      bus[Symbol.dispose]();
      throw error;
    }
  }

  /** The first value of the answer. Throws as {@link open}. */
  async call(call: BusCall): Promise<BusValue | undefined> {
    this.#serial += 1;
    const serial = this.#serial;
    this.#socket.write(encodeCall(call, serial));
    for (;;) {
      const reply = await this.#next();
      if (reply?.to !== serial) continue;
      if (reply.error !== undefined) throw new BusError(reply.error, String(reply.value ?? ''));
      return reply.value;
    }
  }

  /** Unique name of who has a name. Throws as {@link open}. */
  ownerOf(name: string): Promise<BusValue | undefined> {
    return this.call({ ...busService, member: 'GetNameOwner', args: [name] });
  }

  /** Process of who has a name, as the bus sees it. Throws as {@link open}. */
  processOf(name: string): Promise<BusValue | undefined> {
    return this.call({ ...busService, member: 'GetConnectionUnixProcessID', args: [name] });
  }

  /** By the user that the kernel says we are. */
  async #authenticate(): Promise<void> {
    const user = Buffer.from(String(process.geteuid?.() ?? 0)).toString('hex');
    this.#socket.write(`\0AUTH EXTERNAL ${user}\r\nBEGIN\r\n`);
    for (;;) {
      const end = this.#received.indexOf('\r\n');
      if (end >= 0) {
        const line = this.#received.toString('latin1', 0, end);
        this.#received = this.#received.subarray(end + 2);
        if (line.startsWith('OK ')) return;
        throw new BusError('REJECTED', `the bus does not let us in: ${line}`);
      }
      if (this.#received.length > greetingBytesMax) throw new Error('this is no bus');
      await this.#receive();
    }
  }

  async #next(): Promise<BusReply | undefined> {
    for (;;) {
      const message = decodeMessage(this.#received);
      if (message !== undefined) {
        this.#received = this.#received.subarray(message.length);
        return message.reply;
      }
      await this.#receive();
    }
  }

  async #receive(): Promise<void> {
    for (;;) {
      const chunk: Buffer | null = this.#socket.read();
      if (chunk !== null) {
        this.#received = Buffer.concat([this.#received, chunk]);
        return;
      }
      if (this.#socket.readableEnded || this.#socket.destroyed) {
        throw new BusError('org.freedesktop.DBus.Error.Disconnected', 'the bus ended the connection');
      }
      await this.#waitFor('readable');
    }
  }

  async #waitFor(event: 'connect' | 'readable'): Promise<void> {
    const [signal, socket] = [this.#signal, this.#socket];
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    try {
      await Promise.race([event, 'close'].map((name) => once(socket, name, { signal: either })));
    } catch (error) {
      if (signal.aborted) throw new BusTimeoutError('the bus did not answer in time');
      throw error;
    } finally {
      stop.abort();
    }
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}
