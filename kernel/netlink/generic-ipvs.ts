/** The generic netlink family "IPVS" (linux/ip_vs.h): virtual servers, their destinations, timeouts. */
import { type Family, familyOf, type Ip, ipFromBytes, ipToBytes } from '../../core/address.ts';
import { Attributes, MalformedMessageError, Reader, Writer } from './wire.ts';

export const IPVS_GENL_NAME = 'IPVS';
export const IPVS_GENL_VERSION = 1;

export const IPVS_CMD_NEW_SERVICE = 1;
export const IPVS_CMD_SET_SERVICE = 2;
export const IPVS_CMD_DEL_SERVICE = 3;
export const IPVS_CMD_GET_SERVICE = 4;
export const IPVS_CMD_NEW_DEST = 5;
export const IPVS_CMD_SET_DEST = 6;
export const IPVS_CMD_DEL_DEST = 7;
export const IPVS_CMD_GET_DEST = 8;
export const IPVS_CMD_SET_CONFIG = 12;
export const IPVS_CMD_GET_CONFIG = 13;

/** Clients keep their destination. */
export const IP_VS_SVC_F_PERSISTENT = 0x1;
/** The kernel's own bit: the server can be found. */
export const IP_VS_SVC_F_HASHED = 0x2;
/** Destinations get packets with another address: the only way that lets them have another port. */
export const IP_VS_CONN_F_MASQ = 0;

const IPVS_CMD_ATTR_SERVICE = 1;
const IPVS_CMD_ATTR_DEST = 2;
const IPVS_CMD_ATTR_TIMEOUT_TCP = 4;
const IPVS_CMD_ATTR_TIMEOUT_TCP_FIN = 5;
const IPVS_CMD_ATTR_TIMEOUT_UDP = 6;

const IPVS_SVC_ATTR_AF = 1;
const IPVS_SVC_ATTR_PROTOCOL = 2;
const IPVS_SVC_ATTR_ADDR = 3;
const IPVS_SVC_ATTR_PORT = 4;
const IPVS_SVC_ATTR_FWMARK = 5;
const IPVS_SVC_ATTR_SCHED_NAME = 6;
const IPVS_SVC_ATTR_FLAGS = 7;
const IPVS_SVC_ATTR_TIMEOUT = 8;
const IPVS_SVC_ATTR_NETMASK = 9;

const IPVS_DEST_ATTR_ADDR = 1;
const IPVS_DEST_ATTR_PORT = 2;
const IPVS_DEST_ATTR_FWD_METHOD = 3;
const IPVS_DEST_ATTR_WEIGHT = 4;
const IPVS_DEST_ATTR_U_THRESH = 5;
const IPVS_DEST_ATTR_L_THRESH = 6;
const IPVS_DEST_ATTR_ACTIVE_CONNS = 7;
const IPVS_DEST_ATTR_INACT_CONNS = 8;
const IPVS_DEST_ATTR_PERSIST_CONNS = 9;
const IPVS_DEST_ATTR_ADDR_FAMILY = 11;

const AF_INET = 2;
const AF_INET6 = 10;
/** union nf_inet_addr: room for IPv6, zeros behind IPv4. */
const ADDRESS_BYTES = 16;

/** By what a virtual server is found; `protocol` is the number in the IP header. */
export interface IpvsAddress {
  readonly protocol: number;
  readonly ip: Ip;
  readonly port: number;
}

/** A server for packets to one address and port. */
export interface IpvsService extends IpvsAddress {
  readonly scheduler: string;
  /** IP_VS_SVC_F_…; all bits are kept and given back. */
  readonly flags: number;
  /** Of persistence, which is a flag. */
  readonly timeoutSeconds: number;
  /** Clients in one network of this size are one to persistence. */
  readonly prefixLength: number;
}

/** A server for packets with a firewall mark; not ours to know more about. */
interface IpvsMarkService {
  readonly mark: number;
}

export interface IpvsDestination {
  readonly ip: Ip;
  readonly port: number;
  /** 0: no new connections. */
  readonly weight: number;
  /** IP_VS_CONN_F_… */
  readonly method: number;
  /** Read only: those in use, those in their last states, and templates of persistence. */
  readonly activeConnections?: number | undefined;
  readonly inactiveConnections?: number | undefined;
  readonly persistentConnections?: number | undefined;
}

