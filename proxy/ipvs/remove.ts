import { setTimeout as sleep } from 'node:timers/promises';
import type { Ip } from '../../core/address.ts';
import { reconcile } from '../../core/reconcile.ts';
import { layer } from '../../core/rows.ts';
import {
  type DestinationRow,
  DestinationTable,
  serverKey,
  type VirtualServerRow,
  VirtualServerTable,
} from '../../kernel/ipvs.ts';
import { IpvsMissingError, IpvsSocket } from '../../kernel/ipvs-socket.ts';
import { LinkIndex } from '../../kernel/linkindex.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { DEVICE, DeviceAddressTable, DeviceTable } from './device.ts';

/** How often connections are counted that still go over virtual servers. */
const LOOK_INTERVAL_MS = 2_000;
const DRAIN_MS = 15 * 60_000;

export interface RemoveOptions {
  /** The node's network namespace; else that of the process. */
  readonly namespaceFd?: number | undefined;
}

export interface RetireOptions extends RemoveOptions {
  /** Ends the waiting; what is left stays, to be found by the next. */
  readonly signal: AbortSignal;
  /** For how long at most connections are waited for; default 15 minutes. */
  readonly drainMs?: number | undefined;
  readonly lookIntervalMs?: number | undefined;
}

/** Takes away virtual servers and the device, and with them open connections. What was there, in words. */
export async function removeIpvs(options: RemoveOptions = {}): Promise<string[]> {
  using left = await openLeft(options);
  if (left === undefined) return [];
  const { servers, device } = await left.removeAll();
  return [
    ...(servers > 0 ? [`${servers} virtual servers of IPVS`] : []),
    ...(device ? [`the device ${DEVICE}`] : []),
  ];
}

/**
 * Takes the same away for another mode, whose rules are in place and have all new connections: virtual servers stay
 * for those that they have, as long as these last.
 */
export async function retireIpvs({
  signal,
  drainMs = DRAIN_MS,
  lookIntervalMs = LOOK_INTERVAL_MS,
  ...options
}: RetireOptions): Promise<string[]> {
  const endMs = performance.now() + drainMs;
  using left = await openLeft(options);
  if (left === undefined) return [];
  const before = await left.retire();
  while (performance.now() < endMs && !signal.aborted) {
    if ((await left.removeIdle()) === 0) break;
    await sleep(lookIntervalMs, undefined, { signal }).catch(() => {});
  }
  if (signal.aborted) return [];
  const { device } = await left.removeAll();
  return [
    ...(before > 0 ? [`${before} virtual servers of IPVS`] : []),
    ...(device ? [`the device ${DEVICE}`] : []),
  ];
}

/** Undefined: there can be nothing, for there is no IPVS. */
async function openLeft({ namespaceFd }: RemoveOptions): Promise<LeftServers | undefined> {
  using stack = new DisposableStack();
  const inside = namespaceFd === undefined ? {} : { namespaceFd };
  const route = stack.use(NetlinkSocket.open(NETLINK_ROUTE, inside));
  const ipvs = await IpvsSocket.open({ ...inside, load: false }).catch((error: unknown) => {
    if (error instanceof IpvsMissingError) return undefined;
    throw error;
  });
  if (ipvs !== undefined) stack.use(ipvs);
  const addresses = new DeviceAddressTable({ socket: route });
  const hasDevice = (await LinkIndex.lookUp(route, [DEVICE])).named(DEVICE) !== undefined;
  if (ipvs === undefined && !hasDevice) return undefined;
  return new LeftServers({ route, ipvs, addresses }, stack.move());
}

/** What another mode has to do with: servers with our mark, and those on our device's addresses. */
class LeftServers implements Disposable {
  readonly #addresses: DeviceAddressTable;
  readonly #device: DeviceTable;
  readonly #servers: VirtualServerTable | undefined;
  readonly #destinations: DestinationTable | undefined;
  readonly #stack: DisposableStack;
  #held: ReadonlySet<Ip> = new Set();

  constructor(
    {
      route,
      ipvs,
      addresses,
    }: { route: NetlinkSocket; ipvs: IpvsSocket | undefined; addresses: DeviceAddressTable },
    stack: DisposableStack,
  ) {
    const isOurs = ({ ip }: { readonly ip: Ip }) => this.#held.has(ip);
    this.#addresses = addresses;
    this.#device = new DeviceTable({ socket: route });
    this.#servers = ipvs && new VirtualServerTable({ ipvs, isOurs });
    this.#destinations = ipvs && new DestinationTable({ ipvs, isOurs });
    this.#stack = stack;
  }

  async #readServers(): Promise<Map<string, VirtualServerRow>> {
    // A device of the name that is not marked is taken for kube-proxy's, and gets our mark.
    await this.#device.read();
    this.#held = new Set((await this.#addresses.read()).values());
    return (await this.#servers?.read()) ?? new Map();
  }

  /** No new connections; how many servers there are. */
  async retire(): Promise<number> {
    const servers = await this.#readServers();
    if (this.#destinations === undefined) return servers.size;
    const rows = await this.#destinations.readOf(servers.values());
    const changes = [...rows].flatMap(([key, actual]) => {
      const wanted: DestinationRow = { ...actual, weight: 0 };
      return actual.weight === 0 ? [] : [{ kind: 'update', key, wanted, actual } as const];
    });
    await this.#destinations.write(changes);
    return servers.size;
  }

  /** Servers without a connection go, and addresses without a server; how many servers are left. */
  async removeIdle(): Promise<number> {
    const servers = await this.#readServers();
    const rows = (await this.#destinations?.readOf(servers.values())) ?? new Map<string, DestinationRow>();
    const busy = new Set<string>();
    for (const { server, connections = 0 } of rows.values()) if (connections > 0) busy.add(serverKey(server));
    const keptServers = new Map([...servers].filter(([key]) => busy.has(key)));
    const keptIps = [...keptServers.values()].map(({ ip }) => ip).filter((ip) => this.#held.has(ip));
    await reconcile([
      ...(this.#servers === undefined ? [] : [layer(this.#servers, keptServers)]),
      layer(this.#addresses, new Map(keptIps.map((ip) => [ip, ip]))),
    ]);
    return keptServers.size;
  }

  async removeAll(): Promise<{ servers: number; device: boolean }> {
    const servers = await this.#readServers();
    const device = (await this.#device.read()).size > 0;
    const { failures } = await reconcile([
      layer(this.#device, new Map()),
      ...(this.#servers === undefined ? [] : [layer(this.#servers, new Map())]),
    ]);
    if (failures[0] !== undefined) throw failures[0].error;
    return { servers: servers.size, device };
  }

  [Symbol.dispose](): void {
    this.#stack[Symbol.dispose]();
  }
}
