/**
 * Numbers of ctnetlink, as in the kernel's include/uapi/linux/netfilter/nfnetlink_conntrack.h. Attributes are grouped
 * by their enum and lose its prefix: CTA_TUPLE_IP is `tuple.IP`.
 */

/** NFNL_SUBSYS_CTNETLINK (1) in the high byte and IPCTNL_MSG_CT_* in the low one. */
export const message = { NEW: 0x100, GET: 0x101, DELETE: 0x102 } as const;

/** NFPROTO_*; 0 asks for both. */
export const protocolFamilies = { 4: 2, 6: 10 } as const;

export const flow = {
  TUPLE_ORIG: 1,
  TUPLE_REPLY: 2,
  STATUS: 3,
  TIMEOUT: 7,
  MARK: 8,
  COUNTERS_ORIG: 9,
  COUNTERS_REPLY: 10,
  ID: 12,
  ZONE: 18,
  FILTER: 25,
  STATUS_MASK: 26,
} as const;
export const counters = { PACKETS: 1, BYTES: 2 } as const;
export const tuple = { IP: 1, PROTO: 2 } as const;
export const ip = { V4_SRC: 1, V4_DST: 2, V6_SRC: 3, V6_DST: 4 } as const;
export const proto = {
  NUM: 1,
  SRC_PORT: 2,
  DST_PORT: 3,
  ICMP_ID: 4,
  ICMP_TYPE: 5,
  ICMP_CODE: 6,
  ICMPV6_ID: 7,
  ICMPV6_TYPE: 8,
  ICMPV6_CODE: 9,
} as const;
/** CTA_FILTER_*, and the bits in them: which parts of the tuples count (CTA_FILTER_F_*). Since Linux 5.8. */
export const filter = { ORIG_FLAGS: 1, REPLY_FLAGS: 2 } as const;
export const filterBits = { src: 1, dst: 2, protocol: 8, sport: 16, dport: 32 } as const;

/** IPS_*: bits of a flow's status. */
export const flowStatus = { seenReply: 2, assured: 4, confirmed: 8, snat: 16, dnat: 32 } as const;
