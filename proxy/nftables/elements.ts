import { type Cidr, familyOf, type Ip, ipFromBytes, ipToBytes } from '../../core/address.ts';
import type { ElementPacker } from '../../kernel/netlink/nftables/element-packer.ts';
import { bytesOfHex, hexU32, nftRange, writeU32 } from '../../kernel/netlink/nftables/keys.ts';
import type { NftElement, NftVerdict } from '../../kernel/netlink/nftables/spec.ts';
import { type Protocol, protocolNumbers } from '../protocol.ts';
import type { Endpoint, Frontend } from '../view.ts';

/*
 * Elements as the kernel compares them: every field is padded to four bytes; addresses, ports and protocols stand in
 * network order, a list's value and a slot's number in the order of the machine.
 */

/*
 * A value is the id of the service port (16 bits), the kind (4) and the number of slots (12). The id fills the upper
 * half, because nft prints and reads these values as two halves: `12:9003` is port 0x12, kind 9, three slots.
 */

/** How a connection is treated: the chain that the map `kinds` leads to. */
export const kinds = { guarded: 0, 'cluster-ip': 1, external: 2, 'external-local': 3 } as const;
/** Added to a kind: a client keeps its endpoint. */
export const AFFINITY_KIND = 4;
/** Added to a kind: the slots are those of the list of endpoints on this node. */
export const LOCAL_KIND = 8;

/** The number of a value's upper half: of ports, and of groups of source ranges. 0 is none. */
export const MAX_IDS = 0xffff;
export const ID_MASK = 0xffff0000;
/** Id, and which of the port's two lists. */
export const LIST_MASK = 0xffff8000;
export const LOCAL_BIT = LOCAL_KIND << 12;
export const AFFINITY_BIT = AFFINITY_KIND << 12;
export const KIND_MASK = 0x3000;
/** What `slots` is looked up by: with affinity another way leads on. */
export const SLOTS_MASK = AFFINITY_BIT | 0xfff;
export const COUNT_MASK = 0xfff;

/** Slots of one list that is drawn from by a random number. */
export const MAX_SLOTS = 0xfef;
/** Numbers of slots that stand for a Maglev table. */
export const maglevCodes = { 1021: 0xff1, 4093: 0xff2 } as const;
export type MaglevSize = keyof typeof maglevCodes;

/** What a frontend leads to. */
export interface FrontendValue {
  readonly id: number;
  readonly kind: number;
  readonly slots: number;
}

/** Connections are dropped: a group that no range is in. */
export const dropped: FrontendValue = { id: 0, kind: kinds.guarded, slots: 0 };

/**
 * The maps of frontends by what their values mean, each with its twin for node ports. `inside` has what pods and the
 * node itself get where connections from outside stay on this node, `guarded` what the allowed sources get, and
 * `refused` are sets: nobody is there.
 */
export const frontendSets = {
  all: ['services', 'nodeports'],
  inside: ['services-inside', 'nodeports-inside'],
  guarded: ['guarded-services', undefined],
  refused: ['no-endpoints', 'no-endpoint-nodeports'],
} as const;
export type FrontendSet = keyof typeof frontendSets;

export function frontendElement(
  which: FrontendSet,
  frontend: Frontend,
  protocol: Protocol,
  value?: FrontendValue,
): NftElement {
  const [ofServices, ofNodePorts] = frontendSets[which];
  const set = frontend.kind === 'nodePort' ? (ofNodePorts ?? ofServices) : ofServices;
  const key = frontendKey(frontend, protocol);
  return value === undefined ? { set, key } : { set, key, data: encodeValue(value) };
}

function frontendKey(frontend: Frontend, protocol: Protocol): string {
  const end = frontend.kind === 'nodePort' ? 0 : writeIp(scratch, 0, frontend.ip);
  writeU32(scratch, end, protocolNumbers[protocol]);
  return scratchHex(writePort(scratch, end + 4, frontend.port));
}

export function encodeValue({ id, kind, slots }: FrontendValue): string {
  return hexU32(((id << 16) | (kind << 12) | slots) >>> 0);
}

export function decodeValue(data: string): FrontendValue {
  const value = u32OfHex(data, 0);
  return { id: value >>> 16, kind: (value >>> 12) & 15, slots: value & COUNT_MASK };
}

/** One of the two lists of a port, where it stands in maps. */
export interface ListKey {
  readonly id: number;
  readonly local: boolean;
  readonly protocol: Protocol;
}

/** One slot of a list, in `endpoints`; in `tokens` where clients keep their endpoints. */
export function slotElement(
  set: 'endpoints' | 'tokens',
  list: ListKey,
  slot: number,
  data: string,
): NftElement {
  return { set, key: scratchHex(writeSlotKey(scratch, 0, list, slot)), data };
}

/** The same of `endpoints`, for a plan of everything. */
export function packSlot(packer: ElementPacker, list: ListKey, slot: number, endpoint: Place): void {
  const at = packer.add();
  writeSlotKey(packer.bytes, at, list, slot);
  writeEndpoint(packer.bytes, at + packer.keyToData, endpoint);
}

/** Where the key ends. */
function writeSlotKey(bytes: Uint8Array, at: number, { id, local, protocol }: ListKey, slot: number): number {
  writeU32(bytes, at, (id << 16) | (local ? LOCAL_BIT : 0));
  writeU32(bytes, at + 4, protocolNumbers[protocol]);
  writeU32(bytes, at + 8, slot);
  return at + 12;
}

