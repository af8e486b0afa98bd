import {
  addressBits,
  type Cidr,
  cidrContains,
  type Family,
  familyOf,
  type Ip,
  ipFromBigInt,
  ipOf,
  ipToBigInt,
  networkOf,
  parseHostCidr,
  parseIp,
  prefixLengthOf,
} from '../core/address.ts';
import type { FieldReader } from './fields.ts';
import { isAtLeast } from './version.ts';

/** Consecutive addresses of one subnet that pods may get, both ends included. The gateway is never given. */
export interface AddressRange {
  readonly subnet: Cidr;
  readonly first: Ip;
  readonly last: Ip;
  readonly gateway: Ip;
}

/** Alternatives of one family: a pod gets one address out of one of them. Never empty. */
export type RangeSet = readonly [AddressRange, ...AddressRange[]];

/** The range that a whole subnet makes: without its network, gateway (first) and broadcast addresses. */
export function subnetRange(subnet: Cidr): AddressRange | string {
  return makeRange({ subnet });
}

interface RangeText {
  readonly subnet: string;
  readonly rangeStart?: string | undefined;
  readonly rangeEnd?: string | undefined;
  readonly gateway?: string | undefined;
}

/** By their texts: the configurations of a network's pods say the same again and again. */
const knownRanges = new Map<string, AddressRange | string>();
const knownRangesMax = 256;

/** The range, or what is wrong with it in host-local's words. */
export function makeRange(text: RangeText): AddressRange | string {
  const key = JSON.stringify([text.subnet, text.rangeStart, text.rangeEnd, text.gateway]);
  const known = knownRanges.get(key);
  if (known !== undefined) return known;
  const range = readRangeText(text);
  if (knownRanges.size === knownRangesMax) knownRanges.clear();
  knownRanges.set(key, range);
  return range;
}

function readRangeText({ subnet, rangeStart, rangeEnd, gateway }: RangeText): AddressRange | string {
  const host = parseHostCidr(subnet);
  if (host === undefined) return `invalid CIDR address: ${subnet}`;
  const network = networkOf(host);
  const bits = addressBits(familyOf(network));
  const length = prefixLengthOf(network);
  if (length > bits - 2) return `Network ${subnet} too small to allocate from`;
  if ((network as string) !== host) {
    return `Network has host bits set. For a subnet mask of length ${length} the network address is ${ipOf(network)}`;
  }
  const bounds = boundsOf(network);
  const start = addressIn(network, 'RangeStart', rangeStart, bounds.first);
  if (typeof start === 'string') return start;
  const end = addressIn(network, 'RangeEnd', rangeEnd, bounds.last);
  if (typeof end === 'string') return end;
  if (start > end) return `RangeStart ${rangeStart} not in network ${subnet}`;
  const router = readGateway(network, gateway, bounds.first);
  if (typeof router === 'string') return router;
  const family = familyOf(network);
  const least = inside(start, bounds);
  const most = inside(end, bounds);
  if (least === most && least === router) return `Network ${subnet} too small to allocate from`;
  return {
    subnet: network,
    first: ipFromBigInt(least, family),
    last: ipFromBigInt(most, family),
    gateway: ipFromBigInt(router, family),
  };
}

function inside(address: bigint, { first, last }: { first: bigint; last: bigint }): bigint {
  if (address < first) return first;
  return address > last ? last : address;
}

/** Without the network address (in IPv6 the subnet-router anycast address) and IPv4's broadcast address. */
function boundsOf(network: Cidr): { first: bigint; last: bigint } {
  const family = familyOf(network);
  const base = ipToBigInt(ipOf(network));
  const size = 1n << BigInt(addressBits(family) - prefixLengthOf(network));
  return { first: base + 1n, last: base + size - (family === 4 ? 2n : 1n) };
}

function addressIn(network: Cidr, what: string, text: string | undefined, absent: bigint): bigint | string {
  if (text === undefined || text === '') return absent;
  const ip = parseIp(text);
  if (ip === undefined) return `${what} ${text} is not an IP address`;
  return cidrContains(network, ip) ? ipToBigInt(ip) : `${what} ${text} not in network ${network}`;
}

/** A gateway may lie outside of the subnet: a routed pod reaches any by a route of its own (type ptp). */
function readGateway(network: Cidr, text: string | undefined, absent: bigint): bigint | string {
  if (text === undefined || text === '') return absent;
  const ip = parseIp(text);
  if (ip === undefined) return `Gateway ${text} is not an IP address`;
  return familyOf(ip) === familyOf(network)
    ? ipToBigInt(ip)
    : `Gateway ${text} is not of the family of ${network}`;
}

/** The range of the set that the address lies in. */
export function rangeFor(set: RangeSet, ip: Ip): AddressRange | undefined {
  if (familyOf(ip) !== rangeSetFamily(set)) return undefined;
  const value = ipToBigInt(ip);
  return set.find(({ first, last }) => value >= ipToBigInt(first) && value <= ipToBigInt(last));
}

export function rangeSetFamily(set: RangeSet): Family {
  return familyOf(set[0].subnet);
}

/** "10.1.0.1-10.1.0.254", as host-local names it. */
export function formatRangeSet(set: RangeSet): string {
  return set.map(({ first, last }) => `${first}-${last}`).join(',');
}

/**
 * Reads the range sets of a configuration: `ipRanges` of its `runtimeConfig`, then the older `subnet`,
 * `rangeStart`, `rangeEnd`, `gateway` of its `ipam` object as one set, then the `ranges` of that. What is wrong
 * is noted with the readers.
 */
