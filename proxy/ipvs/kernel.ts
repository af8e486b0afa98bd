import { type Family, families } from '../../core/address.ts';
import { diff } from '../../core/diff.ts';
import { applyChanges, reconcile } from '../../core/reconcile.ts';
import { type Change, layer, type Table } from '../../core/rows.ts';
import {
  type DestinationRow,
  DestinationTable,
  IpvsTimeoutTable,
  probeScheduler,
  type ServerAddress,
  type VirtualServerRow,
  VirtualServerTable,
} from '../../kernel/ipvs.ts';
import { IpvsMissingError, IpvsSocket } from '../../kernel/ipvs-socket.ts';
import { openLane } from '../../kernel/lane.ts';
import { LinkIndex } from '../../kernel/linkindex.ts';
import type { NftElement, NftLayout } from '../../kernel/netlink/nftables/spec.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { ForeignChanges, LAYOUT_MISSING, NftTable, openNftSocket } from '../../kernel/nftables.ts';
import { TableGlance } from '../../kernel/nftables-glance.ts';
import { SysctlTable } from '../../kernel/sysctl.ts';
import type { SyncResult } from '../backend.ts';
import type { IpvsSettings } from '../config/config.ts';
import { DEVICE, DeviceAddressTable, DeviceTable, deviceRow } from './device.ts';
import { ipvsSysctls, ipvsTimeouts } from './kernel-settings.ts';
import type { IpvsPlan, PlanChanges } from './plan.ts';
import { schedulersBeside } from './schedulers.ts';

export interface KernelOptions {
  readonly plan: IpvsPlan;
  readonly settings: IpvsSettings;
  readonly layouts: Readonly<Partial<Record<Family, NftLayout>>>;
  readonly namespaceFd?: number | undefined;
  /** Whether a virtual server without our mark is one that kube-proxy has left to us. */
  readonly isLeft: (address: ServerAddress) => boolean;
  readonly onRefused?: ((error: Error) => void) | undefined;
}

/** All tables of the kernel that the mode writes, in one network namespace. */
export class IpvsKernel implements Disposable {
  readonly servers: VirtualServerTable;
  readonly destinations: DestinationTable;
  readonly addresses: DeviceAddressTable;
  readonly foreign: ForeignChanges;
  readonly #options: KernelOptions;
  readonly #ipvs: IpvsSocket;
  readonly #route: NetlinkSocket;
  readonly #device: DeviceTable;
  readonly #nft: readonly OpenTable[];
  #schedulers: ReadonlySet<string> = new Set();
  #stack: DisposableStack;

