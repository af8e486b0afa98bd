import {
  addressBits,
  type Cidr,
  cidrContains,
  cidrsOverlap,
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

/** The range, or what is wrong with it in host-local's words. */
export function makeRange({ subnet, rangeStart, rangeEnd, gateway }: RangeText): AddressRange | string {
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
  const router = addressIn(network, 'Gateway', gateway, bounds.first);
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

export function rangeSetFamily(set: RangeSet): Family {
  return familyOf(set[0].subnet);
}

/** "10.1.0.1-10.1.0.254", as host-local names it. */
export function formatRangeSet(set: RangeSet): string {
  return set.map(({ first, last }) => `${first}-${last}`).join(',');
}

/**
 * Reads `ranges` and the older `subnet`, `rangeStart`, `rangeEnd`, `gateway` beside it (which become the first
 * set) of an `ipam` object. What is wrong is noted with the reader.
 */
export function readRangeSets(ipam: FieldReader): RangeSet[] {
  const sets: RangeSet[] = [];
  if (ipam.has('subnet')) {
    const range = readRange(ipam);
    if (range !== undefined) sets.push([range]);
  }
  ipam.list('ranges').forEach((entry, index) => {
    const set = readSet(ipam, `ranges[${index}]`, entry);
    if (set !== undefined) sets.push(set);
  });
  checkOverlaps(ipam, sets);
  return sets;
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

function readSet(ipam: FieldReader, path: string, entry: unknown): RangeSet | undefined {
  if (!Array.isArray(entry)) return ipam.problem(path, `must be a list, not ${JSON.stringify(entry)}`);
  const ranges: AddressRange[] = [];
  entry.forEach((value, index) => {
    const fields = ipam.entry(`${path}[${index}]`, value);
    const range = fields === undefined ? undefined : readRange(fields);
    if (range !== undefined) ranges.push(range);
  });
  const [first, ...rest] = ranges;
  if (first === undefined) return entry.length === 0 ? ipam.problem(path, 'empty range set') : undefined;
  if (rest.some(({ subnet }) => familyOf(subnet) !== familyOf(first.subnet))) {
    return ipam.problem(path, 'mixed address families in one range set');
  }
  return [first, ...rest];
}

function rangesOverlap(a: AddressRange, b: AddressRange): boolean {
  if (!cidrsOverlap(a.subnet, b.subnet)) return false;
  return ipToBigInt(a.first) <= ipToBigInt(b.last) && ipToBigInt(b.first) <= ipToBigInt(a.last);
}

function checkOverlaps(ipam: FieldReader, sets: readonly RangeSet[]): void {
  const all = sets.flatMap((set, index) => set.map((range) => ({ range, index })));
  all.forEach(({ range, index }, at) => {
    const other = all.slice(at + 1).find((later) => rangesOverlap(range, later.range));
    if (other !== undefined) ipam.problem('ranges', `range set ${index} overlaps with ${other.index}`);
  });
}
