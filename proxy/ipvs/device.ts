import { hostCidr, type Ip, ipOf, prefixLengthOf, singleCidr } from '../../core/address.ts';
import type { Change, Failure, Table } from '../../core/rows.ts';
import { type AddressRow, AddressTable, addressKey } from '../../kernel/address.ts';
import { type LinkRow, LinkTable } from '../../kernel/link.ts';
import { LINK_ALIAS_PREFIX, LinkIndex } from '../../kernel/linkindex.ts';
import { encodeLink } from '../../kernel/netlink/route/link.ts';
import { RTM_SETLINK } from '../../kernel/netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from '../../kernel/netlink/socket.ts';

/** Of this name in kube-proxy as well: what it left is taken over. */
export const DEVICE = 'kube-ipvs0';

/** A device that never sends: that addresses lie on it makes them the node's, so that packets to them come to IPVS. */
export const deviceRow: LinkRow = {
  name: DEVICE,
  kind: 'dummy',
  alias: `${LINK_ALIAS_PREFIX} proxy`,
  up: true,
};

/** Our device alone. One of its name that nobody has marked, as kube-proxy leaves it, gets our mark. */
export class DeviceTable implements Table<string, LinkRow> {
  readonly name = 'link';
  readonly #links: LinkTable;
  readonly #socket: NetlinkSocket;

  constructor({ socket }: { socket: NetlinkSocket }) {
    this.#links = new LinkTable({ socket });
    this.#socket = socket;
  }

  same(wanted: LinkRow, actual: LinkRow): boolean {
    return this.#links.same(wanted, actual);
  }

  async read(): Promise<Map<string, LinkRow>> {
    await this.#adopt();
    const rows = await this.#links.read();
    return new Map([...rows].filter(([name]) => name === DEVICE));
  }

  async #adopt(): Promise<void> {
    const there = (await LinkIndex.lookUp(this.#socket, [DEVICE])).named(DEVICE);
    if (there === undefined || there.kind !== 'dummy' || (there.alias ?? '') !== '') return;
    const payload = encodeLink({ index: there.index, alias: deviceRow.alias });
    await this.#socket.request({ type: RTM_SETLINK, flags: 0, payload, operation: `RTM_SETLINK ${DEVICE}` });
  }

  write(changes: readonly Change<string, LinkRow>[]): Promise<Failure<string>[]> {
    return this.#links.write(changes);
  }
}

/** The addresses on our device, each by itself. */
export class DeviceAddressTable implements Table<string, Ip> {
  readonly name = 'address';
  readonly #addresses: AddressTable;

  constructor({ socket }: { socket: NetlinkSocket }) {
    this.#addresses = new AddressTable({ socket });
  }

  same(wanted: Ip, actual: Ip): boolean {
    return wanted === actual;
  }

  async read(): Promise<Map<string, Ip>> {
    const rows = [...(await this.#addresses.read()).values()].filter(({ device }) => device === DEVICE);
    return new Map(rows.map(({ address }) => [keyOf(address), ipOf(address)]));
  }

  write(changes: readonly Change<string, Ip>[]): Promise<Failure<string>[]> {
    return this.#addresses.write(changes.map(addressChange));
  }
}

/** The address, if it is there as we put it; else one that nobody wants. */
function keyOf(address: AddressRow['address']): string {
  const ip = ipOf(address);
  return (singleCidr(ip) as string) === address ? ip : address;
}

function addressChange(change: Change<string, Ip>): Change<string, AddressRow> {
  const row = rowOf(change.key);
  const key = addressKey(row);
  if (change.kind === 'delete') return { kind: 'delete', key, actual: row };
  return { kind: 'create', key, wanted: row };
}

function rowOf(key: string): AddressRow {
  const [ip = '', length] = key.split('/');
  const prefix = length === undefined ? prefixLengthOf(singleCidr(ip as Ip)) : Number(length);
  return { device: DEVICE, address: hostCidr(ip as Ip, prefix) };
}
