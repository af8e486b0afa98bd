import { familyOf, type Ip, ipToBytes } from '../../core/address.ts';
import { hexOf, hexU16be, hexU32 } from '../../kernel/netlink/nftables/keys.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import { type Protocol, protocolNumbers } from '../protocol.ts';
import type { Endpoint, Frontend } from '../view.ts';

/*
 * Elements as the kernel compares them: every field is padded to four bytes; addresses, ports and protocols stand in
 * network order, a list's value and a slot's number in the order of the machine.
 */

/** How a connection to a frontend is treated: the chain that the map `kinds` leads to. */
export const kinds = { 'cluster-ip': 1, external: 2 } as const;

/*
 * A value is the list's number (16 bits), the kind (4) and the number of slots (12). The number fills the upper half,
 * because nft prints and reads these values as two halves; sixteen kinds are room for policies and affinity.
 */

/** Slots of one list: what the lower 12 bits of a value hold. */
export const MAX_SLOTS = 0xfff;
/** Lists of one family: what the upper 16 bits of a value hold. 0 is no list. */
export const MAX_LISTS = 0xffff;

export const ID_MASK = 0xffff0000;
export const KIND_MASK = 0xf000;

/** What a frontend leads to. nft lists the value `12:1003` for list 0x12, kind 1, 3 slots. */
export interface FrontendValue {
  readonly id: number;
  readonly kind: number;
  readonly slots: number;
}

/** A frontend in `services` or `nodeports`; without endpoints in their twins, whose connections are refused. */
export function frontendElement(
  frontend: Frontend,
  protocol: Protocol,
  value: FrontendValue | undefined,
): NftElement {
  const key = frontendKey(frontend, protocol);
  const onNode = frontend.kind === 'nodePort';
  if (value === undefined) return { set: onNode ? 'no-endpoint-nodeports' : 'no-endpoints', key };
  const data = hexU32(((value.id << 16) | (value.kind << 12) | value.slots) >>> 0);
  return { set: onNode ? 'nodeports' : 'services', key, data };
}

function frontendKey(frontend: Frontend, protocol: Protocol): string {
  const ip = frontend.kind === 'nodePort' ? '' : ipHex(frontend.ip);
  return `${ip}${protocolHex[protocol]}${hexU16be(frontend.port)}0000`;
}

export function decodeValue(data: string): FrontendValue {
  const value = u32OfHex(data, 0);
  return { id: value >>> 16, kind: (value & KIND_MASK) >>> 12, slots: value & MAX_SLOTS };
}

/** One slot of a list, in `endpoints`. */
export function slotElement(list: ListKey, slot: number, data: string): NftElement {
  const key = hexU32((list.id << 16) >>> 0) + protocolHex[list.protocol] + hexU32(slot);
  return { set: 'endpoints', key, data };
}

type ListKey = { readonly id: number; readonly protocol: Protocol };

/** An endpoint as data of the map `endpoints`. */
export function endpointData({ ip, port }: Pick<Endpoint, 'ip' | 'port'>): string {
  return `${ipHex(ip)}${hexU16be(port)}0000`;
}

/** Where an element of `endpoints` has its place. */
export function decodeSlot(key: string): { readonly id: number; readonly slot: number } {
  return { id: u32OfHex(key, 0) >>> 16, slot: u32OfHex(key, 16) };
}

/** A little-endian number of four bytes from the given digit on. */
function u32OfHex(hex: string, at: number): number {
  const digits = Number.parseInt(hex.slice(at, at + 8), 16);
  const swapped = ((digits & 0xff00ff) << 8) | ((digits >>> 8) & 0xff00ff);
  return ((swapped << 16) | (swapped >>> 16)) >>> 0;
}

/** A connection from this pod to itself, in `hairpin`. */
export function hairpinElement(ip: Ip): NftElement {
  return { set: 'hairpin', key: ipHex(ip).repeat(2) };
}

/** An address on which node ports are open, in `nodeport-addresses`. */
export function nodeAddressElement(ip: Ip): NftElement {
  return { set: 'nodeport-addresses', key: ipHex(ip) };
}

const protocolHex: Readonly<Record<Protocol, string>> = {
  tcp: hexU32(protocolNumbers.tcp),
  udp: hexU32(protocolNumbers.udp),
  sctp: hexU32(protocolNumbers.sctp),
};

function ipHex(ip: Ip): string {
  return familyOf(ip) === 4 ? ip4Hex(ip) : hexOf(ipToBytes(ip));
}

/** As hexOf(ipToBytes(ip)), without the bytes: most of the work of a full plan is this. */
function ip4Hex(ip: Ip): string {
  let text = '';
  let part = 0;
  for (let at = 0; at < ip.length; at += 1) {
    const code = ip.charCodeAt(at);
    if (code === DOT) {
      text += byteHex[part];
      part = 0;
    } else part = part * 10 + code - ZERO;
  }
  return text + byteHex[part];
}

const DOT = 46;
const ZERO = 48;
const byteHex = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));