/** For idle connections, seconds. Written: 0 leaves one as it is. */
export interface IpvsTimeouts {
  readonly tcpSeconds: number;
  readonly tcpFinSeconds: number;
  readonly udpSeconds: number;
}

/** What a request is about: the server alone for DEL_SERVICE and GET_DEST. */
export function encodeIpvsAddress(address: IpvsAddress): Uint8Array {
  return new Writer(64).nest(IPVS_CMD_ATTR_SERVICE, (writer) => writeAddress(writer, address)).finish();
}

export function encodeIpvsService(service: IpvsService): Uint8Array {
  const { scheduler, flags, timeoutSeconds, prefixLength, ip } = service;
  return new Writer(128)
    .nest(IPVS_CMD_ATTR_SERVICE, (writer) => {
      writeAddress(writer, service);
      writer.attrText(IPVS_SVC_ATTR_SCHED_NAME, scheduler);
      // struct ip_vs_flags: the bits, and which of them count.
      writer.attr(IPVS_SVC_ATTR_FLAGS, new Writer(8).u32(flags).u32(0xffffffff).finish());
      writer.attrU32(IPVS_SVC_ATTR_TIMEOUT, timeoutSeconds);
      if (familyOf(ip) === 6) writer.attrU32(IPVS_SVC_ATTR_NETMASK, prefixLength);
      else writer.attrU32be(IPVS_SVC_ATTR_NETMASK, maskOf(prefixLength));
    })
    .finish();
}

export function encodeIpvsDestination(server: IpvsAddress, destination: IpvsDestination): Uint8Array {
  const { ip, port, weight, method } = destination;
  return new Writer(160)
    .nest(IPVS_CMD_ATTR_SERVICE, (writer) => writeAddress(writer, server))
    .nest(IPVS_CMD_ATTR_DEST, (writer) => {
      writer.attr(IPVS_DEST_ATTR_ADDR, addressBytes(ip));
      writer.attrU16be(IPVS_DEST_ATTR_PORT, port);
      writer.attrU32(IPVS_DEST_ATTR_FWD_METHOD, method);
      writer.attrU32(IPVS_DEST_ATTR_WEIGHT, weight);
      writer.attrU32(IPVS_DEST_ATTR_U_THRESH, 0);
      writer.attrU32(IPVS_DEST_ATTR_L_THRESH, 0);
      writer.attrU16(IPVS_DEST_ATTR_ADDR_FAMILY, numberOf(familyOf(ip)));
    })
    .finish();
}

export function encodeIpvsTimeouts({ tcpSeconds, tcpFinSeconds, udpSeconds }: IpvsTimeouts): Uint8Array {
  return new Writer(32)
    .attrU32(IPVS_CMD_ATTR_TIMEOUT_TCP, tcpSeconds)
    .attrU32(IPVS_CMD_ATTR_TIMEOUT_TCP_FIN, tcpFinSeconds)
    .attrU32(IPVS_CMD_ATTR_TIMEOUT_UDP, udpSeconds)
    .finish();
}

/** Throws MalformedMessageError, as the others that decode. */
export function decodeIpvsService(bytes: Uint8Array): IpvsService | IpvsMarkService {
  const service = required(Attributes.parse(bytes, 'IPVS service').nested(IPVS_CMD_ATTR_SERVICE), 'service');
  const mark = service.u32(IPVS_SVC_ATTR_FWMARK);
  if (mark !== undefined) return { mark };
  const family = familyOfNumber(required(service.u16(IPVS_SVC_ATTR_AF), 'family'));
  const mask = service.get(IPVS_SVC_ATTR_NETMASK);
  const flags = required(service.get(IPVS_SVC_ATTR_FLAGS), 'flags');
  return {
    protocol: required(service.u16(IPVS_SVC_ATTR_PROTOCOL), 'protocol'),
    ip: readAddress(family, service.get(IPVS_SVC_ATTR_ADDR)),
    port: required(service.u16be(IPVS_SVC_ATTR_PORT), 'port'),
    scheduler: service.text(IPVS_SVC_ATTR_SCHED_NAME) ?? '',
    flags: new Reader(flags, 'IPVS flags').u32(),
    timeoutSeconds: service.u32(IPVS_SVC_ATTR_TIMEOUT) ?? 0,
    prefixLength: prefixOf(family, required(mask, 'netmask')),
  };
}

