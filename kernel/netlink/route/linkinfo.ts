/** IFLA_LINKINFO: what kind of link it is, with the parameters of the kinds that Fairlead makes. */
import { familyOf, type Ip, ipToBytes } from '../../../core/address.ts';
import type { Attributes, Writer } from '../wire.ts';
import { ipAttribute } from './rtnetlink.ts';

export const IFLA_INFO_KIND = 1;
export const IFLA_INFO_DATA = 2;
export const IFLA_INFO_SLAVE_KIND = 4;
export const IFLA_INFO_SLAVE_DATA = 5;

const IFLA_VXLAN_ID = 1;
const IFLA_VXLAN_LINK = 3;
const IFLA_VXLAN_LOCAL = 4;
const IFLA_VXLAN_LEARNING = 7;
const IFLA_VXLAN_PORT = 15;
const IFLA_VXLAN_LOCAL6 = 17;
const IFLA_VXLAN_GBP = 23;

/** linux/if_tunnel.h: of ipip and ip6tnl alike. */
const IFLA_IPTUN_LINK = 1;
const IFLA_IPTUN_LOCAL = 2;
const IFLA_IPTUN_REMOTE = 3;
const IFLA_IPTUN_PROTO = 9;
const IFLA_IPTUN_COLLECT_METADATA = 19;
const IPPROTO_IPV6 = 41;

const IFLA_BR_AGEING_TIME = 4;
const IFLA_BR_STP_STATE = 5;
const IFLA_BR_VLAN_FILTERING = 7;
const IFLA_BR_MCAST_SNOOPING = 23;

/** A VXLAN device; what is undefined is left to the kernel. */
export interface Vxlan {
  readonly vni?: number | undefined;
  /** UDP port of the receiver. */
  readonly port?: number | undefined;
  /** Source address of the outer packets; its family is that of the underlay. */
  readonly local?: Ip | undefined;
  /** Index of the link that carries the outer packets. */
  readonly deviceIndex?: number | undefined;
  readonly learning?: boolean | undefined;
  /** Group based policy; only made with it or without. */
  readonly gbp?: boolean | undefined;
}

export function writeVxlan(writer: Writer, vxlan: Vxlan): void {
  if (vxlan.vni !== undefined) writer.attrU32(IFLA_VXLAN_ID, vxlan.vni);
  if (vxlan.deviceIndex !== undefined) writer.attrU32(IFLA_VXLAN_LINK, vxlan.deviceIndex);
  if (vxlan.local !== undefined) {
    const type = familyOf(vxlan.local) === 4 ? IFLA_VXLAN_LOCAL : IFLA_VXLAN_LOCAL6;
    writer.attr(type, ipToBytes(vxlan.local));
  }
  writeFlag(writer, IFLA_VXLAN_LEARNING, vxlan.learning);
  if (vxlan.port !== undefined) writer.attrU16be(IFLA_VXLAN_PORT, vxlan.port);
  if (vxlan.gbp) writer.attrFlag(IFLA_VXLAN_GBP);
}

export function readVxlan(data: Attributes): Vxlan {
  return {
    vni: data.u32(IFLA_VXLAN_ID),
    port: data.u16be(IFLA_VXLAN_PORT),
    local:
      ipAttribute(data, IFLA_VXLAN_LOCAL, 4, 'vxlan') ?? ipAttribute(data, IFLA_VXLAN_LOCAL6, 6, 'vxlan'),
    deviceIndex: data.u32(IFLA_VXLAN_LINK),
    learning: readFlag(data, IFLA_VXLAN_LEARNING),
    gbp: data.has(IFLA_VXLAN_GBP) ? true : undefined,
  };
}

/** A tunnel that puts one IP header around a packet of the same family; undefined is left to the kernel. */
export interface Ipip {
  readonly local?: Ip | undefined;
  /** Only read: other end of a tunnel that has one. */
  readonly remote?: Ip | undefined;
  /** Index of the link that carries the outer packets. */
  readonly deviceIndex?: number | undefined;
  /** Kind ip6tnl: IPv6 only, between the ends that each route says. */
  readonly external?: boolean | undefined;
}

