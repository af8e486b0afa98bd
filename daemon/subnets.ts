import { subnetRange } from '../cni/ranges.ts';
import {
  addressBits,
  type Cidr,
  cidrContains,
  familyOf,
  hostCidr,
  ipFromBigInt,
  ipOf,
  ipToBigInt,
  networkOf,
  prefixLengthOf,
} from '../core/address.ts';
import type { FamilyNetwork } from './config.ts';

/** The first `limit` subnets that overlap none of the taken ones, in order. */
export function freeSubnets(range: FamilyNetwork, taken: readonly Cidr[], limit: number): Cidr[] {
  const family = familyOf(range.network);
  const step = 1n << BigInt(addressBits(family) - range.subnetLength);
  const last = ipToBigInt(range.subnetMax);
  const blocks = taken.filter((cidr) => familyOf(cidr) === family).map(blockOf);
  blocks.sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : 0));
  const free: Cidr[] = [];
  let next = 0;
  let busyUntil = -1n; // last address of the blocks that begin before the end of the candidate
  for (let start = ipToBigInt(range.subnetMin); start <= last && free.length < limit; start += step) {
    for (let block = blocks[next]; block && block.first < start + step; block = blocks[++next]) {
      if (block.last > busyUntil) busyUntil = block.last;
    }
    if (busyUntil < start) free.push(networkOf(hostCidr(ipFromBigInt(start, family), range.subnetLength)));
  }
  return free;
}

function blockOf(cidr: Cidr): { readonly first: bigint; readonly last: bigint } {
  const first = ipToBigInt(ipOf(cidr));
  return { first, last: first + (1n << BigInt(addressBits(familyOf(cidr)) - prefixLengthOf(cidr))) - 1n };
}

/** Whether a node may have this subnet: right length, inside of the range that nodes get theirs from. */
export function isNodeSubnet(range: FamilyNetwork, subnet: Cidr): boolean {
  const start = ipToBigInt(ipOf(subnet));
  return (
    cidrContains(range.network, subnet) &&
    prefixLengthOf(subnet) === range.subnetLength &&
    start >= ipToBigInt(range.subnetMin) &&
    start <= ipToBigInt(range.subnetMax)
  );
}

/** How many pods' addresses a node's subnet has: all but its network, the gateway and the broadcast address. */
export function podAddresses(subnet: Cidr): number {
  const range = subnetRange(subnet);
  return typeof range === 'string' ? 0 : Number(ipToBigInt(range.last) - ipToBigInt(range.first));
}
