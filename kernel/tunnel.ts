import { type Cidr, familyOf, type Ip, ipOf, ipToBytes, prefixLengthOf } from '../core/address.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import { type Descriptor, native, type Pump, type PumpState } from '../native/index.ts';
import { KernelError } from './errors.ts';

/** Packets to this network go to that node, as they are, in UDP. */
export interface TunnelRow {
  readonly destination: Cidr;
  readonly endpoint: Ip;
  readonly port: number;
}

export function tunnelKey(row: TunnelRow): string {
  return row.destination;
}

/** What a {@link TunnelTable} carries packets between. */
export interface TunnelEnds {
  /** Name of a TUN device. */
  readonly device: string;
  /** Own addresses, at most one a family: where datagrams come from, and where they are taken. */
  readonly locals: readonly Ip[];
  readonly port: number;
}

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_DGRAM = 2;
const IPPROTO_IP = 0;
const IPPROTO_IPV6 = 41;
const IP_MTU_DISCOVER = 10;
const IPV6_MTU_DISCOVER = 23;
const IPV6_V6ONLY = 26;
/** Where the path is narrower than the interface, outer packets are cut: no packet of a pod is too large. */
const PMTUDISC_DONT = 0;
/** Room for what comes while the thread does not run. */
const SOCKET_BUFFER_BYTES = 8 << 20;
const ROUTE_BYTES = 52;
const ADDRESS_BYTES = 16;

/**
 * Where a thread of the addon sends the packets of a TUN device; it takes packets from these nodes only. The rows
 * are kept by the thread, so all are made again after a start, and when the device was made anew.
 */
export class TunnelTable implements Table<string, TunnelRow>, Disposable {
  readonly name = 'tunnel';
  readonly atomic = true;
  readonly #namespaceFd: Descriptor;
  #ends: TunnelEnds | undefined;
  #rows = new Map<string, TunnelRow>();
  #pump: OpenPump | undefined;

  constructor({ namespaceFd = -1 }: { namespaceFd?: Descriptor | undefined }) {
    this.#namespaceFd = namespaceFd;
  }

  /** Must be called before the first use. Other ends than before: packets are carried between these from now on. */
  between(ends: TunnelEnds): this {
    if (JSON.stringify(ends) !== JSON.stringify(this.#ends)) this.#close();
    this.#ends = ends;
    return this;
  }

  same(wanted: TunnelRow, actual: TunnelRow): boolean {
    return wanted.endpoint === actual.endpoint && wanted.port === actual.port;
  }

  async read(): Promise<Map<string, TunnelRow>> {
    if (this.#pump !== undefined && !native.pumpState(this.#pump.pump).runs) this.#close();
    return new Map(this.#rows);
  }

  async write(changes: readonly Change<string, TunnelRow>[]): Promise<Failure<string>[]> {
    try {
      this.#pump ??= openPump(this.#namespaceFd, this.#ends);
    } catch (error) {
      const [first] = changes;
      const failed = KernelError.from(`tunnel ${this.#ends?.device}`, error) as Error;
      return first === undefined ? [] : [{ key: first.key, kind: first.kind, error: failed }];
    }
    for (const change of changes) {
      if (change.kind === 'delete') this.#rows.delete(change.key);
      else this.#rows.set(change.key, change.wanted);
    }
    const rows = [...this.#rows.values()];
    native.setPumpTable(this.#pump.pump, routesOf(rows), sendersOf(rows));
    return [];
  }

  /** Counts since the start of the thread; undefined when there is none. */
  state(): PumpState | undefined {
    return this.#pump === undefined ? undefined : native.pumpState(this.#pump.pump);
  }

  #close(): void {
    this.#pump?.[Symbol.dispose]();
    this.#pump = undefined;
    this.#rows = new Map();
  }

  /** The device stays. */
  [Symbol.dispose](): void {
    this.#close();
  }
}

interface OpenPump extends Disposable {
  readonly pump: Pump;
}

function openPump(namespaceFd: Descriptor, ends: TunnelEnds | undefined): OpenPump {
  if (ends === undefined) throw new TypeError('a tunnel without ends');
  using stack = new DisposableStack();
  const hold = (fd: Descriptor) => stack.adopt(fd, (open) => native.close(open));
  const tunFd = hold(native.openTun(namespaceFd, ends.device, false));
  const socketOf = (family: 4 | 6) => {
    const local = ends.locals.find((ip) => familyOf(ip) === family);
    return local === undefined ? -1 : hold(openSocket(namespaceFd, local, ends.port));
  };
  const pump = stack.adopt(native.pump(tunFd, socketOf(4), socketOf(6)), (open) => native.stopPump(open));
  const owned = stack.move();
  return { pump, [Symbol.dispose]: () => owned.dispose() };
}

function openSocket(namespaceFd: Descriptor, local: Ip, port: number): Descriptor {
  const is4 = familyOf(local) === 4;
  const fd = native.openSocket(namespaceFd, is4 ? AF_INET : AF_INET6, SOCK_DGRAM, 0, SOCKET_BUFFER_BYTES);
  try {
    if (is4) native.setOption(fd, IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT);
    else {
      native.setOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
      native.setOption(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DONT);
    }
    native.bind(fd, socketAddress(local, port), 0);
    return fd;
  } catch (error) {
    native.close(fd);
    throw error;
  }
}

/** struct sockaddr_in or sockaddr_in6. */
function socketAddress(ip: Ip, port: number): Uint8Array {
  const is4 = familyOf(ip) === 4;
  const bytes = Buffer.alloc(is4 ? 16 : 28);
  bytes.writeUInt16LE(is4 ? AF_INET : AF_INET6, 0);
  bytes.writeUInt16BE(port, 2);
  bytes.set(ipToBytes(ip), is4 ? 4 : 8);
  return bytes;
}

/** The address in 16 bytes, IPv4 as ::ffff:0:0/96. */
function mapped(ip: Ip): Uint8Array {
  const bytes = ipToBytes(ip);
  if (bytes.length === ADDRESS_BYTES) return bytes;
  const longer = new Uint8Array(ADDRESS_BYTES);
  longer.fill(0xff, 10, 12);
  longer.set(bytes, 12);
  return longer;
}

function routesOf(rows: readonly TunnelRow[]): Uint8Array {
  const routes = rows.map(({ destination, endpoint, port }) => {
    const route = Buffer.alloc(ROUTE_BYTES);
    const first = mapped(ipOf(destination));
    const bits = prefixLengthOf(destination) + (familyOf(destination) === 4 ? 96 : 0);
    route.set(first, 0);
    route.set(
      first.map((byte, at) => byte | (255 >>> Math.min(8, Math.max(0, bits - at * 8)))),
      ADDRESS_BYTES,
    );
    route.set(mapped(endpoint), 2 * ADDRESS_BYTES);
    route.writeUInt16BE(port, 3 * ADDRESS_BYTES);
    return route;
  });
  return Buffer.concat(routes.sort(Buffer.compare));
}

function sendersOf(rows: readonly TunnelRow[]): Uint8Array {
  const addresses = [...new Set(rows.map(({ endpoint }) => endpoint))].map(mapped);
  return Buffer.concat(addresses.sort(Buffer.compare));
}
