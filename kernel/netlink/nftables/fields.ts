import { type NftTypeName, nftTypes } from './types.ts';

/** NFT_PAYLOAD_*_HEADER */
export type NftPayloadBase = 'link' | 'network' | 'transport';

/** Keys of `meta` that we read or write. */
export type NftMetaKey =
  | 'protocol'
  | 'priority'
  | 'mark'
  | 'iif'
  | 'oif'
  | 'iifname'
  | 'oifname'
  | 'nftrace'
  | 'nfproto'
  | 'l4proto';

/** Keys of `ct`; the last four are read for one direction. */
export type NftCtKey =
  | 'state'
  | 'direction'
  | 'status'
  | 'mark'
  | 'proto-src'
  | 'proto-dst'
  | 'ip saddr'
  | 'ip daddr'
  | 'ip6 saddr'
  | 'ip6 daddr';

/**
 * Something that a rule reads from a packet, or a part of a set's key. Plain data: use the constants below.
 * `type` decides how nft prints it and how values of it are written down.
 */
export type NftField =
  | NftPayloadField
  | { readonly source: 'meta'; readonly key: NftMetaKey; readonly type: NftTypeName }
  | {
      readonly source: 'ct';
      readonly key: NftCtKey;
      readonly direction?: 'original' | 'reply';
      readonly type: NftTypeName;
    }
  | { readonly source: 'fib'; readonly address: 'saddr' | 'daddr'; readonly type: NftTypeName }
  | { readonly source: 'numgen'; readonly modulus: number; readonly type: NftTypeName };

export interface NftPayloadField {
  readonly source: 'payload';
  readonly base: NftPayloadBase;
  readonly offset: number;
  readonly type: NftTypeName;
  /** nft's number of the protocol and of the field in it, for `typeof`. */
  readonly template: readonly [protocol: number, field: number];
}

/** (field & mask) ^ xor, for fields of four bytes in host order. */
export interface NftBitwise {
  readonly source: 'bitwise';
  readonly field: NftField;
  readonly mask: number;
  readonly xor: number;
}

/** Jenkins' hash of a field, modulo a number: four bytes in host order. */
export interface NftHash {
  readonly source: 'jhash';
  readonly field: NftField;
  readonly modulus: number;
  readonly seed: number;
  readonly type: NftTypeName;
}

/** What can be loaded into registers. */
export type NftSource = NftField | NftBitwise | NftHash;

/** PROTO_DESC_*; `RAW` is for places without a name, printed as `@th,64,128`. */
export const RAW = 0;
const ICMP6 = 10;
const TH = 11;
const IP = 12;
const IP6 = 13;
const ARP = 14;
const ETHER = 16;

function payload(
  base: NftPayloadBase,
  offset: number,
  type: NftTypeName,
  template: readonly [number, number],
): NftPayloadField {
  return { source: 'payload', base, offset, type, template };
}

export const ipSaddr = payload('network', 12, 'ipv4_addr', [IP, 11]);
export const ipDaddr = payload('network', 16, 'ipv4_addr', [IP, 12]);
export const ip6Saddr = payload('network', 8, 'ipv6_addr', [IP6, 8]);
export const ip6Daddr = payload('network', 24, 'ipv6_addr', [IP6, 9]);
/** Source port of whatever transport protocol; match `meta l4proto` beside it. */
export const thSport = payload('transport', 0, 'inet_service', [TH, 1]);
export const thDport = payload('transport', 2, 'inet_service', [TH, 2]);

/** Of frames on bridges. */
export const etherSaddr = payload('link', 6, 'ether_addr', [ETHER, 2]);
/** Who sends an ARP message, as it says itself. Match `metaProtocol` before. */
export const arpSaddrEther = payload('network', 8, 'ether_addr', [ARP, 6]);
export const arpSaddrIp = payload('network', 14, 'ipv4_addr', [ARP, 8]);
export const icmp6Type = payload('transport', 0, 'icmpv6_type', [ICMP6, 1]);
/** Of neighbour advertisements: the address that they tell the MAC address of. nft 1.0.6 has no name for it. */
export const icmp6Target = payload('transport', 8, 'integer128', [RAW, 0]);

