/** VLANs of bridge ports: RTM_…LINK messages of family AF_BRIDGE (linux/if_bridge.h). */
import { Reader, Writer } from '../wire.ts';
import { AF_BRIDGE } from './rtnetlink.ts';

const IFLA_MASTER = 10;
const IFLA_LINKINFO = 18;
const IFLA_INFO_DATA = 2;
const IFLA_AF_SPEC = 26;
const IFLA_EXT_MASK = 29;
const IFLA_BR_VLAN_DEFAULT_PVID = 39;
const IFLA_BRIDGE_VLAN_INFO = 2;
/** The answer tells VLANs, runs of equal ones as ranges. */
const RTEXT_FILTER_BRVLAN_COMPRESSED = 4;
const BRIDGE_VLAN_INFO_PVID = 2;
const BRIDGE_VLAN_INFO_UNTAGGED = 4;
const BRIDGE_VLAN_INFO_RANGE_BEGIN = 8;
const BRIDGE_VLAN_INFO_RANGE_END = 16;

/** How frames of one VLAN pass a port. */
export interface VlanFlags {
  /** Frames that come in without a tag belong to this VLAN; at most one of a port. */
  readonly isPvid: boolean;
  /** Frames go out without a tag. */
  readonly isUntagged: boolean;
}

/** The VLANs of a port by number, 1 to 4094. */
export type PortVlans = ReadonlyMap<number, VlanFlags>;

/** What one message tells of a port, or of the bridge itself. */
export interface VlanLink {
  readonly index: number;
  /** Of the bridge. */
  readonly masterIndex?: number | undefined;
  readonly vlans: PortVlans;
}

/** For RTM_SETLINK (VLANs are added, or get other flags) and RTM_DELLINK (VLANs are removed). */
export function encodePortVlans(index: number, vlans: PortVlans): Uint8Array {
  const writer = writeHeader(new Writer(64), index);
  writer.nest(IFLA_AF_SPEC, () => {
    for (const { first, last, flags } of runsOf(vlans)) {
      if (first === last) writeVlan(writer, first, flags);
      else {
        writeVlan(writer, first, flags | BRIDGE_VLAN_INFO_RANGE_BEGIN);
        writeVlan(writer, last, flags | BRIDGE_VLAN_INFO_RANGE_END);
      }
    }
  });
  return writer.finish();
}

/** struct ifinfomsg */
function writeHeader(writer: Writer, index: number): Writer {
  return writer.u8(AF_BRIDGE).zeros(3).i32(index).zeros(8);
}

/** struct bridge_vlan_info */
function writeVlan(writer: Writer, id: number, flags: number): void {
  writer.attr(IFLA_BRIDGE_VLAN_INFO, new Writer(4).u16(flags).u16(id).finish());
}

interface Run {
  readonly first: number;
  readonly last: number;
  /** BRIDGE_VLAN_INFO_… */
  readonly flags: number;
}

/** Neighbours of equal flags as one; the kernel takes no PVID in a range. */
function runsOf(vlans: PortVlans): Run[] {
  const runs: Run[] = [];
  for (const [id, vlan] of [...vlans].toSorted(([a], [b]) => a - b)) {
    const flags = flagsOf(vlan);
    const before = runs.at(-1);
    const continues = before?.last === id - 1 && before.flags === flags && !vlan.isPvid;
    if (before !== undefined && continues) runs.splice(-1, 1, { ...before, last: id });
    else runs.push({ first: id, last: id, flags });
  }
  return runs;
}

function flagsOf({ isPvid, isUntagged }: VlanFlags): number {
  return (isPvid ? BRIDGE_VLAN_INFO_PVID : 0) | (isUntagged ? BRIDGE_VLAN_INFO_UNTAGGED : 0);
}

/** Reads RTM_NEWLINK of family AF_BRIDGE; throws MalformedMessageError. */
export function decodeVlanLink(payload: Uint8Array): VlanLink {
  const reader = new Reader(payload, 'bridge port');
  const index = reader.skip(4).i32();
  const attributes = reader.skip(8).attributes();
  const vlans = new Map<number, VlanFlags>();
  let begin: number | undefined;
  for (const { type, value } of attributes.nested(IFLA_AF_SPEC) ?? []) {
    if (type !== IFLA_BRIDGE_VLAN_INFO) continue;
    const info = new Reader(value, 'bridge VLAN');
    const flags = info.u16();
    const id = info.u16();
    if ((flags & BRIDGE_VLAN_INFO_RANGE_BEGIN) !== 0) begin = id;
    else {
      const isRange = (flags & BRIDGE_VLAN_INFO_RANGE_END) !== 0;
      addVlans(vlans, isRange ? (begin ?? id) : id, id, flags);
    }
  }
  return { index, masterIndex: attributes.u32(IFLA_MASTER), vlans };
}

/**
 * Reads RTM_NEWLINK of a bridge: the VLAN that new ports get as PVID, untagged; 0 is none. Undefined from a kernel
 * without CONFIG_BRIDGE_VLAN_FILTERING, which does take vlan_filtering, tells that it is off, and filters nothing.
 */
export function decodeDefaultPvid(payload: Uint8Array): number | undefined {
  const attributes = new Reader(payload, 'bridge').skip(16).attributes();
  return attributes.nested(IFLA_LINKINFO)?.nested(IFLA_INFO_DATA)?.u16(IFLA_BR_VLAN_DEFAULT_PVID);
}

function addVlans(vlans: Map<number, VlanFlags>, first: number, last: number, flags: number): void {
  const isPvid = (flags & BRIDGE_VLAN_INFO_PVID) !== 0;
  const isUntagged = (flags & BRIDGE_VLAN_INFO_UNTAGGED) !== 0;
  for (let id = first; id <= last; id += 1) vlans.set(id, { isPvid, isUntagged });
}

/** All ports of all bridges: there is no asking for one. */
export function encodeVlanDump(): Uint8Array {
  return writeHeader(new Writer(24), 0).attrU32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN_COMPRESSED).finish();
}
