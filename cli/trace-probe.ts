import dgram from 'node:dgram';
import { once } from 'node:events';
import net from 'node:net';
import { type Family, familyOf, type Ip, ipToBytes } from '../core/address.ts';
import { type Descriptor, native } from '../native/index.ts';

/** What came back, in a word: `connected`, `answered`, `no answer`, or an error such as `ECONNREFUSED`. */
export type ProbeAnswer = string;

/** A socket that is about to send one packet: its port is known before. */
export interface Probe extends Disposable {
  readonly port: number;
  send(to: { readonly ip: Ip; readonly port: number }, timeoutMs: number): Promise<ProbeAnswer>;
}

interface ProbeOptions {
  readonly source: Ip;
  readonly protocol: 'tcp' | 'udp';
  readonly namespaceFd: Descriptor;
}

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;

/** Throws a SystemError; EADDRNOTAVAIL: the source is no address of the namespace. */
export function openProbe(options: ProbeOptions): Promise<Probe> {
  return options.protocol === 'tcp' ? openTcp(options) : openUdp(options);
}

/** A socket that is made in the namespace, and bound to the source and any port. */
function openBound({ source, protocol, namespaceFd }: ProbeOptions): Descriptor {
  const family = familyOf(source);
  const type = protocol === 'tcp' ? SOCK_STREAM : SOCK_DGRAM;
  const fd = native.openSocket(namespaceFd, family === 4 ? AF_INET : AF_INET6, type, 0, 0);
  try {
    native.bind(fd, socketAddress(source, family), 0);
    return fd;
  } catch (error) {
    native.close(fd);
    throw error;
  }
}

/** struct sockaddr_in or sockaddr_in6 without a port. */
function socketAddress(ip: Ip, family: Family): Uint8Array {
  const bytes = Buffer.alloc(family === 4 ? 16 : 28);
  bytes.writeUInt16LE(family === 4 ? AF_INET : AF_INET6, 0);
  bytes.set(ipToBytes(ip), family === 4 ? 4 : 8);
  return bytes;
}

async function openTcp(options: ProbeOptions): Promise<Probe> {
  // Node reads at once from a descriptor that it is given, and this one is not connected yet.
  const settings = { fd: openBound(options), manualStart: true };
  const socket = new net.Socket(settings);
  return {
    port: socket.localPort ?? 0,
    async send({ ip, port }, timeoutMs) {
      socket.connect({ host: ip, port });
      return await answerOf(once(socket, 'connect', { signal: AbortSignal.timeout(timeoutMs) }), 'connected');
    },
    // A reset would wait for the connection that does not come about.
    [Symbol.dispose]: () => void (socket.connecting ? socket.destroy() : socket.resetAndDestroy()),
  };
}

async function openUdp(options: ProbeOptions): Promise<Probe> {
  const socket = dgram.createSocket(familyOf(options.source) === 4 ? 'udp4' : 'udp6');
  const listening = once(socket, 'listening');
  socket.bind({ fd: openBound(options) });
  await listening;
  return {
    port: socket.address().port,
    async send({ ip, port }, timeoutMs) {
      const connected = once(socket, 'connect');
      socket.connect(port, ip);
      await connected;
      const answer = once(socket, 'message', { signal: AbortSignal.timeout(timeoutMs) });
      socket.send(Buffer.alloc(0), () => {});
      return await answerOf(answer, 'answered');
    },
    [Symbol.dispose]: () => void socket.close(),
  };
}

async function answerOf(event: Promise<unknown>, good: string): Promise<ProbeAnswer> {
  try {
    await event;
    return good;
  } catch (error) {
    const { name, code } = error as NodeJS.ErrnoException;
    return name === 'AbortError' ? 'no answer' : (code ?? name);
  }
}
