import { constants } from 'node:os';
import type { Change, Failure, Table } from '../core/rows.ts';
import { isMissing, KernelError } from './errors.ts';
import { isOurs, type KnownLink, LinkIndex } from './linkindex.ts';
import type { NetlinkMessage } from './netlink/message.ts';
import { encodeLink, getLinkMessage } from './netlink/route/link.ts';
import { AF_BRIDGE, RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK } from './netlink/route/rtnetlink.ts';
import {
  decodeDefaultPvid,
  decodeVlanLink,
  encodePortVlans,
  encodeVlanDump,
  type PortVlans,
  type VlanFlags,
} from './netlink/route/vlan.ts';
import type { NetlinkSocket } from './netlink/socket.ts';
import { failuresOf } from './write.ts';

/** One VLAN, or a run of them with equal flags. */
export interface BridgeVlan {
  /** 1 to 4094. */
  readonly id: number;
  /** The last of the run; undefined: one VLAN. */
  readonly lastId?: number | undefined;
  /** Frames without a tag that come in belong to it. Only of one VLAN of a port. */
  readonly pvid?: boolean | undefined;
  /** Frames go out without a tag. */
  readonly untagged?: boolean | undefined;
}

/** The VLANs of a port of a bridge; the bridge tells VLANs apart from then on. */
export interface BridgeVlanRow {
  /** Name of the link. */
  readonly port: string;
  readonly vlans: readonly BridgeVlan[];
  /** Other VLANs that the port has stay, such as the one that the bridge gives to every new port. */
  readonly keepsOthers?: boolean | undefined;
  /** Only in rows that were read back, and false: the bridge lets every frame pass as if it had no VLAN. */
  readonly isFiltered?: boolean | undefined;
}

export function bridgeVlanKey(row: BridgeVlanRow): string {
  return row.port;
}

interface Port {
  readonly link: KnownLink;
  readonly bridge: KnownLink;
  readonly vlans: PortVlans;
  /** The VLANs of a port that nobody has changed. Undefined: this kernel knows no VLANs on bridges. */
  readonly original: PortVlans | undefined;
}

/**
 * VLANs of the ports that are ours by their alias. A port that has just what its bridge gives to new ones is no
 * row, and removing a row makes it such a port again; the bridge goes on telling VLANs apart, as it may for others.
 * EOPNOTSUPP: this kernel was built without CONFIG_BRIDGE_VLAN_FILTERING.
 */
export class BridgeVlanTable implements Table<string, BridgeVlanRow> {
  readonly name = 'bridge-vlan';
  readonly #socket: NetlinkSocket;

  constructor({ socket }: { socket: NetlinkSocket }) {
    this.#socket = socket;
  }

  same(wanted: BridgeVlanRow, actual: BridgeVlanRow): boolean {
    const there = expand(actual.vlans);
    const missing = without(expand(wanted.vlans), there);
    const isExact = wanted.keepsOthers || there.size === expand(wanted.vlans).size;
    return missing.size === 0 && isExact && (actual.isFiltered ?? true);
  }

