import { type Cidr, type Family, ipOf, ipToBytes, prefixLengthOf } from '../../../core/address.ts';
import { type Attributes, Reader, Writer } from '../wire.ts';
import { addressFamily, checkPrefixLength, familyFrom, ipAttribute } from './rtnetlink.ts';

const FRA_DST = 1;
const FRA_SRC = 2;
const FRA_PRIORITY = 6;
const FRA_FWMARK = 10;
const FRA_TABLE = 15;
const FRA_FWMASK = 16;
const FRA_PROTOCOL = 21;

/** Look in a table. */
export const FR_ACT_TO_TBL = 1;

/** One RTM_…RULE message (struct fib_rule_hdr and attributes). */
export interface Rule {
  readonly family: Family;
  readonly from?: Cidr | undefined;
  readonly to?: Cidr | undefined;
  /** Rules are tried from the lowest up; 0 when the kernel says nothing. */
  readonly priority: number;
  readonly table: number;
  readonly fwmark?: number | undefined;
  readonly fwmask?: number | undefined;
  /** FR_ACT_… */
  readonly action: number;
  /** Who made it (RTPROT_…). */
  readonly protocol?: number | undefined;
}

export function encodeRule(rule: Rule): Uint8Array {
  const { family, from, to, table, action, fwmark, fwmask, priority, protocol } = rule;
  const writer = new Writer(96);
  writer.u8(addressFamily(family)).u8(to === undefined ? 0 : prefixLengthOf(to));
  writer.u8(from === undefined ? 0 : prefixLengthOf(from)).u8(0);
  writer
    .u8(table < 256 ? table : 0)
    .u8(0)
    .u8(0)
    .u8(action)
    .u32(0);
  if (to !== undefined && prefixLengthOf(to) > 0) writer.attr(FRA_DST, ipToBytes(ipOf(to)));
  if (from !== undefined && prefixLengthOf(from) > 0) writer.attr(FRA_SRC, ipToBytes(ipOf(from)));
  writer.attrU32(FRA_PRIORITY, priority);
  if (fwmark !== undefined) writer.attrU32(FRA_FWMARK, fwmark);
  if (fwmask !== undefined) writer.attrU32(FRA_FWMASK, fwmask);
  writer.attrU32(FRA_TABLE, table);
  if (protocol !== undefined) writer.attrU8(FRA_PROTOCOL, protocol);
  return writer.finish();
}

/** Reads RTM_NEWRULE and RTM_DELRULE; throws MalformedMessageError. */
export function decodeRule(payload: Uint8Array): Rule {
  const reader = new Reader(payload, 'rule');
  const family = familyFrom(reader.u8(), 'rule');
  const toLength = checkPrefixLength(reader.u8(), family, 'rule');
  const fromLength = checkPrefixLength(reader.u8(), family, 'rule');
  const table = reader.skip(1).u8();
  const action = reader.skip(2).u8();
  const attributes = reader.skip(4).attributes();
  return {
    family,
    from: cidrAttribute(attributes, FRA_SRC, fromLength, family),
    to: cidrAttribute(attributes, FRA_DST, toLength, family),
    priority: attributes.u32(FRA_PRIORITY) ?? 0,
    table: attributes.u32(FRA_TABLE) ?? table,
    fwmark: attributes.u32(FRA_FWMARK),
    fwmask: attributes.u32(FRA_FWMASK),
    action,
    protocol: attributes.u8(FRA_PROTOCOL),
  };
}

function cidrAttribute(
  attributes: Attributes,
  type: number,
  length: number,
  family: Family,
): Cidr | undefined {
  const ip = ipAttribute(attributes, type, family, 'rule');
  return ip === undefined ? undefined : (`${ip}/${length}` as Cidr);
}

export function encodeRuleDump(family: Family): Uint8Array {
  return new Writer(12).u8(addressFamily(family)).zeros(11).finish();
}
