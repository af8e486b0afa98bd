import type { Change, Failure, Table } from '../core/rows.ts';
import type { KernelError } from './errors.ts';
import { isOurs, type KnownLink, LinkIndex } from './linkindex.ts';
import { deleteLinks } from './linkmessages.ts';
import { families } from './netlink/nftables/constants.ts';
import { batch, decodeTable, deleteTable, type TableName } from './netlink/nftables/messages.ts';
import { getTables } from './netlink/nftables/requests.ts';
import type { NftFamily } from './netlink/nftables/spec.ts';
import type { NetlinkSocket } from './netlink/socket.ts';
import { failuresOf } from './write.ts';

/*
 * Tables of whatever of ours there is, of a kind that this version makes or another did. Their rows can only be
 * removed: they are for leaving a node.
 */

/** Every link with our alias. */
export class OwnedLinks implements Table<string, KnownLink> {
  readonly name = 'link';
  readonly #socket: NetlinkSocket;

  /** `socket` speaks NETLINK_ROUTE. */
  constructor({ socket }: { socket: NetlinkSocket }) {
    this.#socket = socket;
  }

  same(): boolean {
    return true;
  }

  async read(): Promise<Map<string, KnownLink>> {
    const links = [...(await LinkIndex.read(this.#socket))].filter(isOurs);
    return new Map(links.map((link) => [link.name, link]));
  }

  async write(changes: readonly Change<string, KnownLink>[]): Promise<Failure<string>[]> {
    const deletes = changes.filter((change) => change.kind === 'delete');
    const outcomes = await deleteLinks(
      this.#socket,
      deletes.map(({ actual }) => actual),
    );
    const errors = new Map<Change<string, KnownLink>, KernelError>();
    for (const change of deletes) {
      const error = outcomes.get(change.actual.name);
      if (error !== undefined) errors.set(change, error);
    }
    return failuresOf(this, errors);
  }
}

const nftNames = /^fairlead(-|$)/;
const nftMark = 'fairlead layout ';

/** Every table of nftables with our name and our mark, with all that is in it. */
export class OwnedNftTables implements Table<string, TableName> {
  readonly name = 'nftables';
  readonly #socket: NetlinkSocket;

  /** `socket` speaks NETLINK_NETFILTER. */
  constructor({ socket }: { socket: NetlinkSocket }) {
    this.#socket = socket;
  }

  same(): boolean {
    return true;
  }

  async read(): Promise<Map<string, TableName>> {
    const rows = new Map<string, TableName>();
    for (const message of await this.#socket.dump(getTables())) {
      const { name: table, comment } = decodeTable(message);
      const family = nftFamilies.get(message.payload[0] ?? 0);
      const isOwn = nftNames.test(table) && comment?.startsWith(nftMark);
      if (isOwn && family !== undefined) rows.set(`${family} ${table}`, { family, table });
    }
    return rows;
  }

  /** Each table by itself: one that cannot go holds up no other. */
  async write(changes: readonly Change<string, TableName>[]): Promise<Failure<string>[]> {
    const errors = new Map<Change<string, TableName>, KernelError>();
    for (const change of changes) {
      if (change.kind !== 'delete') continue;
      const outcomes = await this.#socket.transaction(batch([deleteTable(change.actual)]));
      const error = outcomes.find((outcome) => outcome !== undefined);
      if (error !== undefined) errors.set(change, error);
    }
    return failuresOf(this, errors);
  }
}

const nftFamilies = new Map(
  Object.entries(families)
    .filter(([name]) => name !== 'unspec')
    .map(([name, number]) => [number, name as NftFamily] as [number, NftFamily]),
);