/** The protocol inside the frame, VLAN tags passed over: see `etherTypes`. */
export const metaProtocol: NftField = { source: 'meta', key: 'protocol', type: 'ether_type' };
export const metaMark: NftField = { source: 'meta', key: 'mark', type: 'mark' };
export const metaPriority: NftField = { source: 'meta', key: 'priority', type: 'classid' };
export const metaL4proto: NftField = { source: 'meta', key: 'l4proto', type: 'inet_proto' };
export const metaNfproto: NftField = { source: 'meta', key: 'nfproto', type: 'nf_proto' };
export const metaIif: NftField = { source: 'meta', key: 'iif', type: 'iface_index' };
export const metaOif: NftField = { source: 'meta', key: 'oif', type: 'iface_index' };
export const metaIifname: NftField = { source: 'meta', key: 'iifname', type: 'ifname' };
export const metaOifname: NftField = { source: 'meta', key: 'oifname', type: 'ifname' };

/** Bits: see `ctStateBits`. */
export const ctState: NftField = { source: 'ct', key: 'state', type: 'ct_state' };
/** Bits: see `ctStatusBits`. */
export const ctStatus: NftField = { source: 'ct', key: 'status', type: 'ct_status' };
/** 0 = original, 1 = reply. */
export const ctDirection: NftField = { source: 'ct', key: 'direction', type: 'ct_dir' };
export const ctMark: NftField = { source: 'ct', key: 'mark', type: 'mark' };

/** Addresses and ports of a connection as its first packet had them, or as its replies have them. */
export function ctTuple(
  direction: 'original' | 'reply',
  key: 'proto-src' | 'proto-dst' | 'ip saddr' | 'ip daddr' | 'ip6 saddr' | 'ip6 daddr',
): NftField {
  const type = key.startsWith('proto') ? 'inet_service' : key.startsWith('ip6') ? 'ipv6_addr' : 'ipv4_addr';
  return { source: 'ct', key, direction, type };
}

export const fibDaddrType: NftField = { source: 'fib', address: 'daddr', type: 'fib_addrtype' };
export const fibSaddrType: NftField = { source: 'fib', address: 'saddr', type: 'fib_addrtype' };

/** A new random number below `modulus` for each packet. In keys it is four bytes in host order. */
export function numgenRandom(modulus: number): NftField {
  return { source: 'numgen', modulus, type: 'integer' };
}

/** `jhash ip saddr mod 251 seed 0x5eed`: the same for the same address, on every machine that has the same seed. */
export function jhash(field: NftField, modulus: number, seed: number): NftHash {
  return { source: 'jhash', field, modulus, seed: seed >>> 0, type: 'integer' };
}

/** `meta priority & ffff:8000` */
export function masked(field: NftField, mask: number): NftBitwise {
  return { source: 'bitwise', field, mask: mask >>> 0, xor: 0 };
}

/** `meta mark | 0x4000` */
export function withBits(field: NftField, bits: number): NftBitwise {
  return { source: 'bitwise', field, mask: ~bits >>> 0, xor: bits >>> 0 };
}

/** `meta mark ^ 0x4000` */
export function flipped(field: NftField, bits: number): NftBitwise {
  return { source: 'bitwise', field, mask: 0xffffffff, xor: bits >>> 0 };
}

export function fieldOf(source: NftField | NftBitwise): NftField {
  return source.source === 'bitwise' ? source.field : source;
}

/** Bytes that the source loads into registers. */
export function fieldBytes(source: NftSource): number {
  return nftTypes[source.source === 'bitwise' ? source.field.type : source.type].bytes;
}

/** IP_CT_*: what `ct state` is made of. */
export const ctStateBits = { invalid: 1, established: 2, related: 4, new: 8, untracked: 64 } as const;
/** IPS_*: what `ct status` is made of. */
export const ctStatusBits = { 'seen-reply': 2, assured: 4, confirmed: 8, snat: 16, dnat: 32 } as const;
/** ETH_P_* */
export const etherTypes = { ip: 0x0800, arp: 0x0806, ip6: 0x86dd } as const;
/** RTN_*: what `fib … type` gives. */
export const fibTypes = { unicast: 1, local: 2, broadcast: 3, multicast: 5 } as const;
