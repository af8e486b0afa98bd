import type { Ip, Mac } from '../core/address.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import { KernelError } from './errors.ts';
import { isOurs, LinkIndex, type OnLinks } from './linkindex.ts';
import { type NetlinkMessage, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE } from './netlink/message.ts';
import {
  decodeFdb,
  encodeFdb,
  encodeNeighborDump,
  NTF_SELF,
  NUD_PERMANENT,
} from './netlink/route/neighbor.ts';
import { AF_BRIDGE, RTM_DELNEIGH, RTM_GETNEIGH, RTM_NEWNEIGH } from './netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from './netlink/socket.ts';
import { writeRows } from './write.ts';

/** "Frames to this MAC address go to that node", in the forwarding table of a vxlan. */
export interface FdbRow {
  readonly device: string;
  readonly mac: Mac;
  readonly destination: Ip;
}

export function fdbKey(row: FdbRow): string {
  return `${row.device} ${row.mac} ${row.destination}`;
}

/**
 * The permanent entries in the forwarding tables of our vxlans. A MAC address has one destination: making a
 * second one moves it. Only frames to 00:00:00:00:00:00 (all that is unknown) may have many.
 */
export class FdbTable implements Table<string, FdbRow> {
  readonly name = 'fdb';
  readonly #socket: NetlinkSocket;
  readonly #links: LinkIndex | undefined;

  constructor({ socket, links }: OnLinks) {
    this.#socket = socket;
    this.#links = links;
  }

  same(wanted: FdbRow, actual: FdbRow): boolean {
    return fdbKey(wanted) === fdbKey(actual);
  }

  async read(): Promise<Map<string, FdbRow>> {
    const rows = new Map<string, FdbRow>();
    for (const link of this.#links ?? (await LinkIndex.read(this.#socket))) {
      if (link.kind !== 'vxlan' || !isOurs(link)) continue;
      for (const row of await this.#readDevice(link.name, link.index)) rows.set(fdbKey(row), row);
    }
    return rows;
  }

  async #readDevice(device: string, index: number): Promise<FdbRow[]> {
    const payload = encodeNeighborDump(AF_BRIDGE, index);
    const operation = `RTM_GETNEIGH fdb ${device}`;
    const messages = await this.#socket.dump({ type: RTM_GETNEIGH, flags: 0, payload, operation });
    return messages.flatMap((message) => {
      const { mac, destination, state, index: at } = decodeFdb(message.payload);
      const isRow = at === index && mac !== undefined && destination !== undefined;
      return isRow && (state & NUD_PERMANENT) !== 0 ? [{ device, mac, destination }] : [];
    });
  }

  async write(changes: readonly Change<string, FdbRow>[]): Promise<Failure<string>[]> {
    const links = await LinkIndex.lookUp(
      this.#socket,
      changes.map(rowOf).map(({ device }) => device),
    );
    return writeRows(this, this.#socket, changes, (change) => encodeChange(change, links));
  }
}

function rowOf(change: Change<string, FdbRow>): FdbRow {
  return change.kind === 'delete' ? change.actual : change.wanted;
}

/** The MAC address of everything unknown. */
const ANY_MAC = '00:00:00:00:00:00';

function encodeChange(change: Change<string, FdbRow>, links: LinkIndex): NetlinkMessage | KernelError {
  const { device, mac, destination } = rowOf(change);
  const isDelete = change.kind === 'delete';
  const operation = `${isDelete ? 'RTM_DELNEIGH' : 'RTM_NEWNEIGH'} fdb ${mac} ${destination} ${device}`;
  const link = links.findOurs(device, operation);
  if (link instanceof KernelError) return link;
  const payload = encodeFdb({ index: link.index, mac, destination, state: NUD_PERMANENT, flags: NTF_SELF });
  if (isDelete) return { type: RTM_DELNEIGH, flags: 0, payload, operation };
  const flags = NLM_F_CREATE | (mac === ANY_MAC ? NLM_F_APPEND : NLM_F_REPLACE);
  return { type: RTM_NEWNEIGH, flags, payload, operation };
}