/** `family`: of the server, for kernels that leave it out (before 3.18). */
export function decodeIpvsDestination(bytes: Uint8Array, family: Family): IpvsDestination {
  const all = Attributes.parse(bytes, 'IPVS destination');
  const destination = required(all.nested(IPVS_CMD_ATTR_DEST), 'destination');
  const number = destination.u16(IPVS_DEST_ATTR_ADDR_FAMILY);
  const its = number === undefined ? family : familyOfNumber(number);
  return {
    ip: readAddress(its, destination.get(IPVS_DEST_ATTR_ADDR)),
    port: required(destination.u16be(IPVS_DEST_ATTR_PORT), 'port'),
    weight: required(destination.u32(IPVS_DEST_ATTR_WEIGHT), 'weight'),
    method: destination.u32(IPVS_DEST_ATTR_FWD_METHOD) ?? IP_VS_CONN_F_MASQ,
    activeConnections: destination.u32(IPVS_DEST_ATTR_ACTIVE_CONNS),
    inactiveConnections: destination.u32(IPVS_DEST_ATTR_INACT_CONNS),
    persistentConnections: destination.u32(IPVS_DEST_ATTR_PERSIST_CONNS),
  };
}

export function decodeIpvsTimeouts(bytes: Uint8Array): IpvsTimeouts {
  const all = Attributes.parse(bytes, 'IPVS timeouts');
  return {
    tcpSeconds: required(all.u32(IPVS_CMD_ATTR_TIMEOUT_TCP), 'TCP timeout'),
    tcpFinSeconds: required(all.u32(IPVS_CMD_ATTR_TIMEOUT_TCP_FIN), 'TCP FIN timeout'),
    udpSeconds: required(all.u32(IPVS_CMD_ATTR_TIMEOUT_UDP), 'UDP timeout'),
  };
}

function writeAddress(writer: Writer, { protocol, ip, port }: IpvsAddress): void {
  writer.attrU16(IPVS_SVC_ATTR_AF, numberOf(familyOf(ip)));
  writer.attrU16(IPVS_SVC_ATTR_PROTOCOL, protocol);
  writer.attr(IPVS_SVC_ATTR_ADDR, addressBytes(ip));
  writer.attrU16be(IPVS_SVC_ATTR_PORT, port);
}

function addressBytes(ip: Ip): Uint8Array {
  const bytes = new Uint8Array(ADDRESS_BYTES);
  bytes.set(ipToBytes(ip));
  return bytes;
}

function readAddress(family: Family, bytes: Uint8Array | undefined): Ip {
  const length = family === 4 ? 4 : ADDRESS_BYTES;
  if (bytes === undefined || bytes.length < length)
    throw new MalformedMessageError(`IPVS address of ${bytes?.length ?? 0} bytes`);
  return ipFromBytes(bytes.subarray(0, length));
}

function numberOf(family: Family): number {
  return family === 4 ? AF_INET : AF_INET6;
}

function familyOfNumber(number: number): Family {
  if (number === AF_INET) return 4;
  if (number === AF_INET6) return 6;
  throw new MalformedMessageError(`IPVS: address family ${number}`);
}

function maskOf(prefixLength: number): number {
  return prefixLength === 0 ? 0 : (0xffffffff << (32 - prefixLength)) >>> 0;
}

/** IPv4: the mask in network order. IPv6: the length itself. */
function prefixOf(family: Family, bytes: Uint8Array): number {
  const reader = new Reader(bytes, 'IPVS netmask');
  if (family === 6) return reader.u32();
  const mask = reader.u32be();
  return mask === 0 ? 0 : 32 - trailingZeros(mask);
}

function trailingZeros(value: number): number {
  return 31 - Math.clz32(value & -value);
}

function required<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new MalformedMessageError(`IPVS: no ${what}`);
  return value;
}