export function writeIpip(writer: Writer, { local, deviceIndex, external }: Ipip): void {
  if (deviceIndex !== undefined) writer.attrU32(IFLA_IPTUN_LINK, deviceIndex);
  if (local !== undefined) writer.attr(IFLA_IPTUN_LOCAL, ipToBytes(local));
  if (external) writer.attrU8(IFLA_IPTUN_PROTO, IPPROTO_IPV6).attrFlag(IFLA_IPTUN_COLLECT_METADATA);
}

export function readIpip(data: Attributes): Ipip {
  const family = data.get(IFLA_IPTUN_LOCAL)?.length === 16 ? 6 : 4;
  return {
    local: ipAttribute(data, IFLA_IPTUN_LOCAL, family, 'ipip'),
    remote: ipAttribute(data, IFLA_IPTUN_REMOTE, family, 'ipip'),
    deviceIndex: data.u32(IFLA_IPTUN_LINK),
    external: data.has(IFLA_IPTUN_COLLECT_METADATA) ? true : undefined,
  };
}

/** A bridge; what is undefined is left to the kernel. */
export interface Bridge {
  /** Of learned addresses, in hundredths of a second. */
  readonly ageingCentiseconds?: number | undefined;
  readonly spanningTree?: boolean | undefined;
  readonly vlanFiltering?: boolean | undefined;
  readonly multicastSnooping?: boolean | undefined;
}

export function writeBridge(writer: Writer, bridge: Bridge): void {
  if (bridge.ageingCentiseconds !== undefined) {
    writer.attrU32(IFLA_BR_AGEING_TIME, bridge.ageingCentiseconds);
  }
  if (bridge.spanningTree !== undefined) writer.attrU32(IFLA_BR_STP_STATE, bridge.spanningTree ? 1 : 0);
  writeFlag(writer, IFLA_BR_VLAN_FILTERING, bridge.vlanFiltering);
  writeFlag(writer, IFLA_BR_MCAST_SNOOPING, bridge.multicastSnooping);
}

export function readBridge(data: Attributes): Bridge {
  const spanningTree = data.u32(IFLA_BR_STP_STATE);
  return {
    ageingCentiseconds: data.u32(IFLA_BR_AGEING_TIME),
    // 2 = run by a daemon in user space.
    spanningTree: spanningTree === undefined ? undefined : spanningTree !== 0,
    vlanFiltering: readFlag(data, IFLA_BR_VLAN_FILTERING),
    multicastSnooping: readFlag(data, IFLA_BR_MCAST_SNOOPING),
  };
}

/** A port of a bridge; what is undefined is left as it is. */
export interface BridgePort {
  /** A frame may leave by the port it came in by: a pod reaches itself through its Service. */
  readonly hairpin?: boolean | undefined;
  /** No frames to other isolated ports. */
  readonly isolated?: boolean | undefined;
  readonly learning?: boolean | undefined;
  /** Unknown unicast goes out here. */
  readonly unicastFlood?: boolean | undefined;
  readonly neighborSuppression?: boolean | undefined;
}

const bridgePortTypes = {
  hairpin: 4,
  isolated: 33,
  learning: 8,
  unicastFlood: 9,
  neighborSuppression: 32,
} as const satisfies Record<keyof BridgePort, number>;

export function writeBridgePort(writer: Writer, port: BridgePort): void {
  for (const [name, type] of Object.entries(bridgePortTypes)) {
    writeFlag(writer, type, port[name as keyof BridgePort]);
  }
}

export function readBridgePort(data: Attributes): BridgePort {
  return {
    hairpin: readFlag(data, bridgePortTypes.hairpin),
    isolated: readFlag(data, bridgePortTypes.isolated),
    learning: readFlag(data, bridgePortTypes.learning),
    unicastFlood: readFlag(data, bridgePortTypes.unicastFlood),
    neighborSuppression: readFlag(data, bridgePortTypes.neighborSuppression),
  };
}

function writeFlag(writer: Writer, type: number, value: boolean | undefined): void {
  if (value !== undefined) writer.attrU8(type, value ? 1 : 0);
}

function readFlag(data: Attributes, type: number): boolean | undefined {
  const value = data.u8(type);
  return value === undefined ? undefined : value !== 0;
}
