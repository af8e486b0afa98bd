import type { Ip, Mac } from '../core/address.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import { KernelError } from './errors.ts';
import { LinkIndex, type OnLinks } from './linkindex.ts';
import { type NetlinkMessage, NLM_F_CREATE, NLM_F_REPLACE } from './netlink/message.ts';
import {
  decodeNeighbor,
  encodeNeighbor,
  encodeNeighborDump,
  NUD_PERMANENT,
} from './netlink/route/neighbor.ts';
import {
  AF_UNSPEC,
  FAIRLEAD_PROTOCOL,
  RTM_DELNEIGH,
  RTM_GETNEIGH,
  RTM_NEWNEIGH,
} from './netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from './netlink/socket.ts';
import { writeRows } from './write.ts';

export { type FdbRow, FdbTable, fdbKey } from './fdb.ts';

/** The MAC address of one IP address on one link: ARP or NDP that needs no asking. */
export interface NeighborRow {
  readonly device: string;
  readonly ip: Ip;
  readonly mac: Mac;
}

export function neighborKey(row: NeighborRow): string {
  return `${row.device} ${row.ip}`;
}

/** The permanent neighbours on our links. */
export class NeighborTable implements Table<string, NeighborRow> {
  readonly name = 'neighbor';
  readonly #socket: NetlinkSocket;
  readonly #links: LinkIndex | undefined;

  constructor({ socket, links }: OnLinks) {
    this.#socket = socket;
    this.#links = links;
  }

  same(wanted: NeighborRow, actual: NeighborRow): boolean {
    return wanted.mac === actual.mac;
  }

  async read(): Promise<Map<string, NeighborRow>> {
    const links = this.#links ?? (await LinkIndex.read(this.#socket));
    const payload = encodeNeighborDump(AF_UNSPEC);
    const operation = 'RTM_GETNEIGH';
    const rows = new Map<string, NeighborRow>();
    for (const message of await this.#socket.dump({ type: RTM_GETNEIGH, flags: 0, payload, operation })) {
      const { index, ip, mac, state } = decodeNeighbor(message.payload);
      const link = links.oursAt(index);
      if (link === undefined || mac === undefined || (state & NUD_PERMANENT) === 0) continue;
      const row = { device: link.name, ip, mac };
      rows.set(neighborKey(row), row);
    }
    return rows;
  }

  async write(changes: readonly Change<string, NeighborRow>[]): Promise<Failure<string>[]> {
    const links = await LinkIndex.lookUp(
      this.#socket,
      changes.map(rowOf).map(({ device }) => device),
    );
    return writeRows(this, this.#socket, changes, (change) => encodeChange(change, links));
  }
}

function rowOf(change: Change<string, NeighborRow>): NeighborRow {
  return change.kind === 'delete' ? change.actual : change.wanted;
}

function encodeChange(change: Change<string, NeighborRow>, links: LinkIndex): NetlinkMessage | KernelError {
  const { device, ip, mac } = rowOf(change);
  const isDelete = change.kind === 'delete';
  const operation = `${isDelete ? 'RTM_DELNEIGH' : 'RTM_NEWNEIGH'} ${ip} ${device}`;
  const link = links.findOurs(device, operation);
  if (link instanceof KernelError) return link;
  const place = { index: link.index, ip, state: NUD_PERMANENT };
  if (isDelete) return { type: RTM_DELNEIGH, flags: 0, payload: encodeNeighbor(place), operation };
  const payload = encodeNeighbor({ ...place, mac, protocol: FAIRLEAD_PROTOCOL });
  return { type: RTM_NEWNEIGH, flags: NLM_F_CREATE | NLM_F_REPLACE, payload, operation };
}
