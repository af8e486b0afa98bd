import { type Mac, macFromBytes, macToBytes } from '../../../core/address.ts';
import { type NetlinkMessage, NLM_F_CREATE, NLM_F_EXCL } from '../message.ts';
import { type Attributes, Reader, Writer } from '../wire.ts';
import {
  type Bridge,
  type BridgePort,
  IFLA_INFO_DATA,
  IFLA_INFO_KIND,
  IFLA_INFO_SLAVE_DATA,
  IFLA_INFO_SLAVE_KIND,
  type Ipip,
  readBridge,
  readBridgePort,
  readIpip,
  readVxlan,
  type Vxlan,
  writeBridge,
  writeBridgePort,
  writeIpip,
  writeVxlan,
} from './linkinfo.ts';
import { AF_INET, AF_INET6, AF_UNSPEC, RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK } from './rtnetlink.ts';

export const IFF_UP = 0x1;
/** Addresses of ours come from us: the kernel makes no link-local one (IFLA_INET6_ADDR_GEN_MODE). */
export const IN6_ADDR_GEN_MODE_NONE = 1;

const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_LINK = 5;
const IFLA_MASTER = 10;
const IFLA_OPERSTATE = 16;
const IFLA_LINKINFO = 18;
const IFLA_IFALIAS = 20;
const IFLA_AF_SPEC = 26;
const IFLA_GROUP = 27;
const IFLA_NET_NS_FD = 28;
const IFLA_EXT_MASK = 29;
const IFLA_NUM_TX_QUEUES = 31;
const IFLA_NUM_RX_QUEUES = 32;
const IFLA_LINK_NETNSID = 37;
const RTEXT_FILTER_SKIP_STATS = 8;
const IFLA_INET_CONF = 1;
const IPV4_DEVCONF_PROMOTE_SECONDARIES = 20;
const IPV4_DEVCONF_ARP_NOTIFY = 22;
const IFLA_INET6_ADDR_GEN_MODE = 8;
const VETH_INFO_PEER = 1;

/**
 * One RTM_…LINK message (struct ifinfomsg and attributes). What is undefined is not in the message:
 * left to the kernel when a link is made, left alone when one is changed.
 */
export interface Link {
  /** 0 or undefined: found by name, or chosen by the kernel. */
  readonly index?: number | undefined;
  /** IFF_… */
  readonly flags?: number | undefined;
  /** Which of the flags a change sets. */
  readonly changeMask?: number | undefined;
  readonly name?: string | undefined;
  readonly mtuBytes?: number | undefined;
  readonly mac?: Mac | undefined;
  /** Index of the bridge; 0 = none. */
  readonly masterIndex?: number | undefined;
  /** Index of the link below, or of the other end of a veth pair (in namespace `linkNamespaceId`). */
  readonly linkIndex?: number | undefined;
  readonly linkNamespaceId?: number | undefined;
  readonly group?: number | undefined;
  readonly alias?: string | undefined;
  readonly txQueues?: number | undefined;
  readonly rxQueues?: number | undefined;
  /** RFC 2863: 6 = up. Only read. */
  readonly operationalState?: number | undefined;
  /** Where to make the link (write only). */
  readonly namespaceFd?: number | undefined;
  readonly ipv6AddressGeneration?: number | undefined;
  /** Neighbours are told when the link goes up or its MAC changes (net.ipv4.conf.….arp_notify). Write only. */
  readonly arpNotify?: boolean | undefined;
  /**
   * Deleting the primary IPv4 address of a subnet then keeps the others (net.ipv4.conf.….promote_secondaries). Write
   * only.
   */
  readonly promoteSecondaries?: boolean | undefined;
  readonly kind?: string | undefined;
  readonly vxlan?: Vxlan | undefined;
  readonly ipip?: Ipip | undefined;
  readonly bridge?: Bridge | undefined;
  /** kind veth, write only: the other end. */
  readonly peer?: Link | undefined;
  /** "bridge" for ports of one. */
  readonly portKind?: string | undefined;
  readonly bridgePort?: BridgePort | undefined;
}

export function encodeLink(link: Link): Uint8Array {
  const writer = new Writer();
  writeLink(writer, link);
  return writer.finish();
}

