import { constants } from 'node:os';
import type { Change, Failure, Table } from '../core/rows.ts';
import { KernelError } from './errors.ts';
import { isOurs, LinkIndex } from './linkindex.ts';
import type { NetlinkMessage } from './netlink/message.ts';
import { encodeLink } from './netlink/route/link.ts';
import { RTM_NEWLINK } from './netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from './netlink/socket.ts';
import { writeRows } from './write.ts';

/** An isolated port: no frame goes from it to another isolated one. Other ports are no rows. */
export interface BridgePortRow {
  /** Name of the link. */
  readonly port: string;
}

export function bridgePortKey(row: BridgePortRow): string {
  return row.port;
}

/** The isolated ones of the ports that are ours by their alias. */
export class BridgePortTable implements Table<string, BridgePortRow> {
  readonly name = 'bridge-port';
  readonly #socket: NetlinkSocket;

  constructor({ socket }: { socket: NetlinkSocket }) {
    this.#socket = socket;
  }

  same(wanted: BridgePortRow, actual: BridgePortRow): boolean {
    return wanted.port === actual.port;
  }

  async read(): Promise<Map<string, BridgePortRow>> {
    const rows = new Map<string, BridgePortRow>();
    for (const link of await LinkIndex.read(this.#socket)) {
      if (isOurs(link) && link.bridgePort?.isolated) rows.set(link.name, { port: link.name });
    }
    return rows;
  }

  async write(changes: readonly Change<string, BridgePortRow>[]): Promise<Failure<string>[]> {
    const links = await LinkIndex.lookUp(
      this.#socket,
      changes.map(({ key }) => key),
    );
    return writeRows(this, this.#socket, changes, (change) => encodeChange(change, links));
  }
}

function encodeChange(change: Change<string, BridgePortRow>, links: LinkIndex): NetlinkMessage | KernelError {
  const operation = `RTM_NEWLINK ${change.key} bridge port`;
  const isDelete = change.kind === 'delete';
  const link = isDelete ? links.find(change.key, operation) : links.findOurs(change.key, operation);
  if (link instanceof KernelError) return link;
  // Somebody else's link took the name, or it is no port any more: the row is gone.
  if (isDelete && !(isOurs(link) && link.bridgePort))
    return new KernelError(operation, constants.errno.ENODEV);
  const bridgePort = { isolated: !isDelete };
  const payload = encodeLink({ index: link.index, portKind: 'bridge', bridgePort });
  return { type: RTM_NEWLINK, flags: 0, payload, operation };
}
