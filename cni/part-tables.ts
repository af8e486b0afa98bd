import { fstatSync, statSync } from 'node:fs';
import type { Change, Failure, Table } from '../core/rows.ts';
import type { AttachmentRow, BegunPair } from '../kernel/attachment.ts';
import { type AttachmentPlace, type AttachmentState, readAttachment } from '../kernel/attachment-check.ts';
import { AttachmentTable } from '../kernel/attachment-table.ts';
import { BridgePortTable } from '../kernel/bridge-port.ts';
import { BridgeVlanTable } from '../kernel/bridge-vlan.ts';
import { deleteFlows, openConntrackSocket } from '../kernel/conntrack.ts';
import type { KernelError } from '../kernel/errors.ts';
import { type Descriptor, openLane } from '../kernel/lane.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../kernel/netlink/socket.ts';
import { ForeignChanges, NftTable, openNftSocket } from '../kernel/nftables.ts';
import { type PodSetting, PodSettings } from '../kernel/pod-setting.ts';
import { enterWords } from '../kernel/program.ts';
import { QdiscTable } from '../kernel/qdisc.ts';
import { type RouteRow, RouteTable } from '../kernel/route.ts';
import { SysctlTable } from '../kernel/sysctl.ts';
import { isHostName } from './attachment.ts';
import type { ChangeRecord } from './changes.ts';
import { ElementTable } from './element-table.ts';
import { FirewalldTable } from './firewalld/table.ts';
import { IptablesTable } from './iptables/table.ts';
import { bridgeLayout } from './nft-bridge-layout.ts';
import { cniLayout } from './nft-layout.ts';
import type { KindRows, RowKind, SysctlSettingRow } from './part.ts';
import { type HostPort, staleFlows } from './types/hostport.ts';

/** The kernel's tables by the kind of rows in them. */
export type NodeTables = { readonly [K in Exclude<RowKind, 'pod'>]: Table<string, KindRows[K]> };

export interface PartTables {
  readonly node: NodeTables;
  /** The settings of one container; its namespace stays open as long as the table is used. */
  pod(namespaceFd: Descriptor, settings: readonly PodSetting[]): Table<string, PodSetting>;
  /** Those of the node's parameters that the rows of a part are. */
  sysctls(keys: readonly string[]): Table<string, SysctlSettingRow>;
  /** {@link AttachmentTable.begin} */
  begin(row: AttachmentRow): BegunPair | undefined;
  /** {@link AttachmentTable.abandon} */
  abandon(hostName: string, begun: BegunPair): Promise<Error | undefined>;
  /** Both sides of an attachment's pair. Throws KernelError. */
  readPair(place: AttachmentPlace): Promise<AttachmentState>;
  /** Flows to these host ports begin anew. Throws KernelError. */
  forgetFlows(ports: readonly HostPort[]): Promise<void>;
}

export interface PartTablesOptions {
  /** The node's network namespace; else that of the process. */
  readonly namespaceFd?: Descriptor | undefined;
  readonly onReapFailure: (error: KernelError) => void;
  /** nftables refused a change, and its table was made anew. */
  readonly onRefused: (error: KernelError) => void;
  /** Where changes of what is not ours are written down. */
  readonly record?: ChangeRecord | undefined;
}

/** The tables of one node. What many pods have is written on threads beside the loop. */
export class KernelTables implements PartTables, Disposable {
  readonly node: NodeTables & {
    readonly attachment: AttachmentTable;
    readonly elements: ElementTable;
    readonly bridgeElements: ElementTable;
    readonly iptables: IptablesTable;
    readonly firewalld: FirewalldTable;
  };
  /** Of NETLINK_ROUTE in the node's namespace, beside the loop. */
  readonly socket: NetlinkSocket;
  readonly #namespaceFd: Descriptor | undefined;
  readonly #record: ChangeRecord | undefined;
  readonly #stack: DisposableStack;
  /** What other processes do to nftables in the node's namespace. */
  readonly foreign: ForeignChanges;

