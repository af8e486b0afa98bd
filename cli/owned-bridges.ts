import { IFF_PROMISC } from '../cni/bridge.ts';
import type { NodeChanges } from '../cni/changes.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import { type AddressRow, AddressTable, addressKey } from '../kernel/address.ts';
import { isMissing } from '../kernel/errors.ts';
import { LinkIndex } from '../kernel/linkindex.ts';
import { encodeLink } from '../kernel/netlink/route/link.ts';
import { RTM_SETLINK } from '../kernel/netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from '../kernel/netlink/socket.ts';

/** One thing that the plugin did to a bridge of somebody else's. */
interface BridgeGuest {
  readonly bridge: string;
  /** Undefined: it is the flag that every frame is taken in. */
  readonly address?: AddressRow['address'] | undefined;
}

/** What is on record of bridges of others and still there: it can only be removed. The bridges themselves stay. */
export class BridgeGuests implements Table<string, BridgeGuest> {
  readonly name = 'bridge of others';
  readonly #socket: NetlinkSocket;
  readonly #bridges: NodeChanges['bridges'];

  /** `socket` speaks NETLINK_ROUTE. */
  constructor({ socket, bridges }: { socket: NetlinkSocket; bridges: NodeChanges['bridges'] }) {
    this.#socket = socket;
    this.#bridges = bridges;
  }

  same(): boolean {
    return true;
  }

  async read(): Promise<Map<string, BridgeGuest>> {
    const rows = new Map<string, BridgeGuest>();
    const changed = Object.entries(this.#bridges);
    if (changed.length === 0) return rows;
    const links = await LinkIndex.read(this.#socket);
    for (const [bridge, { addresses, promiscuous }] of changed) {
      const there = links.named(bridge);
      if (there?.kind !== 'bridge') continue;
      const actual = await this.#addresses(bridge).read();
      for (const address of addresses) {
        if (actual.has(addressKey({ device: bridge, address })))
          rows.set(`${bridge} ${address}`, { bridge, address });
      }
      if (promiscuous && ((there.flags ?? 0) & IFF_PROMISC) !== 0) rows.set(`${bridge} promisc`, { bridge });
    }
    return rows;
  }

  async write(changes: readonly Change<string, BridgeGuest>[]): Promise<Failure<string>[]> {
    const failures: Failure<string>[] = [];
    for (const change of changes) {
      if (change.kind !== 'delete') continue;
      const { key, kind, actual } = change;
      const error = await this.#undo(actual);
      if (error !== undefined && !isMissing(error)) failures.push({ key, kind, error });
    }
    return failures;
  }

  async #undo({ bridge, address }: BridgeGuest): Promise<Error | undefined> {
    if (address === undefined) {
      const payload = encodeLink({ name: bridge, flags: 0, changeMask: IFF_PROMISC });
      const operation = `RTM_SETLINK ${bridge} promisc`;
      return (await this.#socket.submit([{ type: RTM_SETLINK, flags: 0, payload, operation }]))[0];
    }
    const actual = { device: bridge, address };
    const [failure] = await this.#addresses(bridge).write([
      { kind: 'delete', key: addressKey(actual), actual },
    ]);
    return failure?.error;
  }

  #addresses(guest: string): AddressTable {
    return new AddressTable({ socket: this.#socket, guest });
  }
}
