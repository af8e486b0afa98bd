import { accessSync, constants } from 'node:fs';
import { type Cidr, cidrContains } from '../core/address.ts';
import { layer, type Plan, type Table } from '../core/rows.ts';
import { AddressTable } from '../kernel/address.ts';
import type { KernelError } from '../kernel/errors.ts';
import { LinkTable } from '../kernel/link.ts';
import { type KnownLink, LINK_ALIAS_PREFIX, type LinkIndex } from '../kernel/linkindex.ts';
import { FdbTable, NeighborTable } from '../kernel/neighbor.ts';
import type { NftLayout } from '../kernel/netlink/nftables/spec.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../kernel/netlink/socket.ts';
import { NftTable, openNftSocket, readGeneration } from '../kernel/nftables.ts';
import { OffloadTable } from '../kernel/offload.ts';
import { type Adoption, RouteTable } from '../kernel/route.ts';
import { SysctlTable } from '../kernel/sysctl.ts';
import {
  type Backend,
  backendAlias,
  isBackendDevice,
  type OpenBackend,
  type TunnelPackets,
} from './backend/backend.ts';
import { forwardTables } from './iptables-forward.ts';
import { FilterPrograms } from './iptables-programs.ts';
import { type NodePlan, sysctlKeys } from './node-plan.ts';

const MAIN_TABLE = 254;

export interface NodeTablesOptions {
  readonly namespaceFd?: number | undefined;
  readonly layout: NftLayout;
  readonly backend: Backend;
  readonly onRefused: (error: KernelError) => void;
}

/** The daemon's tables over sockets in the node's namespace. */
export class NodeTables implements Disposable {
  readonly socket: NetlinkSocket;
  readonly #nftSocket: NetlinkSocket;
  readonly #nft: NftTable;
  readonly #filter: FilterPrograms;
  readonly #namespaceFd: number | undefined;
  readonly #stack: DisposableStack;
  #backend: OpenBackend | undefined;

  constructor({ namespaceFd, layout, backend, onRefused }: NodeTablesOptions) {
    using stack = new DisposableStack();
    this.socket = stack.use(NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd }));
    this.#nftSocket = stack.use(openNftSocket(inNamespace(namespaceFd)));
    this.#nft = new NftTable({ socket: this.#nftSocket, layout, onRefused });
    this.#filter = new FilterPrograms({ socket: this.#nftSocket, namespaceFd });
    this.#namespaceFd = namespaceFd;
    this.#backend = backend.open?.({ namespaceFd });
    this.#stack = stack.move();
  }

  /** From here the tables of this backend are in {@link layers}; what those of the last one held open is closed. */
  useBackend(backend: Backend): void {
    this.#backend?.[Symbol.dispose]();
    this.#backend = backend.open?.({ namespaceFd: this.#namespaceFd });
  }

  /** The sysctls that this kernel has, of those that a plan may want. */
  async readSysctls(device: string): Promise<ReadonlyMap<string, string>> {
    const sysctls = await this.#sysctls(sysctlKeys(device)).read();
    return isWritable('/proc/sys/net') ? sysctls : withoutFilters(sysctls);
  }

  #sysctls(keys: readonly string[]): SysctlTable {
    return new SysctlTable({ keys, ...inNamespace(this.#namespaceFd) });
  }

  /**
   * The plan's layers in order of dependency. Each table is narrowed to the daemon's own rows: bridges, pods'
   * interfaces, and ways into this node's own subnets are the CNI plugin's, which carries the same marks.
   */
  layers(
    plan: NodePlan,
    ownSubnets: readonly Cidr[],
    { links, adopts = 'same' }: { readonly links?: LinkIndex | undefined; readonly adopts?: Adoption } = {},
  ): Plan {
    const on = { socket: this.socket, links };
    const namespaceFd = this.#namespaceFd;
    const isMine = ({ device }: { device: string }) => isBackendDevice(device);
    const isOwn = (destination: Cidr) => ownSubnets.some((subnet) => cidrContains(subnet, destination));
    return [
      layer(this.#sysctls([...plan.sysctls.keys()]), plan.sysctls),
      // Before there is a tunnel: strangers' packets do not get in, not even for a moment.
      ...this.nftLayers(plan),
      layer(
        scoped(
          new LinkTable({ ...on, namespaceFd, adopts: (link) => isDeviceOf(plan, link) }),
          ({ alias }) => alias === backendAlias || !alias.startsWith(LINK_ALIAS_PREFIX),
        ),
        plan.links,
      ),
      layer(this.#sysctls([...plan.linkSysctls.keys()]), plan.linkSysctls),
      layer(new OffloadTable({ devices: [...plan.offloads.keys()], namespaceFd }), plan.offloads),
      layer(scoped(new AddressTable(on), isMine), plan.addresses),
      ...(this.#backend?.layers(plan.facts) ?? []),
      layer(scoped(new NeighborTable(on), isMine), plan.neighbors),
      layer(scoped(new FdbTable(on), isMine), plan.fdb),
      layer(
        scoped(
          new RouteTable({ ...on, adopts }),
          ({ table = MAIN_TABLE, destination, blackhole }) =>
            table === MAIN_TABLE && (blackhole === true || !isOwn(destination)),
        ),
        plan.routes,
      ),
    ];
  }

  tunnelPackets(): TunnelPackets | undefined {
    return this.#backend?.packets?.();
  }

  /** What others' transactions of nftables may have changed: rules of iptables, too. */
  nftLayers(plan: NodePlan): Plan {
    return [
      layer(this.#nft, plan.nft),
      ...forwardTables(this.#filter, plan.forward.keys()).map((table) => layer(table, plan.forward)),
    ];
  }

  /** Counts the transactions of nftables, everybody's. */
  readNftGeneration(): Promise<number> {
    return readGeneration(this.#nftSocket);
  }

  [Symbol.dispose](): void {
    this.#backend?.[Symbol.dispose]();
    this.#stack[Symbol.dispose]();
  }
}

/** A device of the plan's name, kind and number is ours, whatever became of its mark. */
function isDeviceOf({ links }: NodePlan, { name, kind, vxlan }: KnownLink): boolean {
  const wanted = links.get(name);
  return wanted !== undefined && wanted.kind === kind && wanted.vxlan?.vni === vxlan?.vni;
}

/** In a container that may not: what is only good to have is no reason to be unready. */
function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'EROFS';
  }
}

function withoutFilters(sysctls: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  return new Map([...sysctls].filter(([key]) => !key.endsWith('/rp_filter')));
}

function inNamespace(namespaceFd: number | undefined): { namespaceFd?: number } {
  return namespaceFd === undefined ? {} : { namespaceFd };
}

/** The rows of a table that one planner answers for: others' rows on the same kind of object are not its own. */
function scoped<V>(table: Table<string, V>, isMine: (row: V) => boolean): Table<string, V> {
  return {
    name: table.name,
    same: (wanted, actual) => table.same(wanted, actual),
    read: async () => new Map([...(await table.read())].filter(([, row]) => isMine(row))),
    write: (changes) => table.write(changes),
  };
}