function writeLink(writer: Writer, link: Link): void {
  writer
    .u8(AF_UNSPEC)
    .u8(0)
    .u16(0)
    .i32(link.index ?? 0);
  writer.u32(link.flags ?? 0).u32(link.changeMask ?? 0);
  const u32 = (type: number, value: number | undefined) => {
    if (value !== undefined) writer.attrU32(type, value);
  };
  if (link.name !== undefined) writer.attrText(IFLA_IFNAME, link.name);
  u32(IFLA_MTU, link.mtuBytes);
  if (link.mac !== undefined) writer.attr(IFLA_ADDRESS, macToBytes(link.mac));
  u32(IFLA_MASTER, link.masterIndex);
  u32(IFLA_LINK, link.linkIndex);
  u32(IFLA_LINK_NETNSID, link.linkNamespaceId);
  u32(IFLA_GROUP, link.group);
  if (link.alias !== undefined) writer.attrText(IFLA_IFALIAS, link.alias);
  u32(IFLA_NUM_TX_QUEUES, link.txQueues);
  u32(IFLA_NUM_RX_QUEUES, link.rxQueues);
  if (link.operationalState !== undefined) writer.attrU8(IFLA_OPERSTATE, link.operationalState);
  u32(IFLA_NET_NS_FD, link.namespaceFd);
  writeFamilies(writer, link);
  if (link.kind !== undefined || link.portKind !== undefined) writeLinkInfo(writer, link);
}

function writeFamilies(writer: Writer, link: Link): void {
  const { arpNotify = false, promoteSecondaries = false, ipv6AddressGeneration: mode } = link;
  const hasIpv4 = arpNotify || promoteSecondaries;
  if (!hasIpv4 && mode === undefined) return;
  writer.nest(IFLA_AF_SPEC, () => {
    if (hasIpv4) {
      writer.nest(AF_INET, () => {
        writer.nest(IFLA_INET_CONF, () => {
          if (arpNotify) writer.attrU32(IPV4_DEVCONF_ARP_NOTIFY, 1);
          if (promoteSecondaries) writer.attrU32(IPV4_DEVCONF_PROMOTE_SECONDARIES, 1);
        });
      });
    }
    if (mode !== undefined) writer.nest(AF_INET6, () => writer.attrU8(IFLA_INET6_ADDR_GEN_MODE, mode));
  });
}

function writeLinkInfo(writer: Writer, link: Link): void {
  const { kind, vxlan, ipip, bridge, peer, portKind, bridgePort } = link;
  writer.nest(IFLA_LINKINFO, () => {
    if (kind !== undefined) writer.attrText(IFLA_INFO_KIND, kind);
    if (vxlan !== undefined) writer.nest(IFLA_INFO_DATA, () => writeVxlan(writer, vxlan));
    if (ipip !== undefined) writer.nest(IFLA_INFO_DATA, () => writeIpip(writer, ipip));
    if (bridge !== undefined) writer.nest(IFLA_INFO_DATA, () => writeBridge(writer, bridge));
    if (peer !== undefined) {
      writer.nest(IFLA_INFO_DATA, () => writer.nest(VETH_INFO_PEER, () => writeLink(writer, peer)));
    }
    if (portKind !== undefined) writer.attrText(IFLA_INFO_SLAVE_KIND, portKind);
    if (bridgePort !== undefined) {
      writer.nest(IFLA_INFO_SLAVE_DATA, () => writeBridgePort(writer, bridgePort));
    }
  });
}

/** Reads RTM_NEWLINK and RTM_DELLINK; throws MalformedMessageError. Unknown attributes are passed over. */
export function decodeLink(payload: Uint8Array): Link {
  const reader = new Reader(payload, 'link');
  const family = reader.u8();
  const index = reader.skip(3).i32();
  const flags = reader.u32();
  const changeMask = reader.u32();
  const attributes = reader.attributes();
  const mac = attributes.get(IFLA_ADDRESS);
  return {
    index,
    flags,
    changeMask,
    name: attributes.text(IFLA_IFNAME),
    mtuBytes: attributes.u32(IFLA_MTU),
    mac: mac?.length === 6 ? macFromBytes(mac) : undefined,
    masterIndex: attributes.u32(IFLA_MASTER),
    linkIndex: attributes.u32(IFLA_LINK),
    linkNamespaceId: attributes.i32(IFLA_LINK_NETNSID),
    group: attributes.u32(IFLA_GROUP),
    alias: attributes.text(IFLA_IFALIAS),
    txQueues: attributes.u32(IFLA_NUM_TX_QUEUES),
    rxQueues: attributes.u32(IFLA_NUM_RX_QUEUES),
    operationalState: attributes.u8(IFLA_OPERSTATE),
    namespaceFd: attributes.u32(IFLA_NET_NS_FD),
    // Messages of family AF_BRIDGE have VLANs under the same number.
    ipv6AddressGeneration: family === AF_UNSPEC ? readAddressGeneration(attributes) : undefined,
    ...readLinkInfo(attributes.nested(IFLA_LINKINFO)),
  };
}

