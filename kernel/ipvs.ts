import { familyOf, type Ip } from '../core/address.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import { type IpvsSocket, isCode, schedulerMissing } from './ipvs-socket.ts';
import { decodeGeneric } from './netlink/generic.ts';
import {
  decodeIpvsDestination,
  decodeIpvsTimeouts,
  encodeIpvsAddress,
  encodeIpvsDestination,
  encodeIpvsService,
  encodeIpvsTimeouts,
  IP_VS_CONN_F_MASQ,
  IP_VS_SVC_F_HASHED,
  IP_VS_SVC_F_PERSISTENT,
  IPVS_CMD_DEL_DEST,
  IPVS_CMD_DEL_SERVICE,
  IPVS_CMD_GET_CONFIG,
  IPVS_CMD_GET_DEST,
  IPVS_CMD_NEW_DEST,
  IPVS_CMD_NEW_SERVICE,
  IPVS_CMD_SET_CONFIG,
  IPVS_CMD_SET_DEST,
  IPVS_CMD_SET_SERVICE,
  type IpvsService,
  type IpvsTimeouts,
} from './netlink/generic-ipvs.ts';
import type { NetlinkMessage } from './netlink/message.ts';
import { Slices } from './nftables-slices.ts';
import { writeRows } from './write.ts';

/**
 * The mark of our virtual servers, in flags that the kernel keeps without reading them: it reads the lowest six
 * (linux/ip_vs.h), and gives back all.
 */
const OUR_FLAGS = 0x46000000;
const OUR_FLAGS_MASK = 0xff000000;

const protocolNumbers = { tcp: 6, udp: 17, sctp: 132 } as const;
type IpvsProtocol = keyof typeof protocolNumbers;

/** Where clients connect to. */
export interface ServerAddress {
  readonly protocol: IpvsProtocol;
  readonly ip: Ip;
  readonly port: number;
}

export interface VirtualServerRow extends ServerAddress {
  /** "rr", "wlc": the kernel's module is ip_vs_NAME. */
  readonly scheduler: string;
  /** IP_VS_SVC_F_SCHED1 to 3 (8, 16, 32): what they mean is the scheduler's to say, `mh-fallback`, `sh-port`… */
  readonly schedulerFlags: number;
  /** For how many seconds after its last connection a client keeps its destination. */
  readonly persistenceSeconds?: number | undefined;
}

/** One destination of a virtual server, reached by address translation. */
export interface DestinationRow {
  readonly server: ServerAddress;
  readonly ip: Ip;
  readonly port: number;
  /** 0: no new connections, and those there are go on. */
  readonly weight: number;
  /** Connections it has, also those in their last states. Read only. */
  readonly connections?: number | undefined;
}

/** `tcp 10.96.0.1:80` */
export function serverKey({ protocol, ip, port }: ServerAddress): string {
  return `${protocol} ${hostPort(ip, port)}`;
}

export function destinationKey({ server, ip, port }: DestinationRow): string {
  return `${serverKey(server)} > ${hostPort(ip, port)}`;
}

