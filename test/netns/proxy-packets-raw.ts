import { execFile } from 'node:child_process';
import { readSync } from 'node:fs';
import { promisify } from 'node:util';
import { type Family, familyOf, type Ip, ipFromBytes, ipToBytes } from '../../core/address.ts';
import { type Namespace, openNamespace } from '../../kernel/netns.ts';
import { type Descriptor, native, type Poll } from '../../native/index.ts';
import { nft } from './proxy-lab.ts';

/*
 * Packets as bytes, sent and heard on the wire: for protocols that not every kernel has sockets for. The kernel of the
 * machine itself is kept out of it by a rule in its input hook, which packets meet after they were heard.
 */

const run = promisify(execFile);

const AF_PACKET = 17;
const SOCK_RAW = 3;
const etherTypes = { 4: 0x0800, 6: 0x86dd } as const;
export const ipProtocols = { icmp: 1, icmp6: 58, sctp: 132 } as const;
const ETHERNET_BYTES = 14;
const IPV6_BYTES = 40;
const FRAME_BYTES_MAX = 2048;
const silence = `table inet raw-port
  delete table inet raw-port
  table inet raw-port {
    chain input {
      type filter hook input priority 0
      meta l4proto sctp drop
    }
  }`;

/** An IP packet without its header. */
export interface RawPacket {
  readonly source: Ip;
  readonly destination: Ip;
  readonly protocol: number;
  readonly payload: Buffer;
}

/** One interface, `eth0`, of a namespace of the lab. */
export class RawPort implements Disposable {
  readonly #namespace: Namespace;
  readonly #fds: readonly Descriptor[];
  readonly #polls: readonly Poll[];
  readonly #header: Buffer;
  readonly #listeners = new Set<(packet: RawPacket) => void>();

  private constructor(namespace: Namespace, link: LinkWords, gatewayMac: string) {
    this.#namespace = namespace;
    this.#header = Buffer.concat([macBytes(gatewayMac), macBytes(link.address)]);
    this.#fds = [4, 6].map((family) => openPacketSocket(namespace, link.ifindex, family as Family));
    this.#polls = this.#fds.map((fd) => native.poll(fd, () => this.#read(fd)));
  }

  /** `gateway`: the namespace and device that packets to other networks go to. */
  static async open(namespace: string, gateway: readonly [string, string]): Promise<RawPort> {
    const [own, next] = await Promise.all([linkOf(namespace, 'eth0'), linkOf(...gateway)]);
    await nft(namespace, ['-f', '-'], silence);
    return new RawPort(openNamespace(`/run/netns/${namespace}`), own, next.address);
  }

