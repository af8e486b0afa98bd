import { type Attributes, Reader, Writer } from '../wire.ts';

export const RTM_NEWQDISC = 36;
export const RTM_DELQDISC = 37;
export const RTM_GETQDISC = 38;

/** Parent of what hangs on the device itself, in the way of frames going out. */
export const TC_H_ROOT = 0xffffffff;
/** Parent of the hook for frames coming in; its qdisc has always the handle {@link INGRESS_HANDLE}. */
export const TC_H_INGRESS = 0xfffffff1;
export const INGRESS_HANDLE = 0xffff0000;

const TCA_KIND = 1;
const TCA_OPTIONS = 2;
const TCA_TBF_PARMS = 1;
const TCA_TBF_RATE64 = 4;
const TCA_TBF_PRATE64 = 5;
const TCA_TBF_BURST = 6;
/** Rates count bytes of Ethernet frames; without it the kernel wants tables of durations from user space. */
const TC_LINKLAYER_ETHERNET = 1;
const U32_MAX = 0xffffffff;

/** A token bucket (sch_tbf): `bufferTicks` fill up at `rateBytes` a second, frames that find none wait. */
export interface Tbf {
  readonly rateBytes: number;
  /** 0: no second bucket. */
  readonly peakRateBytes?: number | undefined;
  /** Bytes that may wait; more are dropped. */
  readonly limitBytes: number;
  /** The time in which a full bucket comes in, in units of 64 ns, modulo 2^32. */
  readonly bufferTicks: number;
  /** Write only: the size of the bucket in bytes, which goes before its time. */
  readonly burstBytes?: number | undefined;
}

/** One RTM_…QDISC message (struct tcmsg and attributes). */
export interface Qdisc {
  /** Of the link. */
  readonly index: number;
  /** Major number in the upper 16 bits; 0 of those that the kernel gives to every link. */
  readonly handle: number;
  readonly parent: number;
  readonly kind?: string | undefined;
  readonly tbf?: Tbf | undefined;
}

export function encodeQdisc({ index, handle, parent, kind, tbf }: Qdisc): Uint8Array {
  const writer = writeTrafficHeader(new Writer(128), index, handle, parent);
  if (kind !== undefined) writer.attrText(TCA_KIND, kind);
  if (tbf !== undefined) writer.nest(TCA_OPTIONS, () => writeTbf(writer, tbf));
  return writer.finish();
}

/** struct tcmsg; `info` is used by filters. */
export function writeTrafficHeader(
  writer: Writer,
  index: number,
  handle: number,
  parent: number,
  info = 0,
): Writer {
  return writer.zeros(4).i32(index).u32(handle).u32(parent).u32(info);
}

function writeTbf(writer: Writer, tbf: Tbf): void {
  const { rateBytes, peakRateBytes = 0, limitBytes, bufferTicks, burstBytes } = tbf;
  const parameters = new Writer(36);
  writeRate(parameters, rateBytes);
  writeRate(parameters, peakRateBytes);
  parameters.u32(limitBytes).u32(bufferTicks).u32(0);
  writer.attr(TCA_TBF_PARMS, parameters.finish());
  if (rateBytes > U32_MAX) writer.attrU64(TCA_TBF_RATE64, BigInt(rateBytes));
  if (peakRateBytes > U32_MAX) writer.attrU64(TCA_TBF_PRATE64, BigInt(peakRateBytes));
  if (burstBytes !== undefined) writer.attrU32(TCA_TBF_BURST, burstBytes);
}

/** struct tc_ratespec: what does not fit in stands in an attribute of its own. */
function writeRate(writer: Writer, rateBytes: number): void {
  const linkLayer = rateBytes === 0 ? 0 : TC_LINKLAYER_ETHERNET;
  writer.u8(0).u8(linkLayer).zeros(6).u32(Math.min(rateBytes, U32_MAX));
}

/** Reads RTM_NEWQDISC and RTM_DELQDISC; throws MalformedMessageError. */
export function decodeQdisc(payload: Uint8Array): Qdisc {
  const reader = new Reader(payload, 'qdisc');
  const index = reader.skip(4).i32();
  const handle = reader.u32();
  const parent = reader.u32();
  const attributes = reader.skip(4).attributes();
  const kind = attributes.text(TCA_KIND);
  const options = kind === 'tbf' ? attributes.nested(TCA_OPTIONS) : undefined;
  return { index, handle, parent, kind, tbf: options === undefined ? undefined : readTbf(options) };
}

function readTbf(options: Attributes): Tbf | undefined {
  const parameters = options.get(TCA_TBF_PARMS);
  if (parameters === undefined) return undefined;
  const reader = new Reader(parameters, 'tbf');
  const rate = reader.skip(8).u32();
  const peakRate = reader.skip(8).u32();
  const limitBytes = reader.u32();
  const bufferTicks = reader.u32();
  return {
    rateBytes: Number(options.u64(TCA_TBF_RATE64) ?? rate),
    peakRateBytes: Number(options.u64(TCA_TBF_PRATE64) ?? peakRate),
    limitBytes,
    bufferTicks,
    burstBytes: options.u32(TCA_TBF_BURST),
  };
}

/** The qdiscs of all links: the kernel takes no index here. */
export function encodeQdiscDump(): Uint8Array {
  return writeTrafficHeader(new Writer(20), 0, 0, 0).finish();
}