  async read(): Promise<Map<string, BridgeVlanRow>> {
    const rows = new Map<string, BridgeVlanRow>();
    for (const { link, bridge, vlans, original } of (await this.#readPorts()).values()) {
      if (!isOurs(link) || original === undefined || isEqual(vlans, original)) continue;
      const listed = [...vlans].map(([id, { isPvid, isUntagged }]) => {
        return { id, pvid: isPvid, untagged: isUntagged };
      });
      const isFiltered = bridge.bridge?.vlanFiltering === true;
      rows.set(link.name, { port: link.name, vlans: listed, isFiltered });
    }
    return rows;
  }

  async #readPorts(): Promise<Map<string, Port>> {
    const links = await LinkIndex.read(this.#socket);
    const operation = `RTM_GETLINK family ${AF_BRIDGE}`;
    const payload = encodeVlanDump();
    const messages = await this.#socket.dump({ type: RTM_GETLINK, flags: 0, payload, operation });
    const originals = new Map<KnownLink, PortVlans | undefined>();
    const ports = new Map<string, Port>();
    for (const { index, masterIndex, vlans } of messages.map((message) => decodeVlanLink(message.payload))) {
      const [link, bridge] = [links.at(index), links.at(masterIndex)];
      // A bridge tells itself as its own port.
      if (link === undefined || bridge === undefined || link === bridge) continue;
      if (!originals.has(bridge)) originals.set(bridge, await this.#readOriginal(bridge));
      ports.set(link.name, { link, bridge, vlans, original: originals.get(bridge) });
    }
    return ports;
  }

  async #readOriginal({ index }: KnownLink): Promise<PortVlans | undefined> {
    try {
      const [answer] = await this.#socket.request(getLinkMessage({ index }));
      const pvid = answer === undefined ? undefined : decodeDefaultPvid(answer.payload);
      if (pvid === undefined) return undefined;
      return new Map(pvid === 0 ? [] : [[pvid, { isPvid: true, isUntagged: true }]]);
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  async write(changes: readonly Change<string, BridgeVlanRow>[]): Promise<Failure<string>[]> {
    const ports = changes.length === 0 ? new Map<string, Port>() : await this.#readPorts();
    const errors = new Map<Change<string, BridgeVlanRow>, KernelError>();
    for (const change of changes) {
      const messages = messagesOf(change, ports.get(change.key));
      const error =
        messages instanceof KernelError
          ? messages
          : (await this.#socket.submit(messages)).find((outcome) => outcome !== undefined);
      if (error !== undefined) errors.set(change, error);
    }
    return failuresOf(this, errors);
  }
}

function messagesOf(
  change: Change<string, BridgeVlanRow>,
  port: Port | undefined,
): NetlinkMessage[] | KernelError {
  if (change.kind === 'delete') {
    const original = port !== undefined && isOurs(port.link) ? port.original : undefined;
    return port === undefined || original === undefined ? [] : vlanMessages(port, original, false);
  }
  const { vlans, keepsOthers = false } = change.wanted;
  const refused = checkPort(change.key, port) ?? checkVlans(change.wanted);
  if (refused !== undefined || port === undefined) return refused ?? [];
  const filtering = port.bridge.bridge?.vlanFiltering ? [] : [filteringMessage(port.bridge)];
  return [...filtering, ...vlanMessages(port, expand(vlans), keepsOthers)];
}

function checkPort(name: string, port: Port | undefined): KernelError | undefined {
  const operation = `RTM_SETLINK ${name} VLANs`;
  const refuse = (errno: number, detail: string) => new KernelError(operation, errno, { detail });
  if (port === undefined) return refuse(constants.errno.ENODEV, `no bridge port "${name}"`);
  if (!isOurs(port.link)) return refuse(constants.errno.EPERM, `"${name}" has no alias of ours`);
  if (port.original !== undefined) return undefined;
  return refuse(constants.errno.EOPNOTSUPP, 'this kernel has no CONFIG_BRIDGE_VLAN_FILTERING');
}

function checkVlans({ port, vlans }: BridgeVlanRow): KernelError | undefined {
  const isValid = (id: number) => Number.isInteger(id) && id >= 1 && id <= 4094;
  const wrong = vlans.find(({ id, lastId = id, pvid }) => {
    return !isValid(id) || !isValid(lastId) || lastId < id || (pvid === true && lastId !== id);
  });
  if (wrong === undefined) return undefined;
  const detail = `no VLANs: ${JSON.stringify(wrong)}`;
  return new KernelError(`RTM_SETLINK ${port} VLANs`, constants.errno.EINVAL, { detail });
}

/** What is to be added first: a new PVID takes the place of the old one without a gap. */
function vlanMessages({ link, vlans }: Port, wanted: PortVlans, keepsOthers: boolean): NetlinkMessage[] {
  const added = without(wanted, vlans);
  const removed = new Map(keepsOthers ? [] : [...vlans].filter(([id]) => !wanted.has(id)));
  const messages: NetlinkMessage[] = [];
  const { index, name } = link;
  if (added.size > 0) {
    const operation = `RTM_SETLINK ${name} VLANs`;
    messages.push({ type: RTM_SETLINK, flags: 0, payload: encodePortVlans(index, added), operation });
  }
  if (removed.size > 0) {
    const operation = `RTM_DELLINK ${name} VLANs`;
    messages.push({ type: RTM_DELLINK, flags: 0, payload: encodePortVlans(index, removed), operation });
  }
  return messages;
}

function filteringMessage({ index, name }: KnownLink): NetlinkMessage {
  return {
    type: RTM_NEWLINK,
    flags: 0,
    payload: encodeLink({ index, kind: 'bridge', bridge: { vlanFiltering: true } }),
    operation: `RTM_NEWLINK ${name} vlan_filtering`,
  };
}

function expand(vlans: readonly BridgeVlan[]): Map<number, VlanFlags> {
  const expanded = new Map<number, VlanFlags>();
  for (const { id, lastId = id, pvid = false, untagged = false } of vlans) {
    for (let each = id; each <= lastId; each += 1) {
      expanded.set(each, { isPvid: pvid, isUntagged: untagged });
    }
  }
  return expanded;
}

/** What of one port is not as in the other. */
function without(vlans: PortVlans, others: PortVlans): PortVlans {
  const differs = ([id, { isPvid, isUntagged }]: [number, VlanFlags]) => {
    const other = others.get(id);
    return other?.isPvid !== isPvid || other.isUntagged !== isUntagged;
  };
  return new Map([...vlans].filter(differs));
}

function isEqual(a: PortVlans, b: PortVlans): boolean {
  return a.size === b.size && without(a, b).size === 0;
}