function readAddressGeneration(attributes: Attributes): number | undefined {
  return attributes.nested(IFLA_AF_SPEC)?.nested(AF_INET6)?.u8(IFLA_INET6_ADDR_GEN_MODE);
}

function isIpip(kind: string | undefined): boolean {
  return kind === 'ipip' || kind === 'ip6tnl';
}

function readLinkInfo(info: Attributes | undefined): Partial<Link> {
  if (info === undefined) return {};
  const kind = info.text(IFLA_INFO_KIND);
  const portKind = info.text(IFLA_INFO_SLAVE_KIND);
  const data = info.nested(IFLA_INFO_DATA);
  const peer = kind === 'veth' ? data?.get(VETH_INFO_PEER) : undefined;
  const portData = portKind === 'bridge' ? info.nested(IFLA_INFO_SLAVE_DATA) : undefined;
  return {
    kind,
    vxlan: kind === 'vxlan' && data !== undefined ? readVxlan(data) : undefined,
    ipip: isIpip(kind) && data !== undefined ? readIpip(data) : undefined,
    bridge: kind === 'bridge' && data !== undefined ? readBridge(data) : undefined,
    peer: peer === undefined ? undefined : decodeLink(peer),
    portKind,
    bridgePort: portData === undefined ? undefined : readBridgePort(portData),
  };
}

/** All links, or one by name or index; counters are left out of the answer. */
export function getLinkMessage(link: Pick<Link, 'name' | 'index'> = {}): NetlinkMessage {
  const writer = new Writer(64);
  writeLink(writer, link);
  writer.attrU32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
  const operation = `RTM_GETLINK ${link.name ?? link.index ?? ''}`.trimEnd();
  return { type: RTM_GETLINK, flags: 0, payload: writer.finish(), operation };
}

export function promoteSecondariesMessage(index: number): NetlinkMessage {
  const operation = `RTM_SETLINK ${index} promote_secondaries`;
  return { type: RTM_SETLINK, flags: 0, payload: encodeLink({ index, promoteSecondaries: true }), operation };
}

/** One end of a veth pair. */
export interface VethEnd {
  readonly name: string;
  /** A fixed index saves looking it up; for the peer only when the host end has one too. */
  readonly index?: number | undefined;
  readonly mac?: Mac | undefined;
  readonly mtuBytes?: number | undefined;
}

export interface VethPair {
  /** The end in the socket's namespace; it is set up. `alias` cannot be set here: the kernel ignores it. */
  readonly host: VethEnd & { readonly masterIndex?: number | undefined; readonly group?: number | undefined };
  /** The end born in the namespace of the descriptor; down, because up is refused before the ends are joined. */
  readonly peer: VethEnd & { readonly namespaceFd: number };
}

/**
 * The one message that makes a pod's pair: both ends at their place at once, because moving a link costs
 * 16 ms under the kernel's global lock, and with one queue each, because queues cost kobjects.
 */
export function encodeVethPair({ host, peer }: VethPair): NetlinkMessage {
  const queues = { txQueues: 1, rxQueues: 1 };
  const link: Link = {
    ...host,
    ...queues,
    flags: IFF_UP,
    changeMask: IFF_UP,
    kind: 'veth',
    peer: { ...peer, ...queues },
  };
  return {
    type: RTM_NEWLINK,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    payload: encodeLink(link),
    operation: `RTM_NEWLINK ${host.name} (veth, peer ${peer.name})`,
  };
}
