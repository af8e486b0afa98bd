import { familyOf, type HostCidr, hostCidr, ipOf, prefixLengthOf } from '../core/address.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import { KernelError } from './errors.ts';
import { isOurs, type KnownLink, LinkIndex, type OnLinks } from './linkindex.ts';
import { type NetlinkMessage, NLM_F_CREATE, NLM_F_REPLACE } from './netlink/message.ts';
import {
  type Address,
  decodeAddress,
  encodeAddress,
  encodeAddressDump,
  IFA_F_NODAD,
} from './netlink/route/address.ts';
import { promoteSecondariesMessage } from './netlink/route/link.ts';
import {
  AF_UNSPEC,
  FAIRLEAD_PROTOCOL,
  RTM_DELADDR,
  RTM_GETADDR,
  RTM_NEWADDR,
} from './netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from './netlink/socket.ts';
import { writeRows } from './write.ts';

/** IFA_PROTO 1–3: loopback, router advertisement and link-local addresses that the kernel makes itself. */
const IFAPROT_KERNEL_MAX = 3;

/** An address of one of our links. */
export interface AddressRow {
  readonly device: string;
  readonly address: HostCidr;
}

export function addressKey(row: AddressRow): string {
  return `${row.device} ${row.address}`;
}

/** The addresses of our links (see {@link LinkIndex}), except those that the kernel gives them. */
export class AddressTable implements Table<string, AddressRow> {
  readonly name = 'address';
  readonly #socket: NetlinkSocket;
  readonly #links: LinkIndex | undefined;
  readonly #guest: string | undefined;

  /** `guest`: name of a link of somebody else's, whose addresses count as well. */
  constructor({ socket, links, guest }: OnLinks & { readonly guest?: string | undefined }) {
    this.#socket = socket;
    this.#links = links;
    this.#guest = guest;
  }

  same(wanted: AddressRow, actual: AddressRow): boolean {
    return addressKey(wanted) === addressKey(actual);
  }

  async read(): Promise<Map<string, AddressRow>> {
    const links = this.#links ?? (await LinkIndex.read(this.#socket));
    const payload = encodeAddressDump(AF_UNSPEC);
    const messages = await this.#socket.dump({
      type: RTM_GETADDR,
      flags: 0,
      payload,
      operation: 'RTM_GETADDR',
    });
    const rows = new Map<string, AddressRow>();
    for (const message of messages) {
      const address = decodeAddress(message.payload);
      const link = links.at(address.index);
      if (link !== undefined && !isOurs(link) && link.name !== this.#guest) continue;
      if (link === undefined || madeByKernel(address)) continue;
      const row = { device: link.name, address: hostCidr(address.ip, address.prefixLength) };
      rows.set(addressKey(row), row);
    }
    return rows;
  }

  async write(changes: readonly Change<string, AddressRow>[]): Promise<Failure<string>[]> {
    const links = await LinkIndex.lookUp(
      this.#socket,
      changes.map(rowOf).map(({ device }) => device),
    );
    await this.#keepSecondaries(changes, links);
    return writeRows(this, this.#socket, changes, (change) => this.#encode(change, links));
  }

  #encode(change: Change<string, AddressRow>, links: LinkIndex): NetlinkMessage | KernelError {
    return encodeChange(change, (device, operation) =>
      device === this.#guest ? links.find(device, operation) : links.findOurs(device, operation),
    );
  }

  /** Else the kernel takes every other IPv4 address of the subnet away together with its first one. */
  async #keepSecondaries(changes: readonly Change<string, AddressRow>[], links: LinkIndex): Promise<void> {
    const indexes = new Set<number>();
    for (const change of changes) {
      const { device, address } = rowOf(change);
      const link = links.named(device);
      if (change.kind === 'delete' && familyOf(address) === 4 && link !== undefined) indexes.add(link.index);
    }
    // A link that goes away meanwhile takes its addresses along: no failure here.
    await this.#socket.submit([...indexes].map(promoteSecondariesMessage));
  }
}

function rowOf(change: Change<string, AddressRow>): AddressRow {
  return change.kind === 'delete' ? change.actual : change.wanted;
}

function madeByKernel({ ip, protocol = 0 }: Address): boolean {
  return (protocol > 0 && protocol <= IFAPROT_KERNEL_MAX) || /^fe[89ab]/.test(ip);
}

function encodeChange(
  change: Change<string, AddressRow>,
  find: (device: string, operation: string) => KnownLink | KernelError,
): NetlinkMessage | KernelError {
  const { device, address } = rowOf(change);
  const isDelete = change.kind === 'delete';
  const operation = `${isDelete ? 'RTM_DELADDR' : 'RTM_NEWADDR'} ${address} ${device}`;
  const link = find(device, operation);
  if (link instanceof KernelError) return link;
  const payload = encodeAddress({
    ip: ipOf(address),
    prefixLength: prefixLengthOf(address),
    index: link.index,
    flags: familyOf(address) === 6 ? IFA_F_NODAD : 0,
    protocol: FAIRLEAD_PROTOCOL,
  });
  return isDelete
    ? { type: RTM_DELADDR, flags: 0, payload, operation }
    : { type: RTM_NEWADDR, flags: NLM_F_CREATE | NLM_F_REPLACE, payload, operation };
}