  /** To the gateway. */
  send(packet: RawPacket): void {
    const family = familyOf(packet.source);
    const type = Buffer.alloc(2);
    type.writeUInt16BE(etherTypes[family]);
    const frame = Buffer.concat([this.#header, type, headerOf(packet, family), packet.payload]);
    native.send(this.#fds[family === 4 ? 0 : 1] ?? -1, frame);
  }

  /** Calls back with each packet that comes, or goes, until the function that it gives is called. */
  listen(listener: (packet: RawPacket) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #read(fd: Descriptor): void {
    for (;;) {
      const frame = readFrame(fd);
      if (frame === undefined) return;
      const packet = parseFrame(frame);
      if (packet !== undefined) for (const listener of [...this.#listeners]) listener(packet);
    }
  }

  [Symbol.dispose](): void {
    for (const poll of this.#polls) poll.stop();
    for (const fd of this.#fds) native.close(fd);
    this.#namespace[Symbol.dispose]();
  }
}

/** Not `native.receive`, which asks for descriptors as well: sockets of packets refuse that. */
function readFrame(fd: Descriptor): Buffer | undefined {
  const frame = Buffer.alloc(FRAME_BYTES_MAX);
  try {
    return frame.subarray(0, readSync(fd, frame));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return undefined;
    throw error;
  }
}

interface LinkWords {
  readonly ifindex: number;
  readonly address: string;
}

async function linkOf(namespace: string, device: string): Promise<LinkWords> {
  const { stdout } = await run('ip', ['-n', namespace, '-j', 'link', 'show', device]);
  return (JSON.parse(stdout) as LinkWords[])[0] as LinkWords;
}

function macBytes(text: string): Buffer {
  return Buffer.from(text.replaceAll(':', ''), 'hex');
}

/** What it sends goes to this interface: struct sockaddr_ll. */
function openPacketSocket({ fd: namespaceFd }: Namespace, index: number, family: Family): Descriptor {
  const fd = native.openSocket(namespaceFd, AF_PACKET, SOCK_RAW, 0, 0);
  const address = Buffer.alloc(20);
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeUInt16BE(etherTypes[family], 2);
  address.writeInt32LE(index, 4);
  native.bind(fd, address, 0);
  return fd;
}

function headerOf({ source, destination, protocol, payload }: RawPacket, family: Family): Buffer {
  const addresses = Buffer.concat([ipToBytes(source), ipToBytes(destination)]);
  if (family === 6) {
    const start = Buffer.from([0x60, 0, 0, 0, 0, 0, protocol, 64]);
    start.writeUInt16BE(payload.length, 4);
    return Buffer.concat([start, addresses]);
  }
  const start = Buffer.from([0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
  start.writeUInt16BE(20 + payload.length, 2);
  const header = Buffer.concat([start, addresses]);
  header.writeUInt16BE(internetChecksum(header), 10);
  return header;
}

function parseFrame(frame: Buffer): RawPacket | undefined {
  const packet = frame.subarray(ETHERNET_BYTES);
  if (frame.readUInt16BE(12) === etherTypes[6]) {
    return {
      source: ipFromBytes(packet.subarray(8, 24)),
      destination: ipFromBytes(packet.subarray(24, 40)),
      protocol: packet.readUInt8(6),
      payload: packet.subarray(IPV6_BYTES, IPV6_BYTES + packet.readUInt16BE(4)),
    };
  }
  const headerBytes = 4 * (packet.readUInt8(0) & 15);
  return {
    source: ipFromBytes(packet.subarray(12, 16)),
    destination: ipFromBytes(packet.subarray(16, 20)),
    protocol: packet.readUInt8(9),
    payload: packet.subarray(headerBytes, packet.readUInt16BE(2)),
  };
}

/** RFC 1071 */
function internetChecksum(bytes: Buffer): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

function echoRequest(source: Ip, destination: Ip): RawPacket {
  const isV4 = familyOf(source) === 4;
  const protocol = isV4 ? ipProtocols.icmp : ipProtocols.icmp6;
  const payload = Buffer.from([isV4 ? 8 : 128, 0, 0, 0, 0x46, 0x4c, 0, 1]);
  const ends = Buffer.concat([ipToBytes(source), ipToBytes(destination)]);
  const pseudo = isV4 ? Buffer.alloc(0) : Buffer.concat([ends, Buffer.from([0, 0, 0, 8, 0, 0, 0, protocol])]);
  payload.writeUInt16BE(internetChecksum(Buffer.concat([pseudo, payload])), 2);
  return { source, destination, protocol, payload };
}

/** What an ICMP or ICMPv6 message says of a packet that was sent. */
export interface Unreachable {
  /** Its port is; else: the host, the protocol, or whatever the code means. */
  readonly isPort: boolean;
  readonly code: number;
  readonly destination: Ip;
  /** The first bytes behind the IP header. */
  readonly transport: Buffer;
}

export function parseUnreachable({ protocol, payload }: RawPacket): Unreachable | undefined {
  if (protocol !== ipProtocols.icmp && protocol !== ipProtocols.icmp6) return undefined;
  const isV4 = protocol === ipProtocols.icmp;
  const [type, code] = [payload.readUInt8(0), payload.readUInt8(1)];
  const innerBytes = 8 + (isV4 ? 20 : IPV6_BYTES);
  if (type !== (isV4 ? 3 : 1) || payload.length < innerBytes + 8) return undefined;
  return {
    isPort: code === (isV4 ? 3 : 4),
    code,
    destination: ipFromBytes(payload.subarray(innerBytes - (isV4 ? 4 : 16), innerBytes)),
    transport: payload.subarray(innerBytes),
  };
}

/** What comes of a request for an echo: `echo`, `refused`, or `no answer`. */
export async function ping(client: RawPort, source: Ip, destination: Ip, timeoutMs: number): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  const stop = client.listen((packet) => {
    const unreachable = parseUnreachable(packet);
    if (unreachable?.destination === destination)
      resolve(unreachable.isPort ? 'refused' : `unreachable, code ${unreachable.code}`);
    const isIcmp = packet.protocol === ipProtocols.icmp || packet.protocol === ipProtocols.icmp6;
    if (isIcmp && packet.source === destination && [0, 129].includes(packet.payload.readUInt8(0)))
      resolve('echo');
  });
  const timer = setTimeout(() => resolve('no answer'), timeoutMs);
  client.send(echoRequest(source, destination));
  try {
    return await promise;
  } finally {
    stop();
    clearTimeout(timer);
  }
}