  private constructor(options: KernelOptions, ipvs: IpvsSocket, stack: DisposableStack) {
    const { namespaceFd, isLeft } = options;
    const inside = namespaceFd === undefined ? {} : { namespaceFd };
    this.#options = options;
    this.#ipvs = ipvs;
    this.#route = stack.use(NetlinkSocket.open(NETLINK_ROUTE, inside));
    this.#device = new DeviceTable({ socket: this.#route });
    this.addresses = new DeviceAddressTable({ socket: this.#route });
    this.servers = new VirtualServerTable({ ipvs, isOurs: isLeft });
    this.destinations = new DestinationTable({ ipvs, isOurs: isLeft });
    const socket = stack.use(openNftSocket(inside));
    const reader = stack.use(openNftSocket({ ...inside, lane: stack.use(openLane()) }));
    this.foreign = new ForeignChanges(socket);
    this.#nft = openTables(options, { socket, reader });
    this.#stack = stack;
  }

  /** Throws IpvsMissingError where the kernel has no IPVS, or no such scheduler. */
  static async open(options: KernelOptions): Promise<IpvsKernel> {
    using stack = new DisposableStack();
    const ipvs = stack.use(await IpvsSocket.open({ namespaceFd: options.namespaceFd }));
    const { scheduler } = options.settings;
    await probeScheduler(ipvs, scheduler);
    const kernel = new IpvsKernel(options, ipvs, stack);
    kernel.#schedulers = new Set([scheduler, ...(await thereOf(ipvs, schedulersBeside(scheduler)))]);
    kernel.#stack = stack.move();
    return kernel;
  }

  /** Those of the ones that services may need. */
  get schedulers(): ReadonlySet<string> {
    return this.#schedulers;
  }

  /** Settings and device: as they must be, whoever changed them. Throws the first failure. */
  async prepare(): Promise<number> {
    const { settings, namespaceFd = -1 } = this.#options;
    const sysctls = ipvsSysctls(settings);
    const timeouts = ipvsTimeouts(settings);
    const table = new SysctlTable({ keys: [...sysctls.keys()], namespaceFd });
    const { writes, failures } = await reconcile([
      layer(table, sysctls),
      layer(new IpvsTimeoutTable({ ipvs: this.#ipvs, keys: timeouts.keys() }), timeouts),
      layer(this.#device, new Map([[DEVICE, deviceRow]])),
    ]);
    if (failures[0] !== undefined) throw failures[0].error;
    return writes;
  }

  /** Undefined: there is no such device. */
  async deviceIndex(): Promise<number | undefined> {
    return (await LinkIndex.lookUp(this.#route, [DEVICE])).named(DEVICE)?.index;
  }

  /** What the kernel has, less what the plan wants. */
  async differences(actual: ActualRows): Promise<PlanChanges> {
    const { plan } = this.#options;
    const elements: Record<Family, Change<string, NftElement>[]> = { 4: [], 6: [] };
    for (const { family, table, glance } of this.#nft) {
      glance.forget();
      elements[family] = changesOf(table, plan.elements[family].rows(), await table.read());
    }
    return {
      addresses: changesOf(this.addresses, plan.addresses.rows(), await this.addresses.read()),
      servers: changesOf(this.servers, plan.servers.rows(), actual.servers),
      destinations: changesOf(this.destinations, plan.destinations.rows(), actual.destinations),
      elements,
    };
  }

  /** Whether much of the tables of nftables is gone: a few short messages. */
  async areTablesDamaged(): Promise<boolean> {
    for (const { table, glance } of this.#nft) {
      if (await glance.isDamaged(table.timesMade, [])) return true;
    }
    return false;
  }

  async read(): Promise<ActualRows> {
    const servers = await this.servers.read();
    return { servers, destinations: await this.destinations.readOf(servers.values()) };
  }

  /**
   * What is to be masqueraded is marked before there is a server that takes it, and what was refused comes to the
   * server when it is there; the address that leads to all of it comes last, and goes first.
   */
  async write({ addresses, servers, destinations, elements }: PlanChanges): Promise<SyncResult> {
    const made = this.#nft.map(({ table }) => table.timesMade);
    const first = await applyChanges(
      this.#nft.map(({ family, table }) => step(table, elements[family].filter(isFirst))),
    );
    // A table that was made anew holds everything already.
    const rest = this.#nft.flatMap(({ family, table }, index) => {
      if (table.timesMade !== made[index]) return [];
      return [
        step(
          table,
          elements[family].filter((change) => !isFirst(change)),
        ),
      ];
    });
    const second = await applyChanges([
      step(this.servers, servers),
      step(this.destinations, destinations),
      ...rest,
      step(this.addresses, addresses),
    ]);
    return {
      writes: first.writes + second.writes,
      failures: [...first.failures, ...second.failures],
    };
  }

  [Symbol.dispose](): void {
    this.#stack[Symbol.dispose]();
  }
}

async function thereOf(ipvs: IpvsSocket, names: readonly string[]): Promise<string[]> {
  const there: string[] = [];
  for (const name of names) {
    try {
      await probeScheduler(ipvs, name);
      there.push(name);
    } catch (error) {
      if (!(error instanceof IpvsMissingError)) throw error;
    }
  }
  return there;
}

/** What the kernel has of servers that are ours. */
export interface ActualRows {
  readonly servers: ReadonlyMap<string, VirtualServerRow>;
  readonly destinations: ReadonlyMap<string, DestinationRow>;
}

/** The table of one family. */
interface OpenTable {
  readonly family: Family;
  readonly table: NftTable;
  readonly glance: TableGlance;
}

function openTables(
  { plan, layouts, onRefused }: KernelOptions,
  sockets: { readonly socket: NetlinkSocket; readonly reader: NetlinkSocket },
): OpenTable[] {
  return families.flatMap((family) => {
    const layout = layouts[family];
    if (layout === undefined) return [];
    const rows = () => plan.elements[family].values();
    const table = new NftTable({ ...sockets, layout, rows, ...(onRefused && { onRefused }) });
    return [{ family, table, glance: new TableGlance(sockets.socket, layout) }];
  });
}

function isFirst({ kind, key }: Change<string, NftElement>): boolean {
  return kind !== 'delete' || key === LAYOUT_MISSING;
}

function step<V>(table: Table<string, V>, changes: readonly Change<string, V>[]) {
  return { layer: layer(table, new Map()), changes: changes as readonly Change<unknown, unknown>[] };
}

function changesOf<V>(
  table: Table<string, V>,
  wanted: ReadonlyMap<string, V>,
  actual: ReadonlyMap<string, V>,
): Change<string, V>[] {
  return diff(wanted, actual, (a, b) => table.same(a, b));
}
