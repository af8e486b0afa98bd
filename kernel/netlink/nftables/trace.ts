import type { Ip } from '../../../core/address.ts';
import type { NetlinkMessage } from '../message.ts';
import { NLM_F_CREATE } from '../message.ts';
import { type Attributes, Reader } from '../wire.ts';
import type { NftExpression } from './bytecode.ts';
import * as nft from './constants.ts';
import { match, rule, setMeta } from './expressions.ts';
import { ip6Daddr, ip6Saddr, ipDaddr, ipSaddr, metaL4proto, thDport, thSport } from './fields.ts';
import {
  attributesOf,
  decodeRule,
  newChain,
  newRule,
  payloadWriter,
  type RuleState,
  type TableName,
} from './messages.ts';
import type { NftChain } from './spec.ts';
import { type PacketTuple, readTuple } from './trace-packet.ts';
import { commentUserdata } from './userdata.ts';

/** NFT_MSG_TRACE, and the multicast group that it goes to (NFNLGRP_NFTRACE). */
export const MSG_TRACE = 0xa11;
export const NFNLGRP_NFTRACE = 9;

/** NFTA_TRACE_* */
const attribute = {
  TABLE: 1,
  CHAIN: 2,
  RULE_HANDLE: 3,
  TYPE: 4,
  VERDICT: 5,
  ID: 6,
  NETWORK_HEADER: 8,
  TRANSPORT_HEADER: 9,
  IIF: 10,
  OIF: 12,
  MARK: 14,
  POLICY: 16,
} as const;
/** NFT_TRACETYPE_* */
const kinds = { 1: 'policy', 2: 'return', 3: 'rule' } as const;
/** NF_* and NFT_* verdicts; the upper half of NF_QUEUE is the queue's number. */
const verdicts: Readonly<Record<number, TraceVerdictName>> = {
  0: 'drop',
  1: 'accept',
  2: 'stolen',
  3: 'queue',
  [-1]: 'continue',
  [-2]: 'break',
  [-3]: 'jump',
  [-4]: 'goto',
  [-5]: 'return',
};
const NFTA_RULE_HANDLE = 3;
/** NFT_TABLE_F_OWNER: the table goes with the socket that made it. Since Linux 5.12. */
const TABLE_OWNED = 2;
/** Before all that looks at packets, behind the one that puts fragments together (-400). */
const BEFORE_RAW = -350;
const TCP = 6;
const TCP_FLAGS_OFFSET = 13;

export type TraceVerdictName =
  | 'drop'
  | 'accept'
  | 'stolen'
  | 'queue'
  | 'continue'
  | 'break'
  | 'jump'
  | 'goto'
  | 'return';

/** One step of a traced packet (NFT_MSG_TRACE). */
export interface TraceEvent {
  /** The same for all steps of a packet, as long as it is on one interface. */
  readonly id: number;
  readonly family: TraceFamily;
  readonly table: string;
  readonly chain: string;
  /** A rule was met, a chain was left at its end, or a base chain's policy was asked. */
  readonly kind: 'rule' | 'return' | 'policy' | 'other';
  readonly handle?: bigint | undefined;
  /** The policy, for `policy`. */
  readonly verdict?: TraceVerdictName | undefined;
  /** Of jump and goto. */
  readonly target?: string | undefined;
  /** The first step in each base chain has the packet as it came there. */
  readonly packet?: PacketTuple | undefined;
  /** Interfaces by index. */
  readonly input?: number | undefined;
  readonly output?: number | undefined;
  readonly mark?: number | undefined;
}

/** Of tables; ARP and netdev have traces, too. */
export type TraceFamily = 'inet' | 'ip' | 'ip6' | 'bridge' | 'arp' | 'netdev';

const familyNames: Readonly<Record<number, TraceFamily>> = {
  1: 'inet',
  2: 'ip',
  3: 'arp',
  5: 'netdev',
  7: 'bridge',
  10: 'ip6',
};