function hostPort(ip: Ip, port: number): string {
  return ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`;
}

/** Which virtual servers of those that are there belong to a table, besides those with our mark. */
export type IsOurs = (address: ServerAddress) => boolean;

interface IpvsTableOptions {
  readonly ipvs: IpvsSocket;
  /** Default: none. They are taken over when they are written. */
  readonly isOurs?: IsOurs | undefined;
  /** Never these, whatever mark they have. Default: none. */
  readonly isExcluded?: IsOurs | undefined;
}

function addressOf({ protocol, ip, port }: IpvsService): ServerAddress | undefined {
  const name = protocolNames.get(protocol);
  return name === undefined ? undefined : { protocol: name, ip, port };
}

const protocolNames: ReadonlyMap<number, IpvsProtocol> = new Map(
  Object.entries(protocolNumbers).map(([name, number]) => [number, name as IpvsProtocol]),
);

function isMarked({ flags }: IpvsService): boolean {
  return (flags & OUR_FLAGS_MASK) >>> 0 === OUR_FLAGS;
}

async function readOwn({ ipvs, isOurs, isExcluded }: IpvsTableOptions): Promise<ServerAndService[]> {
  const all = await ipvs.services();
  return all.flatMap((service) => {
    const address = addressOf(service);
    if (address === undefined || isExcluded?.(address)) return [];
    return isMarked(service) || isOurs?.(address) ? [{ address, service }] : [];
  });
}

interface ServerAndService {
  readonly address: ServerAddress;
  readonly service: IpvsService;
}

/** A server that is there without our mark, as a row that equals no wanted one. */
const UNMARKED = -1;

/** The virtual servers that have our mark, or are ours for another reason. Those by firewall mark never are. */
export class VirtualServerTable implements Table<string, VirtualServerRow> {
  readonly name = 'ipvs-server';
  readonly #options: IpvsTableOptions;

  constructor(options: IpvsTableOptions) {
    this.#options = options;
  }

  same(wanted: VirtualServerRow, actual: VirtualServerRow): boolean {
    return (
      wanted.scheduler === actual.scheduler &&
      wanted.schedulerFlags === actual.schedulerFlags &&
      wanted.persistenceSeconds === actual.persistenceSeconds
    );
  }

  async read(): Promise<Map<string, VirtualServerRow>> {
    const own = await readOwn(this.#options);
    return new Map(own.map(({ address, service }) => [serverKey(address), rowFrom(address, service)]));
  }

  async write(changes: readonly Change<string, VirtualServerRow>[]): Promise<Failure<string>[]> {
    const { ipvs } = this.#options;
    const encode = (change: Change<string, VirtualServerRow>) => this.#encode(change);
    const failures = await writeRows(this, ipvs.socket, changes, encode);
    const left = await overwriteExisting(this, ipvs, changes, failures, encode);
    const schedulers = new Map(
      changes.map((change) => [change.key, change.kind === 'delete' ? '' : change.wanted.scheduler]),
    );
    // The only thing that a server names and that may not be there.
    return left.map((failure) => {
      if (failure.kind === 'delete' || !isCode(failure.error, 'ENOENT')) return failure;
      return { ...failure, error: schedulerMissing(schedulers.get(failure.key) ?? '') };
    });
  }

  #encode(change: Change<string, VirtualServerRow>): NetlinkMessage {
    const { ipvs } = this.#options;
    if (change.kind === 'delete') {
      const attributes = encodeIpvsAddress(numbered(change.actual));
      return ipvs.message(IPVS_CMD_DEL_SERVICE, attributes, `IPVS_CMD_DEL_SERVICE ${change.key}`);
    }
    const attributes = encodeIpvsService(serviceFrom(change.wanted));
    const isNew = change.kind === 'create';
    const operation = `IPVS_CMD_${isNew ? 'NEW' : 'SET'}_SERVICE ${change.key} ${change.wanted.scheduler}`;
    return ipvs.message(isNew ? IPVS_CMD_NEW_SERVICE : IPVS_CMD_SET_SERVICE, attributes, operation);
  }
}

function numbered({ protocol, ip, port }: ServerAddress) {
  return { protocol: protocolNumbers[protocol], ip, port };
}

function serviceFrom(row: VirtualServerRow): IpvsService {
  const { scheduler, schedulerFlags, persistenceSeconds } = row;
  const persistent = persistenceSeconds === undefined ? 0 : IP_VS_SVC_F_PERSISTENT;
  return {
    ...numbered(row),
    scheduler,
    flags: (OUR_FLAGS | schedulerFlags | persistent) >>> 0,
    timeoutSeconds: persistenceSeconds ?? 0,
    prefixLength: familyOf(row.ip) === 4 ? 32 : 128,
  };
}

function rowFrom(address: ServerAddress, service: IpvsService): VirtualServerRow {
  const { scheduler, flags, timeoutSeconds, prefixLength } = service;
  const isOneClient = prefixLength === (familyOf(address.ip) === 4 ? 32 : 128);
  const own = flags & ~(OUR_FLAGS_MASK | IP_VS_SVC_F_HASHED | IP_VS_SVC_F_PERSISTENT);
  return {
    ...address,
    scheduler,
    schedulerFlags: isMarked(service) && isOneClient ? own : UNMARKED,
    persistenceSeconds: (flags & IP_VS_SVC_F_PERSISTENT) === 0 ? undefined : timeoutSeconds,
  };
}

/** Rows that somebody else has made in the meantime are overwritten. */
async function overwriteExisting<V>(
  table: Pick<Table<string, V>, 'read' | 'same'>,
  { socket }: IpvsSocket,
  changes: readonly Change<string, V>[],
  failures: readonly Failure<string>[],
  encode: (change: Change<string, V>) => NetlinkMessage,
): Promise<Failure<string>[]> {
  const taken = new Set(failures.filter(({ error }) => isCode(error, 'EEXIST')).map(({ key }) => key));
  if (taken.size === 0) return [...failures];
  const again = changes.flatMap((change): Change<string, V>[] => {
    if (change.kind !== 'create' || !taken.has(change.key)) return [];
    return [{ kind: 'update', key: change.key, wanted: change.wanted, actual: change.wanted }];
  });
  const left = failures.filter(({ key }) => !taken.has(key));
  return [...left, ...(await writeRows(table, socket, again, encode))];
}

/** The destinations of the virtual servers that a {@link VirtualServerTable} with the same options has. */
export class DestinationTable implements Table<string, DestinationRow> {
  readonly name = 'ipvs-destination';
  readonly #options: IpvsTableOptions;

  constructor(options: IpvsTableOptions) {
    this.#options = options;
  }

  same(wanted: DestinationRow, actual: DestinationRow): boolean {
    return wanted.weight === actual.weight;
  }

  async read(): Promise<Map<string, DestinationRow>> {
    const own = await readOwn(this.#options);
    return await this.readOf(own.map(({ address }) => address));
  }

  /** Of these servers only. The kernel lists them server by server. */
  async readOf(servers: Iterable<ServerAddress>): Promise<Map<string, DestinationRow>> {
    const { ipvs } = this.#options;
    const rows = new Map<string, DestinationRow>();
    const slices = new Slices();
    for (const server of servers) {
      const operation = `IPVS_CMD_GET_DEST ${serverKey(server)}`;
      const message = ipvs.message(IPVS_CMD_GET_DEST, encodeIpvsAddress(numbered(server)), operation);
      for (const { payload } of await ipvs.socket.dump(message)) {
        const row = destinationFrom(server, decodeGeneric(payload).attributes);
        rows.set(destinationKey(row), row);
      }
      if (slices.isOver) await slices.next();
    }
    return rows;
  }

  async write(changes: readonly Change<string, DestinationRow>[]): Promise<Failure<string>[]> {
    const { ipvs } = this.#options;
    const failures = await writeRows(this, ipvs.socket, changes, (change) => this.#encode(change));
    return await overwriteExisting(this, ipvs, changes, failures, (change) => this.#encode(change));
  }

  #encode(change: Change<string, DestinationRow>): NetlinkMessage {
    const { server, ip, port, weight } = change.kind === 'delete' ? change.actual : change.wanted;
    const destination = { ip, port, weight, method: IP_VS_CONN_F_MASQ };
    const attributes = encodeIpvsDestination(numbered(server), destination);
    const [verb, command] = destinationVerbs[change.kind];
    return this.#options.ipvs.message(command, attributes, `IPVS_CMD_${verb}_DEST ${change.key}`);
  }
}

const destinationVerbs = {
  create: ['NEW', IPVS_CMD_NEW_DEST],
  update: ['SET', IPVS_CMD_SET_DEST],
  delete: ['DEL', IPVS_CMD_DEL_DEST],
} as const;

function destinationFrom(server: ServerAddress, attributes: Uint8Array): DestinationRow {
  const read = decodeIpvsDestination(attributes, familyOf(server.ip));
  const { ip, port, weight, activeConnections = 0, inactiveConnections = 0 } = read;
  return { server, ip, port, weight, connections: activeConnections + inactiveConnections };
}

/**
 * Keys: tcpSeconds, tcpFinSeconds, udpSeconds. They are the namespace's, so there is no mark of ownership on them: the
 * table is of the keys it is given, and none is ever removed.
 */
export class IpvsTimeoutTable implements Table<string, number> {
  readonly name = 'ipvs-timeout';
  readonly #ipvs: IpvsSocket;
  readonly #keys: ReadonlySet<string>;

  constructor({ ipvs, keys }: { ipvs: IpvsSocket; keys: Iterable<string> }) {
    this.#ipvs = ipvs;
    this.#keys = new Set(keys);
  }

  same(wanted: number, actual: number): boolean {
    return wanted === actual;
  }

  async read(): Promise<Map<string, number>> {
    const message = this.#ipvs.message(IPVS_CMD_GET_CONFIG, new Uint8Array(), 'IPVS_CMD_GET_CONFIG');
    const [answer] = await this.#ipvs.socket.request(message);
    if (answer === undefined) return new Map();
    const timeouts = decodeIpvsTimeouts(decodeGeneric(answer.payload).attributes);
    return new Map(Object.entries(timeouts).filter(([key]) => this.#keys.has(key)));
  }

  async write(changes: readonly Change<string, number>[]): Promise<Failure<string>[]> {
    const made = changes.filter((change) => change.kind !== 'delete');
    if (made.length === 0) return [];
    const wanted: IpvsTimeouts = {
      tcpSeconds: 0,
      tcpFinSeconds: 0,
      udpSeconds: 0,
      ...Object.fromEntries(made.map((change) => [change.key, change.wanted])),
    };
    const attributes = encodeIpvsTimeouts(wanted);
    const message = this.#ipvs.message(IPVS_CMD_SET_CONFIG, attributes, 'IPVS_CMD_SET_CONFIG');
    const [error] = await this.#ipvs.socket.submit([message]);
    return error === undefined ? [] : made.map(({ key, kind }) => ({ key, kind, error }));
  }
}

/** Of the networks that are for examples only (RFC 5737): nobody is served there. */
const PROBE = { protocol: 'tcp', ip: '198.51.100.0' as Ip, port: 20_000, schedulerFlags: 0 } as const;

/**
 * Makes a virtual server with this scheduler, looks whether it is there as asked for, and takes it away.
 * Throws IpvsMissingError where the kernel lacks the scheduler.
 */
export async function probeScheduler(ipvs: IpvsSocket, scheduler: string): Promise<void> {
  const table = new VirtualServerTable({ ipvs });
  const wanted: VirtualServerRow = { ...PROBE, scheduler };
  const key = serverKey(wanted);
  const [failure] = await table.write([{ kind: 'create', key, wanted }]);
  if (failure !== undefined) throw failure.error;
  const there = (await table.read()).get(key);
  if (there !== undefined) await table.write([{ kind: 'delete', key, actual: there }]);
  if (there?.scheduler !== scheduler) throw schedulerMissing(scheduler);
}
