/**
 * Numbers of nf_tables' messages and attributes, as in the kernel's include/uapi/linux/netfilter/nf_tables.h.
 * Attributes are grouped by their enum and lose its prefix: NFTA_CHAIN_HOOK is `chain.HOOK`.
 */

/** NFNL_SUBSYS_NFTABLES: the high byte of message types. */
export const SUBSYSTEM = 10;

/** NFT_MSG_*, complete message types. */
export const message = {
  NEWTABLE: 0xa00,
  GETTABLE: 0xa01,
  DELTABLE: 0xa02,
  NEWCHAIN: 0xa03,
  GETCHAIN: 0xa04,
  NEWRULE: 0xa06,
  GETRULE: 0xa07,
  NEWSET: 0xa09,
  GETSET: 0xa0a,
  NEWSETELEM: 0xa0c,
  GETSETELEM: 0xa0d,
  DELSETELEM: 0xa0e,
  NEWGEN: 0xa0f,
  GETGEN: 0xa10,
} as const;

/** NFNL_MSG_BATCH_BEGIN and _END: everything between is one transaction. */
export const BATCH_BEGIN = 0x10;
export const BATCH_END = 0x11;

/** NFPROTO_*; `unspec` asks for every family. */
export const families = { unspec: 0, inet: 1, ip: 2, bridge: 7, ip6: 10 } as const;

/** NFTA_LIST_ELEM, of all lists. */
export const LIST_ELEM = 1;

export const generation = { ID: 1, PROCESS_ID: 2, PROCESS_NAME: 3 } as const;
export const table = { NAME: 1, FLAGS: 2, HANDLE: 4, USERDATA: 6 } as const;
export const chain = { TABLE: 1, NAME: 3, HOOK: 4, POLICY: 5, USE: 6, TYPE: 7 } as const;
export const hook = { NUMBER: 1, PRIORITY: 2 } as const;
export const rule = { TABLE: 1, CHAIN: 2, EXPRESSIONS: 4, USERDATA: 7 } as const;
export const set = {
  TABLE: 1,
  NAME: 2,
  FLAGS: 3,
  KEY_TYPE: 4,
  KEY_LEN: 5,
  DATA_TYPE: 6,
  DATA_LEN: 7,
  DESC: 9,
  ID: 10,
  TIMEOUT: 11,
  USERDATA: 13,
  EXPR: 17,
} as const;
/** NFTA_SET_DESC_* and, below its CONCAT, NFTA_SET_FIELD_LEN. */
export const setDescription = { SIZE: 1, CONCAT: 2, FIELD_LEN: 1 } as const;
export const elementList = { TABLE: 1, SET: 2, ELEMENTS: 3, SET_ID: 4 } as const;
export const element = {
  KEY: 1,
  DATA: 2,
  FLAGS: 3,
  TIMEOUT: 4,
  EXPIRATION: 5,
  USERDATA: 6,
  EXPR: 7,
  KEY_END: 10,
} as const;

export const expression = { NAME: 1, DATA: 2 } as const;
export const data = { VALUE: 1, VERDICT: 2 } as const;
export const verdict = { CODE: 1, CHAIN: 2 } as const;
export const payload = { DREG: 1, BASE: 2, OFFSET: 3, LEN: 4 } as const;
export const meta = { DREG: 1, KEY: 2, SREG: 3 } as const;
export const ct = { DREG: 1, KEY: 2, DIRECTION: 3, SREG: 4 } as const;
export const fib = { DREG: 1, RESULT: 2, FLAGS: 3 } as const;
export const numgen = { DREG: 1, MODULUS: 2, TYPE: 3, OFFSET: 4 } as const;
export const hash = { SREG: 1, DREG: 2, LEN: 3, MODULUS: 4, SEED: 5, TYPE: 7 } as const;
export const bitwise = { SREG: 1, DREG: 2, LEN: 3, MASK: 4, XOR: 5 } as const;
export const cmp = { SREG: 1, OP: 2, DATA: 3 } as const;
export const range = { SREG: 1, OP: 2, FROM: 3, TO: 4 } as const;
export const lookup = { SET: 1, SREG: 2, DREG: 3, SET_ID: 4, FLAGS: 5 } as const;
export const dynset = { SET: 1, OP: 3, SREG_KEY: 4, SREG_DATA: 5, TIMEOUT: 6 } as const;
export const immediate = { DREG: 1, DATA: 2 } as const;
export const nat = {
  TYPE: 1,
  FAMILY: 2,
  ADDRESS_MIN: 3,
  ADDRESS_MAX: 4,
  PORT_MIN: 5,
  PORT_MAX: 6,
  FLAGS: 7,
} as const;
export const masq = { FLAGS: 1 } as const;
export const reject = { TYPE: 1, CODE: 2 } as const;
export const counter = { BYTES: 1, PACKETS: 2 } as const;