/** Where an element of `endpoints` or `tokens` has its place. */
export function decodeSlot(key: string): {
  readonly id: number;
  readonly local: boolean;
  readonly slot: number;
} {
  const word = u32OfHex(key, 0);
  return { id: word >>> 16, local: (word & LOCAL_BIT) !== 0, slot: u32OfHex(key, 16) };
}

/** The name that a port with affinity has for an endpoint, in the packet's priority. */
export function tokenData(id: number, token: number): string {
  return hexU32(((id << 16) | token) >>> 0);
}

export function decodeToken(data: string): { readonly id: number; readonly token: number } {
  const word = u32OfHex(data, 0);
  return { id: word >>> 16, token: word & 0xffff };
}

/** An endpoint by its token, in the map of the list that it is in. */
export function tokenElement(list: ListKey, token: number, data: string): NftElement {
  const set = list.local ? 'sticky-local' : 'sticky';
  return { set, key: tokenData(list.id, token) + protocolHex[list.protocol], data };
}

/** What a port's list is, for a client whose endpoint has gone. */
export function listElement(list: ListKey, value: FrontendValue): NftElement {
  return { set: list.local ? 'lists-local' : 'lists', key: tokenData(list.id, 0), data: encodeValue(value) };
}

/** How long clients of a port keep their endpoint. */
export function timeoutElement(id: number, seconds: number): NftElement {
  return { set: 'timeouts', key: tokenData(id, 0), data: keepVerdict(seconds) };
}

/** One object for each timeout, so that equal ones are the same. */
const keepVerdicts = new Map<number, NftVerdict>();

function keepVerdict(seconds: number): NftVerdict {
  const verdict = keepVerdicts.get(seconds) ?? { verdict: 'jump', chain: keepChain(seconds) };
  keepVerdicts.set(seconds, verdict);
  return verdict;
}

export function keepChain(seconds: number): string {
  return `keep-${seconds}s`;
}

/** Address and port of an endpoint. */
export type Place = Pick<Endpoint, 'ip' | 'port'>;

/** An endpoint as data of the map `endpoints`. */
export function endpointData(endpoint: Place): string {
  return scratchHex(writeEndpoint(scratch, 0, endpoint));
}

/** Where the data end. */
function writeEndpoint(bytes: Uint8Array, at: number, { ip, port }: Place): number {
  return writePort(bytes, writeIp(bytes, at, ip), port);
}

/** Where it ends, filled up. */
function writePort(bytes: Uint8Array, at: number, port: number): number {
  bytes[at] = port >>> 8;
  bytes[at + 1] = port;
  bytes[at + 2] = 0;
  bytes[at + 3] = 0;
  return at + 4;
}

export function decodeEndpoint(data: string): Place {
  const bytes = bytesOfHex(data);
  const end = bytes.length - 4;
  return { ip: ipFromBytes(bytes.subarray(0, end)), port: ((bytes[end] ?? 0) << 8) | (bytes[end + 1] ?? 0) };
}

/** The networks of a group, whose members may connect, in `source-ranges`. */
export function sourceRangeElement(group: number, cidr: Cidr): NftElement {
  const { key, keyEnd } = nftRange(cidr);
  const prefix = hexU32((group << 16) >>> 0);
  return { set: 'source-ranges', key: prefix + key, keyEnd: prefix + keyEnd };
}

/** A network, in a set of ranges of addresses. */
export function networkElement(set: 'pod-networks' | 'service-networks', cidr: Cidr): NftElement {
  return { set, ...nftRange(cidr) };
}

/** A little-endian number of four bytes from the given digit on. */
function u32OfHex(hex: string, at: number): number {
  const digits = Number.parseInt(hex.slice(at, at + 8), 16);
  const swapped = ((digits & 0xff00ff) << 8) | ((digits >>> 8) & 0xff00ff);
  return ((swapped << 16) | (swapped >>> 16)) >>> 0;
}

/** A connection from this pod to itself, in `hairpin`. */
export function hairpinElement(ip: Ip): NftElement {
  return { set: 'hairpin', key: ipHex(ip).repeat(2) };
}

/** The address of a service that lives, in `cluster-ips`. */
export function clusterIpElement(ip: Ip): NftElement {
  return { set: 'cluster-ips', key: ipHex(ip) };
}

/** An address on which node ports are open, in `nodeport-addresses`. */
export function nodeAddressElement(ip: Ip): NftElement {
  return { set: 'nodeport-addresses', key: ipHex(ip) };
}

const protocolHex: Readonly<Record<Protocol, string>> = {
  tcp: hexU32(protocolNumbers.tcp),
  udp: hexU32(protocolNumbers.udp),
  sctp: hexU32(protocolNumbers.sctp),
};

/** Longer than any key or data is. */
const scratch = Buffer.alloc(64);

/** What was written to the beginning of it, as one flat text: put together of pieces, it would be kept in pieces. */
function scratchHex(end: number): string {
  return scratch.toString('hex', 0, end);
}

function ipHex(ip: Ip): string {
  return scratchHex(writeIp(scratch, 0, ip));
}

/** Where the address ends. Of IPv4 without an object: much of the work of a plan of everything is this. */
function writeIp(bytes: Uint8Array, at: number, ip: Ip): number {
  if (familyOf(ip) === 6) {
    const address = ipToBytes(ip);
    bytes.set(address, at);
    return at + address.length;
  }
  let place = at;
  let part = 0;
  for (let index = 0; index < ip.length; index += 1) {
    const code = ip.charCodeAt(index);
    if (code === DOT) {
      bytes[place++] = part;
      part = 0;
    } else part = part * 10 + code - ZERO;
  }
  bytes[place] = part;
  return place + 1;
}

const DOT = 46;
const ZERO = 48;
