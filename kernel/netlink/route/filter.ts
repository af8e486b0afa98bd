import { type Attributes, Reader, Writer } from '../wire.ts';
import { writeTrafficHeader } from './qdisc.ts';

export const RTM_NEWTFILTER = 44;
export const RTM_DELTFILTER = 45;
export const RTM_GETTFILTER = 46;

/** Frames of every protocol. */
export const ETH_P_ALL = 3;

const TCA_KIND = 1;
const TCA_OPTIONS = 2;
const TCA_U32_CLASSID = 1;
const TCA_U32_SEL = 5;
const TCA_U32_ACT = 7;
const TC_U32_TERMINAL = 1;
const TCA_ACT_KIND = 1;
const TCA_ACT_OPTIONS = 2;
const TCA_MIRRED_PARMS = 2;
const TC_ACT_STOLEN = 4;
const TCA_EGRESS_REDIR = 1;
const U32_KEY_BYTES = 16;

/** One RTM_…TFILTER message (struct tcmsg and attributes). */
export interface Filter {
  /** Of the link. */
  readonly index: number;
  readonly handle: number;
  /** Handle of the qdisc. */
  readonly parent: number;
  /** Tried from the lowest up. */
  readonly priority: number;
  /** ETH_P_… */
  readonly protocol: number;
  readonly kind?: string | undefined;
  /** kind u32: where the frame is said to belong; it does nothing on the way in. */
  readonly classId?: number | undefined;
  /**
   * kind u32: all that match are sent out by the link of this index. Read: 0 when that link is gone.
   * Written: with a match of every frame, which u32 can do where the kernel has no cls_matchall.
   */
  readonly redirectIndex?: number | undefined;
  /** Read only: it matches something. The tables and heads that hold filters are told in the same dump. */
  readonly isRule?: boolean | undefined;
}

export function encodeFilter(filter: Filter): Uint8Array {
  const { index, handle, parent, priority, protocol, kind, classId, redirectIndex } = filter;
  const info = ((priority << 16) | swap16(protocol)) >>> 0;
  const writer = writeTrafficHeader(new Writer(160), index, handle, parent, info);
  if (kind !== undefined) writer.attrText(TCA_KIND, kind);
  if (redirectIndex === undefined) return writer.finish();
  writer.nest(TCA_OPTIONS, () => {
    if (classId !== undefined) writer.attrU32(TCA_U32_CLASSID, classId);
    writer.attr(TCA_U32_SEL, matchAll());
    writer.nest(TCA_U32_ACT, () => writer.nest(1, () => writeRedirect(writer, redirectIndex)));
  });
  return writer.finish();
}

/** struct tc_u32_sel with one key: no bit of the frame is looked at. */
function matchAll(): Uint8Array {
  const keys = 1;
  const writer = new Writer(32).u8(TC_U32_TERMINAL).u8(0).u8(keys);
  return writer.zeros(13 + keys * U32_KEY_BYTES).finish();
}

function writeRedirect(writer: Writer, redirectIndex: number): void {
  const parameters = new Writer(28).u32(0).u32(0).i32(TC_ACT_STOLEN).u32(0).u32(0);
  parameters.i32(TCA_EGRESS_REDIR).u32(redirectIndex);
  writer.attrText(TCA_ACT_KIND, 'mirred');
  writer.nest(TCA_ACT_OPTIONS, () => writer.attr(TCA_MIRRED_PARMS, parameters.finish()));
}

/** Reads RTM_NEWTFILTER and RTM_DELTFILTER; throws MalformedMessageError. */
export function decodeFilter(payload: Uint8Array): Filter {
  const reader = new Reader(payload, 'filter');
  const index = reader.skip(4).i32();
  const handle = reader.u32();
  const parent = reader.u32();
  const info = reader.u32();
  const attributes = reader.attributes();
  const kind = attributes.text(TCA_KIND);
  const options = kind === 'u32' ? attributes.nested(TCA_OPTIONS) : undefined;
  return {
    index,
    handle,
    parent,
    priority: info >>> 16,
    protocol: swap16(info & 0xffff),
    kind,
    classId: options?.u32(TCA_U32_CLASSID),
    redirectIndex: options === undefined ? undefined : readRedirect(options),
    isRule: kind === 'u32' ? (options?.has(TCA_U32_SEL) ?? false) : handle !== 0,
  };
}

/** Of several actions the first that redirects. */
function readRedirect(options: Attributes): number | undefined {
  for (const { value } of options.nested(TCA_U32_ACT) ?? []) {
    const action = new Reader(value, 'filter action').attributes();
    if (action.text(TCA_ACT_KIND) !== 'mirred') continue;
    const parameters = action.nested(TCA_ACT_OPTIONS)?.get(TCA_MIRRED_PARMS);
    if (parameters === undefined) continue;
    const reader = new Reader(parameters, 'mirred').skip(20);
    const isRedirect = reader.i32() === TCA_EGRESS_REDIR;
    if (isRedirect) return reader.u32();
  }
  return undefined;
}

function swap16(value: number): number {
  return ((value & 0xff) << 8) | (value >>> 8);
}

/** The filters of one link at one qdisc. */
export function encodeFilterDump(index: number, parent: number): Uint8Array {
  return writeTrafficHeader(new Writer(20), index, 0, parent).finish();
}
