import type { HostCidr, Ip } from '../core/address.ts';
import type { AttachmentRow } from '../kernel/attachment.ts';
import { type BridgePortRow, bridgePortKey } from '../kernel/bridge-port.ts';
import { type BridgeVlanRow, bridgeVlanKey } from '../kernel/bridge-vlan.ts';
import { type NftElement, nftElementKey } from '../kernel/netlink/nftables/spec.ts';
import { type PodSetting, podSettingKey } from '../kernel/pod-setting.ts';
import { type QdiscRow, qdiscKey } from '../kernel/qdisc.ts';
import { type RouteRow, routeKey } from '../kernel/route.ts';
import { type FirewalldRow, firewalldKey } from './firewalld/table.ts';
import { type IptablesRow, iptablesKey } from './iptables/rules.ts';
import type { Sandbox } from './sandbox.ts';

/** What identifies an attachment: the specification's (network name, CNI_CONTAINERID, CNI_IFNAME). */
export interface AttachmentId {
  readonly network: string;
  readonly containerId: string;
  readonly ifname: string;
}

/** None of the three can contain a slash. */
export function attachmentKey({ network, containerId, ifname }: AttachmentId): string {
  return `${network}/${containerId}/${ifname}`;
}

/** A parameter of the node's kernel. It is never taken back: others may have come to need it. */
export interface SysctlSettingRow {
  /** Path below /proc/sys. */
  readonly key: string;
  readonly value: string;
}

/** The row of each of the kernel's tables that a part may have rows in. */
export interface KindRows {
  /** Of `bridge fairlead-cni`: who a port may say that it is. */
  readonly bridgeElements: NftElement;
  /** The pair of links. */
  readonly attachment: AttachmentRow;
  readonly vlans: BridgeVlanRow;
  /** Isolated ports of bridges. */
  readonly ports: BridgePortRow;
  /** Ways to pods without a bridge. */
  readonly routes: RouteRow;
  readonly qdiscs: QdiscRow;
  readonly sysctls: SysctlSettingRow;
  /** Settings inside the container, with their values before. */
  readonly pod: PodSetting;
  /** Of `inet fairlead-cni`: host ports, masquerading, firewall. */
  readonly elements: NftElement;
  readonly iptables: IptablesRow;
  /** Addresses in zones of firewalld. */
  readonly firewalld: FirewalldRow;
}
export type RowKind = keyof KindRows;

/**
 * The order in which rows are made; removed are they in the reverse order. A port is guarded before it is there. The
 * two halves rest on nothing of each other, so the kernel works on both at the same time.
 */
export const rowSequences = [
  ['bridgeElements', 'attachment', 'vlans', 'ports', 'routes', 'qdiscs', 'sysctls', 'pod'],
  ['elements', 'iptables', 'firewalld'],
] as const satisfies readonly (readonly RowKind[])[];

export const rowKinds = rowSequences.flat();

/** Rows of the kernel's tables, as plain JSON. */
export type PartRows = {
  readonly [K in Exclude<RowKind, 'attachment'>]?: readonly KindRows[K][] | undefined;
} & { readonly attachment?: AttachmentRow | undefined };

/** A bridge of this node as pods on it need it. */
export interface BridgeNeed {
  readonly bridge: string;
  /** Undefined: the kernel's 1500. */
  readonly mtuBytes?: number | undefined;
  /** Addresses that it must have. */
  readonly gateways: readonly HostCidr[];
}

/**
 * What one plugin of a chain made for one attachment: all that DEL, CHECK and a next daemon need to know, whatever
 * the configuration says by then.
 */
export interface Part extends AttachmentId {
  /** The plugin's type, as in the configuration. */
  readonly type: string;
  readonly rows: PartRows;
  /** Held for it. */
  readonly addresses?: readonly Ip[] | undefined;
  /** Given by another program, which is to be told when they are not needed any more. */
  readonly foreignIpam?: ForeignIpam | undefined;
  /** Nothing else is there: the other program may hold something and is still to be told, of an ADD or a DEL that did not end. */
  readonly isLeft?: true | undefined;
  /**
   * On an interface of others: digests of the configurations that the rows are of. They tell a second plugin of the type
   * from an ADD that begins again.
   */
  readonly configs?: readonly string[] | undefined;
  /** What its rows lie on. */
  readonly bridge?: BridgeNeed | undefined;
  /** Where the container's namespace is, for parts without a pair of ours, which would tell. */
  readonly sandbox?: Sandbox | undefined;
  /** Number of the network namespace that the rows on the host are in; undefined: the agent's own. */
  readonly host?: string | undefined;
}

/** The call that a foreign IPAM plugin was asked with. */
export interface ForeignIpam {
  readonly type: string;
  readonly env: Readonly<Record<string, string>>;
  readonly configText: string;
}

/** What stays of a part whose rows are gone, until the other program was told. Undefined: nothing. */
export function leftOf({ network, containerId, ifname, type, foreignIpam }: Part): Part | undefined {
  if (foreignIpam === undefined) return undefined;
  return { network, containerId, ifname, type, rows: {}, foreignIpam, isLeft: true };
}

const keys: { readonly [K in RowKind]: (row: KindRows[K]) => string } = {
  bridgeElements: nftElementKey,
  attachment: ({ hostName }) => hostName,
  vlans: bridgeVlanKey,
  ports: bridgePortKey,
  routes: routeKey,
  qdiscs: qdiscKey,
  sysctls: ({ key }) => key,
  pod: podSettingKey,
  elements: nftElementKey,
  iptables: iptablesKey,
  firewalld: firewalldKey,
};

/** The rows of one kind by the keys of their table. */
export function rowsOf<K extends RowKind>(rows: PartRows, kind: K): ReadonlyMap<string, KindRows[K]> {
  const value = rows[kind] as KindRows[K] | readonly KindRows[K][] | undefined;
  if (value === undefined) return noRows as ReadonlyMap<string, KindRows[K]>;
  const list = (Array.isArray(value) ? value : [value]) as readonly KindRows[K][];
  return new Map(list.map((row) => [keys[kind](row), row]));
}

const noRows = new Map<string, never>();

export function isEmpty(rows: PartRows): boolean {
  return rowKinds.every((kind) => rowsOf(rows, kind).size === 0);
}

/** The rows of both; of equal keys those of the second count. */
export function joinRows(first: PartRows, second: PartRows): PartRows {
  const joined: { [kind: string]: unknown } = { attachment: second.attachment ?? first.attachment };
  for (const kind of rowKinds) {
    if (kind === 'attachment' || (first[kind] ?? second[kind]) === undefined) continue;
    const both = [...new Map([...rowsOf(first, kind), ...rowsOf(second, kind)]).values()];
    if (both.length > 0) joined[kind] = both;
  }
  // What was there before both is what comes back.
  const before = rowsOf(first, 'pod');
  const pod = [...rowsOf(joined as PartRows, 'pod')].map(([key, row]) => {
    return { ...row, previous: (before.get(key) ?? row).previous };
  });
  return { ...(joined as PartRows), ...(pod.length > 0 && { pod: pod as PodSetting[] }) };
}