  constructor({ namespaceFd, onReapFailure, onRefused, record }: PartTablesOptions) {
    using stack = new DisposableStack();
    const attachment = stack.use(new AttachmentTable({ namespaceFd, onReapFailure }));
    const lane = stack.use(openLane());
    const inside = namespaceFd === undefined ? {} : { namespaceFd };
    const socket = stack.use(NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd, lane }));
    this.socket = socket;
    const nftSocket = stack.use(openNftSocket({ ...inside, lane }));
    this.foreign = new ForeignChanges(nftSocket);
    const elements = (layout: typeof cniLayout) =>
      new ElementTable(new NftTable({ socket: nftSocket, layout, onRefused }));
    this.node = {
      bridgeElements: elements(bridgeLayout),
      attachment,
      vlans: new BridgeVlanTable({ socket }),
      ports: new BridgePortTable({ socket }),
      routes: podRoutes(new RouteTable({ socket })),
      qdiscs: new QdiscTable({ socket }),
      sysctls: new NodeSysctls({ namespaceFd, record }),
      elements: elements(cniLayout),
      iptables: new IptablesTable({ enter: enterWords(namespaceFd) }),
      firewalld: openFirewalld(namespaceFd, record),
    };
    this.#namespaceFd = namespaceFd;
    this.#record = record;
    this.#stack = stack.move();
  }

  pod(namespaceFd: Descriptor, settings: readonly PodSetting[]): Table<string, PodSetting> {
    return new PodSettings({ namespaceFd, settings });
  }

  sysctls(keys: readonly string[]): Table<string, SysctlSettingRow> {
    return new NodeSysctls({ namespaceFd: this.#namespaceFd, record: this.#record }, keys);
  }

  begin(row: AttachmentRow): BegunPair | undefined {
    return this.node.attachment.begin(row);
  }

  abandon(hostName: string, begun: BegunPair): Promise<Error | undefined> {
    return this.node.attachment.abandon(hostName, begun);
  }

  readPair(place: AttachmentPlace): Promise<AttachmentState> {
    return readAttachment(this.socket, place);
  }

  async forgetFlows(ports: readonly HostPort[]): Promise<void> {
    const filters = staleFlows(ports);
    if (filters.length === 0) return;
    using lane = openLane();
    using socket = openConntrackSocket({ namespaceFd: this.#namespaceFd, lane });
    await deleteFlows(socket, filters);
  }

  /** Resolves when every pair removed so far is gone from the kernel. */
  flush(): Promise<void> {
    return this.node.attachment.flush();
  }

  /** Await {@link flush} first. */
  [Symbol.dispose](): void {
    this.#stack[Symbol.dispose]();
  }
}

/** The daemon's own routes carry the same mark; those to pods are the ones by pods' links. */
function podRoutes(table: Table<string, RouteRow>): Table<string, RouteRow> {
  return {
    name: table.name,
    same: (wanted, actual) => table.same(wanted, actual),
    read: async () => new Map([...(await table.read())].filter(([, { device }]) => isHostName(device))),
    write: (changes) => table.write(changes),
  };
}

/** Parameters of the kernel as rows: only those that are asked for are read, and none is ever removed. */
class NodeSysctls implements Table<string, SysctlSettingRow> {
  readonly name = 'sysctl';
  readonly #options: NodeSysctlsOptions;
  readonly #keys: readonly string[];

  constructor(options: NodeSysctlsOptions, keys: readonly string[] = []) {
    this.#options = options;
    this.#keys = keys;
  }

  same(wanted: SysctlSettingRow, actual: SysctlSettingRow): boolean {
    return wanted.value === actual.value;
  }

  async read(): Promise<Map<string, SysctlSettingRow>> {
    const values = await this.#table(this.#keys).read();
    return new Map([...values].map(([key, value]) => [key, { key, value }]));
  }

  write(changes: readonly Change<string, SysctlSettingRow>[]): Promise<Failure<string>[]> {
    const made = changes.flatMap((change) => (change.kind === 'delete' ? [] : [change.wanted]));
    for (const row of made) this.#note(row);
    const table = this.#table(made.map(({ key }) => key));
    return table.write(made.map(({ key, value }) => ({ kind: 'create', key, wanted: value })));
  }

  /** Before it is written. What belongs to a pair of ours goes with it. */
  #note({ key, value }: SysctlSettingRow): void {
    const [, , , device = ''] = key.split('/');
    if (isHostName(device)) return;
    this.#options.record?.settingOnce(key, () => this.#table([key]).readKey(key), value);
  }

  #table(keys: readonly string[]): SysctlTable {
    return new SysctlTable({ keys, namespaceFd: this.#options.namespaceFd });
  }
}

type NodeSysctlsOptions = Pick<PartTablesOptions, 'namespaceFd' | 'record'>;

function openFirewalld(
  namespaceFd: Descriptor | undefined,
  record: ChangeRecord | undefined,
): FirewalldTable {
  const { ino } = namespaceFd === undefined ? statSync('/proc/self/ns/net') : fstatSync(namespaceFd);
  return new FirewalldTable({ busAddress: process.env.DBUS_SYSTEM_BUS_ADDRESS, record, namespace: ino });
}
