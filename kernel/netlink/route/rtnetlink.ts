/** Numbers and small pieces that all families of rtnetlink share (linux/rtnetlink.h). */
import { addressBits, type Family, type Ip, ipFromBytes } from '../../../core/address.ts';
import { type Attributes, MalformedMessageError } from '../wire.ts';

export const RTM_NEWLINK = 16;
export const RTM_DELLINK = 17;
export const RTM_GETLINK = 18;
export const RTM_SETLINK = 19;
export const RTM_NEWADDR = 20;
export const RTM_DELADDR = 21;
export const RTM_GETADDR = 22;
export const RTM_NEWROUTE = 24;
export const RTM_DELROUTE = 25;
export const RTM_GETROUTE = 26;
export const RTM_NEWNEIGH = 28;
export const RTM_DELNEIGH = 29;
export const RTM_GETNEIGH = 30;
export const RTM_NEWRULE = 32;
export const RTM_DELRULE = 33;
export const RTM_GETRULE = 34;
export const RTM_NEWNETCONF = 80;

export const AF_UNSPEC = 0;
export const AF_INET = 2;
export const AF_BRIDGE = 7;
export const AF_INET6 = 10;

/** Multicast groups for notifications (RTNLGRP_…). */
export const RTNLGRP_LINK = 1;
export const RTNLGRP_NEIGH = 3;
export const RTNLGRP_IPV4_IFADDR = 5;
export const RTNLGRP_IPV4_ROUTE = 7;
export const RTNLGRP_IPV4_RULE = 8;
export const RTNLGRP_IPV6_IFADDR = 9;
export const RTNLGRP_IPV6_ROUTE = 11;
export const RTNLGRP_IPV4_NETCONF = 24;
export const RTNLGRP_IPV6_NETCONF = 25;

/** Mark of ownership of routes, rules, addresses and neighbours; unused in iproute2's rt_protos. */
export const FAIRLEAD_PROTOCOL = 88;
/** Of routes that name no maker: iproute2 writes it by default, and flannel. */
export const RTPROT_BOOT = 3;

export function addressFamily(family: Family): number {
  return family === 4 ? AF_INET : AF_INET6;
}

/** The IP family of a message; `what` names the message in the error. */
export function familyFrom(number: number, what: string): Family {
  if (number === AF_INET) return 4;
  if (number === AF_INET6) return 6;
  throw new MalformedMessageError(`${what}: family ${number} is neither IPv4 nor IPv6`);
}

/** An attribute that holds one address of a family. */
export function ipAttribute(
  attributes: Attributes,
  type: number,
  family: Family,
  what: string,
): Ip | undefined {
  const value = attributes.get(type);
  return value === undefined ? undefined : ipFrom(value, family, what);
}

export function ipFrom(value: Uint8Array, family: Family, what: string): Ip {
  if (value.length * 8 === addressBits(family)) return ipFromBytes(value);
  throw new MalformedMessageError(`${what}: an IPv${family} address of ${value.length} bytes`);
}

/** A prefix length of a message, checked against its family. */
export function checkPrefixLength(length: number, family: Family, what: string): number {
  if (length <= addressBits(family)) return length;
  throw new MalformedMessageError(`${what}: prefix length ${length} in IPv${family}`);
}