/** Throws MalformedMessageError. */
export function decodeTrace(message: NetlinkMessage): TraceEvent {
  const attributes = attributesOf(message, 'NFT_MSG_TRACE');
  const type = attributes.u32be(attribute.TYPE);
  const kind = kinds[type as keyof typeof kinds] ?? 'other';
  const policy = attributes.u32be(attribute.POLICY);
  const { verdict, target } = readVerdict(attributes);
  return {
    id: attributes.u32be(attribute.ID) ?? 0,
    family: familyNames[new Reader(message.payload, 'NFT_MSG_TRACE').u8()] ?? 'inet',
    table: attributes.text(attribute.TABLE) ?? '',
    chain: attributes.text(attribute.CHAIN) ?? '',
    kind,
    handle: attributes.u64be(attribute.RULE_HANDLE),
    verdict: kind === 'policy' && policy !== undefined ? verdicts[policy | 0] : verdict,
    target,
    packet: readTuple(attributes.get(attribute.NETWORK_HEADER), attributes.get(attribute.TRANSPORT_HEADER)),
    input: attributes.u32be(attribute.IIF),
    output: attributes.u32be(attribute.OIF),
    mark: attributes.u32be(attribute.MARK),
  };
}

function readVerdict(attributes: Attributes): Pick<TraceEvent, 'verdict' | 'target'> {
  const verdict = attributes.nested(attribute.VERDICT);
  const code = verdict?.u32be(nft.verdict.CODE);
  if (code === undefined) return {};
  const signed = code | 0;
  return { verdict: verdicts[signed < 0 ? signed : signed & 0xff], target: verdict?.text(nft.verdict.CHAIN) };
}

export interface NumberedRule extends RuleState {
  readonly handle: bigint;
}

/** A rule with the number by which traces call it. */
export function decodeNumberedRule(message: NetlinkMessage): NumberedRule {
  const handle = attributesOf(message, 'NFT_MSG_NEWRULE').u64be(NFTA_RULE_HANDLE) ?? 0n;
  return { ...decodeRule(message), handle };
}

/** Packets to trace. */
export interface TraceFilter {
  readonly source: Ip;
  readonly destination: Ip;
  /** IPPROTO_* */
  readonly protocol: number;
  /** Undefined: any. */
  readonly sourcePort?: number | undefined;
  readonly port: number;
}

/** The messages that make a table which has these packets traced, of TCP only those that begin a connection. */
export function traceTable(name: TableName, filter: TraceFilter): NetlinkMessage[] {
  const traced = rule('traced', ...filterMatches(name.family === 'ip6', filter), setMeta('nftrace', 1));
  const chains = (['prerouting', 'output'] as const).map((hook): NftChain => {
    return { name: hook, hook: { type: 'filter', hook, priority: BEFORE_RAW }, rules: [traced] };
  });
  return [
    newOwnedTable(name),
    ...chains.map((chain) => newChain(name, chain)),
    ...chains.map((chain) => newRule(name, chain.name, traced, 1)),
  ];
}

function filterMatches(
  isV6: boolean,
  { source, destination, protocol, sourcePort, port }: TraceFilter,
): NftExpression[][] {
  return [
    match(isV6 ? ip6Saddr : ipSaddr, '==', source),
    match(isV6 ? ip6Daddr : ipDaddr, '==', destination),
    match(metaL4proto, '==', protocol),
    ...(sourcePort === undefined ? [] : [match(thSport, '==', sourcePort)]),
    match(thDport, '==', port),
    ...(protocol === TCP ? [isFirstOfTcp] : []),
  ];
}

/** SYN without ACK. */
const isFirstOfTcp: NftExpression[] = [
  { kind: 'payload', target: 0, base: 'transport', offset: TCP_FLAGS_OFFSET, bytes: 1 },
  { kind: 'bitwise', from: 0, target: 0, mask: '12', xor: '00' },
  { kind: 'cmp', from: 0, op: '==', data: '02' },
];

function newOwnedTable({ family, table }: TableName): NetlinkMessage {
  const payload = payloadWriter(family)
    .attrText(nft.table.NAME, table)
    .attrU32be(nft.table.FLAGS, TABLE_OWNED)
    .attr(nft.table.USERDATA, commentUserdata('fairlead trace: gone when the command ends'))
    .finish();
  const operation = `NFT_MSG_NEWTABLE ${family} ${table}`;
  return { type: nft.message.NEWTABLE, flags: NLM_F_CREATE, payload, operation };
}
