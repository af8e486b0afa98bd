import { type Family, familyOf, type Ip, ipToBytes } from '../../../core/address.ts';
import { MalformedMessageError, Reader, Writer } from '../wire.ts';
import { addressFamily, checkPrefixLength, familyFrom, ipAttribute } from './rtnetlink.ts';

const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_FLAGS = 8;
const IFA_PROTO = 11;

/** No duplicate address detection: the address works at once. IPv6 only. */
export const IFA_F_NODAD = 0x02;

/** One RTM_…ADDR message (struct ifaddrmsg and attributes). */
export interface Address {
  readonly ip: Ip;
  readonly prefixLength: number;
  /** Of the link. */
  readonly index: number;
  /** The other end of a point-to-point link, where it is not `ip`. */
  readonly peer?: Ip | undefined;
  /** IFA_F_… */
  readonly flags?: number | undefined;
  /** RT_SCOPE_…: 0 = everywhere, 253 = link, 254 = host. */
  readonly scope?: number | undefined;
  /** Who made it (IFA_PROTO, since Linux 5.18): 1–3 = the kernel itself. */
  readonly protocol?: number | undefined;
}

export function encodeAddress(address: Address): Uint8Array {
  const { ip, prefixLength, index, peer, flags = 0, scope = 0, protocol } = address;
  const writer = new Writer(64);
  writer.u8(addressFamily(familyOf(ip))).u8(prefixLength);
  writer
    .u8(flags & 0xff)
    .u8(scope)
    .u32(index);
  writer.attr(IFA_ADDRESS, ipToBytes(peer ?? ip)).attr(IFA_LOCAL, ipToBytes(ip));
  if (flags !== 0) writer.attrU32(IFA_FLAGS, flags);
  if (protocol !== undefined) writer.attrU8(IFA_PROTO, protocol);
  return writer.finish();
}

/** Reads RTM_NEWADDR and RTM_DELADDR; throws MalformedMessageError. */
export function decodeAddress(payload: Uint8Array): Address {
  const reader = new Reader(payload, 'address');
  const family: Family = familyFrom(reader.u8(), 'address');
  const prefixLength = checkPrefixLength(reader.u8(), family, 'address');
  const flags = reader.u8();
  const scope = reader.u8();
  const index = reader.u32();
  const attributes = reader.attributes();
  const address = ipAttribute(attributes, IFA_ADDRESS, family, 'address');
  // IPv6 has IFA_LOCAL only on point-to-point links.
  const ip = ipAttribute(attributes, IFA_LOCAL, family, 'address') ?? address;
  if (ip === undefined) throw new MalformedMessageError('address: neither IFA_LOCAL nor IFA_ADDRESS');
  return {
    ip,
    prefixLength,
    index,
    peer: address === ip ? undefined : address,
    flags: attributes.u32(IFA_FLAGS) ?? flags,
    scope,
    protocol: attributes.u8(IFA_PROTO),
  };
}

/** The header alone: all addresses of a family (0 = of every family). */
export function encodeAddressDump(family: number): Uint8Array {
  return new Writer(8).u8(family).zeros(7).finish();
}
