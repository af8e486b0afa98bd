import { familyOf, type Ip, ipToBytes, type Mac, macFromBytes, macToBytes } from '../../../core/address.ts';
import { type Attributes, MalformedMessageError, Reader, Writer } from '../wire.ts';
import { AF_BRIDGE, addressFamily, familyFrom, ipAttribute, ipFrom } from './rtnetlink.ts';

const NDA_DST = 1;
const NDA_LLADDR = 2;
const NDA_MASTER = 9;
const NDA_PROTOCOL = 12;

/** Never aged, never asked for. */
export const NUD_PERMANENT = 0x80;
/** In the device's own table (a VXLAN's), not in its bridge's. */
export const NTF_SELF = 0x02;

interface Entry {
  /** Of the link. */
  readonly index: number;
  readonly mac?: Mac | undefined;
  /** NUD_… */
  readonly state: number;
  /** NTF_… */
  readonly flags?: number | undefined;
  /** Who made it (RTPROT_…). */
  readonly protocol?: number | undefined;
}

/** One RTM_…NEIGH message of ARP or NDP (struct ndmsg and attributes). */
export interface Neighbor extends Entry {
  readonly ip: Ip;
}

/** One RTM_…NEIGH message of a forwarding table: a bridge's or a VXLAN's. */
export interface Fdb extends Entry {
  /** VXLAN: the node behind which the address is. */
  readonly destination?: Ip | undefined;
  /** Index of the bridge. */
  readonly masterIndex?: number | undefined;
}

export function encodeNeighbor(neighbor: Neighbor): Uint8Array {
  const writer = writeHeader(addressFamily(familyOf(neighbor.ip)), neighbor);
  writer.attr(NDA_DST, ipToBytes(neighbor.ip));
  return writeEntry(writer, neighbor);
}

export function encodeFdb(fdb: Fdb): Uint8Array {
  const writer = writeHeader(AF_BRIDGE, fdb);
  if (fdb.destination !== undefined) writer.attr(NDA_DST, ipToBytes(fdb.destination));
  if (fdb.masterIndex !== undefined) writer.attrU32(NDA_MASTER, fdb.masterIndex);
  return writeEntry(writer, fdb);
}

function writeHeader(family: number, { index, state, flags = 0 }: Entry): Writer {
  const writer = new Writer(64).u8(family).zeros(3);
  return writer.u32(index).u16(state).u8(flags).u8(0);
}

function writeEntry(writer: Writer, { mac, protocol }: Entry): Uint8Array {
  if (mac !== undefined) writer.attr(NDA_LLADDR, macToBytes(mac));
  if (protocol !== undefined) writer.attrU8(NDA_PROTOCOL, protocol);
  return writer.finish();
}

interface Decoded {
  readonly family: number;
  readonly entry: Entry;
  readonly attributes: Attributes;
}

function decode(payload: Uint8Array): Decoded {
  const reader = new Reader(payload, 'neighbor');
  const family = reader.u8();
  const index = reader.skip(3).u32();
  const state = reader.u16();
  const flags = reader.u8();
  const attributes = reader.skip(1).attributes();
  const address = attributes.get(NDA_LLADDR);
  const mac = address?.length === 6 ? macFromBytes(address) : undefined;
  const protocol = attributes.u8(NDA_PROTOCOL);
  return { family, entry: { index, state, flags, mac, protocol }, attributes };
}

/** Reads RTM_NEWNEIGH and RTM_DELNEIGH of ARP or NDP; throws MalformedMessageError. */
export function decodeNeighbor(payload: Uint8Array): Neighbor {
  const { family, entry, attributes } = decode(payload);
  const ip = ipAttribute(attributes, NDA_DST, familyFrom(family, 'neighbor'), 'neighbor');
  if (ip === undefined) throw new MalformedMessageError('neighbor: no address (NDA_DST)');
  return { ip, ...entry };
}

/** Reads RTM_NEWNEIGH and RTM_DELNEIGH of family AF_BRIDGE; throws MalformedMessageError. */
export function decodeFdb(payload: Uint8Array): Fdb {
  const { family, entry, attributes } = decode(payload);
  if (family !== AF_BRIDGE) throw new MalformedMessageError(`fdb: family ${family} is not AF_BRIDGE`);
  const destination = attributes.get(NDA_DST);
  return {
    ...entry,
    // The family of the underlay stands nowhere but in the length.
    destination:
      destination === undefined ? undefined : ipFrom(destination, destination.length === 4 ? 4 : 6, 'fdb'),
    masterIndex: attributes.u32(NDA_MASTER),
  };
}

/** The entries of a family, or (AF_BRIDGE) of the forwarding table of one link. */
export function encodeNeighborDump(family: number, index = 0): Uint8Array {
  return new Writer(12).u8(family).zeros(3).u32(index).zeros(4).finish();
}