/** NFT_SET_* flags. */
export const setFlags = {
  ANONYMOUS: 0x1,
  CONSTANT: 0x2,
  INTERVAL: 0x4,
  MAP: 0x8,
  TIMEOUT: 0x10,
  EVAL: 0x20,
  CONCAT: 0x80,
} as const;
/** The kernel puts the lowest free number in. */
export const ANONYMOUS_SET = '__set%d';
/** NFT_SET_ELEM_INTERVAL_END */
export const ELEMENT_INTERVAL_END = 1;

/** NF_INET_*, and NF_BR_*, which are the same. */
export const hookNumbers = { prerouting: 0, input: 1, forward: 2, output: 3, postrouting: 4 } as const;
/** NF_DROP and NF_ACCEPT. */
export const policies = { drop: 0, accept: 1 } as const;
/** NFT_* verdicts and NF_* ones. */
export const verdictCodes = { accept: 1, drop: 0, continue: -1, jump: -3, goto: -4, return: -5 } as const;
/** NFT_PAYLOAD_* */
export const payloadBases = { link: 0, network: 1, transport: 2 } as const;
/** NFT_META_* */
export const metaKeys = {
  protocol: 1,
  priority: 2,
  mark: 3,
  iif: 4,
  oif: 5,
  iifname: 6,
  oifname: 7,
  nftrace: 12,
  nfproto: 15,
  l4proto: 16,
} as const;
/** NFT_CT_* */
export const ctKeys = {
  state: 0,
  direction: 1,
  status: 2,
  mark: 3,
  'proto-src': 11,
  'proto-dst': 12,
  'ip saddr': 19,
  'ip daddr': 20,
  'ip6 saddr': 21,
  'ip6 daddr': 22,
} as const;
export const ctDirections = { original: 0, reply: 1 } as const;
/** NFTA_FIB_F_* */
export const fibFlags = { saddr: 1, daddr: 2 } as const;
export const FIB_RESULT_ADDRTYPE = 3;
export const NG_RANDOM = 1;
/** NFT_HASH_JENKINS */
export const HASH_JENKINS = 0;
/** NFT_CMP_*; the first two are NFT_RANGE_* too. */
export const compareOps = { '==': 0, '!=': 1, '<': 2, '<=': 3, '>': 4, '>=': 5 } as const;
export const LOOKUP_INVERTED = 1;
export const dynsetOps = { add: 0, update: 1, delete: 2 } as const;
export const natTypes = { snat: 0, dnat: 1 } as const;
/** NF_NAT_RANGE_* */
export const natFlags = { addresses: 1, ports: 2, random: 4, persistent: 8, fullyRandom: 16 } as const;
/** NFT_REJECT_* */
export const rejectTypes = { icmp: 0, 'tcp reset': 1, icmpx: 2 } as const;

/** NFT_REG_1 begins at word 0, and is written so where a value begins on it; words between are NFT_REG32_*. */
export function registerNumber(word: number): number {
  if (!Number.isInteger(word) || word < 0 || word > 15)
    throw new RangeError(`register word ${word}: 0 to 15`);
  return word % 4 === 0 ? 1 + word / 4 : 8 + word;
}

/** The inverse of {@link registerNumber}; undefined for the verdict register. */
export function registerWord(number: number): number | undefined {
  if (number === 0) return undefined;
  return number < 8 ? (number - 1) * 4 : number - 8;
}
