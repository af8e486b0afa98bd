/** The generic netlink family "wireguard" (linux/wireguard.h): devices, peers and their networks. */
import {
  type Cidr,
  familyOf,
  type Ip,
  ipFromBytes,
  ipOf,
  ipToBytes,
  prefixLengthOf,
} from '../../core/address.ts';
import { Attributes, MalformedMessageError, Reader, Writer } from './wire.ts';

export const WG_GENL_NAME = 'wireguard';
export const WG_GENL_VERSION = 1;
export const WG_CMD_GET_DEVICE = 0;
export const WG_CMD_SET_DEVICE = 1;
export const WG_KEY_BYTES = 32;

export const WGPEER_F_REMOVE_ME = 1;
export const WGPEER_F_REPLACE_ALLOWEDIPS = 2;

const WGDEVICE_A_IFINDEX = 1;
const WGDEVICE_A_IFNAME = 2;
const WGDEVICE_A_PRIVATE_KEY = 3;
const WGDEVICE_A_PUBLIC_KEY = 4;
const WGDEVICE_A_FLAGS = 5;
const WGDEVICE_A_LISTEN_PORT = 6;
const WGDEVICE_A_FWMARK = 7;
const WGDEVICE_A_PEERS = 8;

const WGPEER_A_PUBLIC_KEY = 1;
const WGPEER_A_PRESHARED_KEY = 2;
const WGPEER_A_FLAGS = 3;
const WGPEER_A_ENDPOINT = 4;
const WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL = 5;
const WGPEER_A_LAST_HANDSHAKE_TIME = 6;
const WGPEER_A_RX_BYTES = 7;
const WGPEER_A_TX_BYTES = 8;
const WGPEER_A_ALLOWEDIPS = 9;

const WGALLOWEDIP_A_FAMILY = 1;
const WGALLOWEDIP_A_IPADDR = 2;
const WGALLOWEDIP_A_CIDR_MASK = 3;

const AF_INET = 2;
const AF_INET6 = 10;

/** One message about a device. Keys are 32 bytes as base64; what is undefined is not in the message. */
export interface WireguardDevice {
  readonly index?: number | undefined;
  readonly name?: string | undefined;
  readonly privateKey?: string | undefined;
  readonly publicKey?: string | undefined;
  /** WGDEVICE_F_…, written only. */
  readonly flags?: number | undefined;
  readonly listenPort?: number | undefined;
  readonly firewallMark?: number | undefined;
  readonly peers?: readonly WireguardPeer[] | undefined;
}

export interface WireguardPeer {
  readonly publicKey: string;
  /** All zeros: none. */
  readonly presharedKey?: string | undefined;
  /** WGPEER_F_…, written only. */
  readonly flags?: number | undefined;
  readonly endpoint?: WireguardEndpoint | undefined;
  /** 0: none. */
  readonly keepaliveSeconds?: number | undefined;
  /** Seconds since 1970; 0: never. Read only. */
  readonly lastHandshakeSeconds?: bigint | undefined;
  readonly receivedBytes?: bigint | undefined;
  readonly sentBytes?: bigint | undefined;
  readonly allowedIps?: readonly Cidr[] | undefined;
}

export interface WireguardEndpoint {
  readonly ip: Ip;
  readonly port: number;
}

export function encodeWireguardDevice(device: WireguardDevice): Uint8Array {
  const writer = new Writer(1024);
  if (device.index !== undefined) writer.attrU32(WGDEVICE_A_IFINDEX, device.index);
  if (device.name !== undefined) writer.attrText(WGDEVICE_A_IFNAME, device.name);
  writeKey(writer, WGDEVICE_A_PRIVATE_KEY, device.privateKey);
  writeKey(writer, WGDEVICE_A_PUBLIC_KEY, device.publicKey);
  if (device.flags !== undefined) writer.attrU32(WGDEVICE_A_FLAGS, device.flags);
  if (device.listenPort !== undefined) writer.attrU16(WGDEVICE_A_LISTEN_PORT, device.listenPort);
  if (device.firewallMark !== undefined) writer.attrU32(WGDEVICE_A_FWMARK, device.firewallMark);
  const { peers } = device;
  if (peers !== undefined) {
    writer.nest(WGDEVICE_A_PEERS, () => {
      for (const peer of peers) writer.nest(0, () => writePeer(writer, peer));
    });
  }
  return writer.finish();
}

function writePeer(writer: Writer, peer: WireguardPeer): void {
  writeKey(writer, WGPEER_A_PUBLIC_KEY, peer.publicKey);
  writeKey(writer, WGPEER_A_PRESHARED_KEY, peer.presharedKey);
  if (peer.flags !== undefined) writer.attrU32(WGPEER_A_FLAGS, peer.flags);
  if (peer.endpoint !== undefined) writer.attr(WGPEER_A_ENDPOINT, socketAddress(peer.endpoint));
  if (peer.keepaliveSeconds !== undefined) {
    writer.attrU16(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, peer.keepaliveSeconds);
  }
  if (peer.lastHandshakeSeconds !== undefined) {
    const time = new Writer(16).u64(peer.lastHandshakeSeconds).u64(0n);
    writer.attr(WGPEER_A_LAST_HANDSHAKE_TIME, time.finish());
  }
  if (peer.receivedBytes !== undefined) writer.attrU64(WGPEER_A_RX_BYTES, peer.receivedBytes);
  if (peer.sentBytes !== undefined) writer.attrU64(WGPEER_A_TX_BYTES, peer.sentBytes);
  const { allowedIps } = peer;
  if (allowedIps === undefined) return;
  writer.nest(WGPEER_A_ALLOWEDIPS, () => {
    for (const cidr of allowedIps) writer.nest(0, () => writeNetwork(writer, cidr));
  });
}