export function readRangeSets(ipam: FieldReader, runtime?: FieldReader): RangeSet[] {
  const entries: (() => RangeSet | undefined)[] = [];
  const addList = (reader: FieldReader, key: string) => {
    reader.list(key).forEach((entry, place) => {
      const index = entries.length;
      entries.push(() => readSet(reader, `${key}[${place}]`, entry, index));
    });
  };
  if (runtime !== undefined) addList(runtime, 'ipRanges');
  if (ipam.has('subnet')) entries.push(() => readLegacySet(ipam));
  addList(ipam, 'ranges');
  const sets = entries.map((read) => read());
  checkOverlaps(ipam, sets);
  return sets.filter((set) => set !== undefined);
}

function readLegacySet(ipam: FieldReader): RangeSet | undefined {
  const range = readRange(ipam);
  return range === undefined ? undefined : [range];
}

function readRange(fields: FieldReader): AddressRange | undefined {
  const subnet = fields.text('subnet');
  if (subnet === undefined) return fields.has('subnet') ? undefined : fields.problem('subnet', 'missing');
  const range = makeRange({
    subnet,
    rangeStart: fields.text('rangeStart'),
    rangeEnd: fields.text('rangeEnd'),
    gateway: fields.text('gateway'),
  });
  return typeof range === 'string' ? fields.problem('subnet', range) : range;
}

function readSet(reader: FieldReader, path: string, entry: unknown, index: number): RangeSet | undefined {
  if (!Array.isArray(entry)) return reader.problem(path, `must be a list, not ${JSON.stringify(entry)}`);
  const ranges: AddressRange[] = [];
  entry.forEach((value, place) => {
    const fields = reader.entry(`${path}[${place}]`, value);
    const range = fields === undefined ? undefined : readRange(fields);
    if (range !== undefined) ranges.push(range);
  });
  const refuse = (message: string) => reader.problem(path, `invalid range set ${index}: ${message}`);
  const [first, ...rest] = ranges;
  if (first === undefined) return entry.length === 0 ? refuse('empty range set') : undefined;
  if (rest.some(({ subnet }) => familyOf(subnet) !== familyOf(first.subnet))) {
    return refuse('mixed address families');
  }
  const overlap = firstOverlap(ranges.map((range) => [range]));
  if (overlap !== undefined) {
    const [one, other] = overlap.map((place) => formatRangeSet([ranges[place] ?? first]));
    return refuse(`subnets ${one} and ${other} overlap`);
  }
  return [first, ...rest];
}

function checkOverlaps(ipam: FieldReader, sets: readonly (RangeSet | undefined)[]): void {
  const [one, other] = firstOverlap(sets.map((set) => set ?? [])) ?? [];
  if (one !== undefined) ipam.problem('ranges', `range set ${one} overlaps with ${other}`);
}

/** A range as numbers, IPv6 behind IPv4, with the place of its group. */
interface Span {
  readonly first: bigint;
  readonly last: bigint;
  readonly group: number;
}

const family6Base = 1n << 128n;

function spanOf({ first, last }: AddressRange, group: number): Span {
  const base = familyOf(first) === 4 ? 0n : family6Base;
  return { first: base + ipToBigInt(first), last: base + ipToBigInt(last), group };
}

/**
 * Places of the first group that shares an address with a later one, and of the first of those; undefined when none
 * does. Within a group ranges must be apart. Takes n log n steps for n ranges.
 */
export function firstOverlap(
  groups: readonly (readonly AddressRange[])[],
): readonly [number, number] | undefined {
  const spans = groups.flatMap((ranges, group) => ranges.map((range) => spanOf(range, group)));
  spans.sort(byFirst);
  const one = firstGroupInOverlap(spans);
  if (one === undefined) return undefined;
  const own = spans.filter(({ group }) => group === one);
  const others = spans.filter((span) => span.group > one && overlapsAny(own, span));
  return [one, others.reduce((least, { group }) => Math.min(least, group), groups.length)];
}

function byFirst(a: Span, b: Span): number {
  if (a.first === b.first) return 0;
  return a.first < b.first ? -1 : 1;
}

/**
 * A span overlaps one before it of another group if that of them which reaches farthest does. Its partner is that one;
 * what else it overlaps overlaps that one, too, so no group stays unnoticed.
 */
function firstGroupInOverlap(sorted: readonly Span[]): number | undefined {
  let least: number | undefined;
  let farthest: Span | undefined;
  /** Of those of other groups than `farthest`. */
  let second: Span | undefined;
  for (const span of sorted) {
    const before = farthest?.group === span.group ? second : farthest;
    if (before !== undefined && before.last >= span.first) {
      least = Math.min(least ?? span.group, span.group, before.group);
    }
    if (farthest === undefined || span.last > farthest.last) {
      if (farthest?.group !== span.group) second = farthest;
      farthest = span;
    } else if (span.group !== farthest.group && (second === undefined || span.last > second.last)) {
      second = span;
    }
  }
  return least;
}

/** `sorted` are apart from each other: only the last that begins before the end of the span matters. */
function overlapsAny(sorted: readonly Span[], { first, last }: Span): boolean {
  let [from, to] = [0, sorted.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if ((sorted[middle] as Span).first <= last) from = middle + 1;
    else to = middle;
  }
  return from > 0 && (sorted[from - 1] as Span).last >= first;
}

/** Results before 0.3.0 have room for one address of each family: what is wrong with more, in host-local's words. */
export function checkFamilies(sets: readonly RangeSet[], cniVersion: string): string | undefined {
  const isDouble = new Set(sets.map(rangeSetFamily)).size < sets.length;
  if (!isDouble || isAtLeast(cniVersion, '0.3.0') === true) return undefined;
  return `CNI version ${cniVersion} does not support more than 1 address per family`;
}
