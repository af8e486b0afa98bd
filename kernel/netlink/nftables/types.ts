/**
 * Data types of nft. The kernel only stores their numbers (NFTA_SET_KEY_TYPE, NFTA_SET_DATA_TYPE); nft needs them
 * to print and to read a ruleset. Numbers, widths and byte orders are those of nft's datatype table.
 */
export interface NftTypeInfo {
  readonly id: number;
  /** Bytes of one value. */
  readonly bytes: number;
  /** How the kernel holds it in registers and keys. */
  readonly order: 'host' | 'network';
}

const types = {
  nf_proto: { id: 2, bytes: 1, order: 'host' },
  integer: { id: 4, bytes: 4, order: 'host' },
  /** What nft has no name for: raw bytes of a packet, with the type of a number that has no width of its own. */
  integer128: { id: 4, bytes: 16, order: 'network' },
  ipv4_addr: { id: 7, bytes: 4, order: 'network' },
  ipv6_addr: { id: 8, bytes: 16, order: 'network' },
  ether_addr: { id: 9, bytes: 6, order: 'network' },
  ether_type: { id: 10, bytes: 2, order: 'network' },
  inet_proto: { id: 12, bytes: 1, order: 'network' },
  inet_service: { id: 13, bytes: 2, order: 'network' },
  mark: { id: 19, bytes: 4, order: 'host' },
  iface_index: { id: 20, bytes: 4, order: 'host' },
  /** meta priority; nft prints 0x00018003 as `1:8003`. */
  classid: { id: 23, bytes: 4, order: 'host' },
  ct_state: { id: 26, bytes: 4, order: 'host' },
  ct_dir: { id: 27, bytes: 1, order: 'host' },
  ct_status: { id: 28, bytes: 4, order: 'host' },
  icmpv6_type: { id: 29, bytes: 1, order: 'network' },
  fib_addrtype: { id: 38, bytes: 4, order: 'host' },
  /** 16 bytes, the rest of the name filled with zeros. */
  ifname: { id: 41, bytes: 16, order: 'host' },
} as const satisfies Record<string, NftTypeInfo>;

export type NftTypeName = keyof typeof types;

export const nftTypes: Readonly<Record<NftTypeName, NftTypeInfo>> = types;

/** NFT_DATA_VERDICT, the data type of verdict maps. */
export const VERDICT_TYPE = 0xffffff00;

/** nft packs the numbers of a concatenation's types six bits each, the first one highest. */
export function concatTypeId(names: readonly NftTypeName[]): number {
  return names.reduce((id, name) => ((id << 6) | nftTypes[name].id) >>> 0, 0);
}

/** Bytes of a key: a single value as it is, each part of a concatenation filled up to four bytes. */
export function keyBytes(names: readonly NftTypeName[]): number {
  const [first] = names;
  if (names.length === 1 && first !== undefined) return nftTypes[first].bytes;
  return names.reduce((sum, name) => sum + registerBytes(nftTypes[name].bytes), 0);
}

/** Bytes that a value takes in the registers, which are filled in words of four. */
export function registerBytes(bytes: number): number {
  return (bytes + 3) & ~3;
}