function writeNetwork(writer: Writer, cidr: Cidr): void {
  writer.attrU16(WGALLOWEDIP_A_FAMILY, familyOf(cidr) === 4 ? AF_INET : AF_INET6);
  writer.attr(WGALLOWEDIP_A_IPADDR, ipToBytes(ipOf(cidr)));
  writer.attrU8(WGALLOWEDIP_A_CIDR_MASK, prefixLengthOf(cidr));
}

function writeKey(writer: Writer, type: number, key: string | undefined): void {
  if (key === undefined) return;
  const bytes = Buffer.from(key, 'base64');
  if (bytes.length !== WG_KEY_BYTES) throw new RangeError(`wireguard key of ${bytes.length} bytes, not 32`);
  writer.attr(type, bytes);
}

/** struct sockaddr_in or sockaddr_in6; family in host order, port in network order. */
function socketAddress({ ip, port }: WireguardEndpoint): Uint8Array {
  const writer = new Writer(28);
  if (familyOf(ip) === 4) return writer.u16(AF_INET).u16be(port).bytes(ipToBytes(ip)).zeros(8).finish();
  return writer.u16(AF_INET6).u16be(port).u32(0).bytes(ipToBytes(ip)).u32(0).finish();
}

/** Reads one message; a device with many peers comes in several: {@link joinWireguardDevices}. */
export function decodeWireguardDevice(bytes: Uint8Array): WireguardDevice {
  const attributes = Attributes.parse(bytes, 'wireguard');
  const peers = attributes.nested(WGDEVICE_A_PEERS);
  return {
    index: attributes.u32(WGDEVICE_A_IFINDEX),
    name: attributes.text(WGDEVICE_A_IFNAME),
    privateKey: readKey(attributes, WGDEVICE_A_PRIVATE_KEY),
    publicKey: readKey(attributes, WGDEVICE_A_PUBLIC_KEY),
    flags: attributes.u32(WGDEVICE_A_FLAGS),
    listenPort: attributes.u16(WGDEVICE_A_LISTEN_PORT),
    firewallMark: attributes.u32(WGDEVICE_A_FWMARK),
    peers: peers && [...peers].map(({ value }) => readPeer(Attributes.parse(value, 'wireguard peer'))),
  };
}

function readPeer(peer: Attributes): WireguardPeer {
  const publicKey = readKey(peer, WGPEER_A_PUBLIC_KEY);
  if (publicKey === undefined) throw new MalformedMessageError('wireguard peer: no public key');
  const time = peer.get(WGPEER_A_LAST_HANDSHAKE_TIME);
  const endpoint = peer.get(WGPEER_A_ENDPOINT);
  const networks = peer.nested(WGPEER_A_ALLOWEDIPS);
  return {
    publicKey,
    presharedKey: readKey(peer, WGPEER_A_PRESHARED_KEY),
    flags: peer.u32(WGPEER_A_FLAGS),
    endpoint: endpoint && readEndpoint(endpoint),
    keepaliveSeconds: peer.u16(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL),
    lastHandshakeSeconds: time === undefined ? undefined : peer.u64(WGPEER_A_LAST_HANDSHAKE_TIME),
    receivedBytes: peer.u64(WGPEER_A_RX_BYTES),
    sentBytes: peer.u64(WGPEER_A_TX_BYTES),
    allowedIps:
      networks && [...networks].map(({ value }) => readNetwork(Attributes.parse(value, 'wireguard'))),
  };
}

function readEndpoint(bytes: Uint8Array): WireguardEndpoint | undefined {
  const reader = new Reader(bytes, 'wireguard endpoint');
  const family = reader.u16();
  const port = reader.u16be();
  if (family === AF_INET) return { ip: ipFromBytes(reader.take(4)), port };
  if (family === AF_INET6) return { ip: ipFromBytes(reader.skip(4).take(16)), port };
  return undefined;
}

function readNetwork(network: Attributes): Cidr {
  const family = network.u16(WGALLOWEDIP_A_FAMILY);
  const bytes = network.get(WGALLOWEDIP_A_IPADDR);
  const prefix = network.u8(WGALLOWEDIP_A_CIDR_MASK);
  const length = family === AF_INET ? 4 : family === AF_INET6 ? 16 : undefined;
  if (bytes === undefined || bytes.length !== length || prefix === undefined || prefix > length * 8) {
    throw new MalformedMessageError('wireguard allowed IP: family, address and mask do not fit');
  }
  return `${ipFromBytes(bytes)}/${prefix}` as Cidr;
}

function readKey(attributes: Attributes, type: number): string | undefined {
  const bytes = attributes.get(type);
  if (bytes === undefined) return undefined;
  if (bytes.length !== WG_KEY_BYTES)
    throw new MalformedMessageError(`wireguard key of ${bytes.length} bytes`);
  return Buffer.from(bytes).toString('base64');
}

/** The answers of one dump as one device: peers, and networks of one peer, go on from message to message. */
export function joinWireguardDevices(parts: readonly WireguardDevice[]): WireguardDevice {
  const peers: WireguardPeer[] = [];
  for (const peer of parts.flatMap((part) => part.peers ?? [])) {
    const last = peers.at(-1);
    if (last?.publicKey !== peer.publicKey) peers.push(peer);
    else {
      const allowedIps = [...(last.allowedIps ?? []), ...(peer.allowedIps ?? [])];
      peers[peers.length - 1] = { ...last, allowedIps };
    }
  }
  return { ...parts[0], peers };
}
