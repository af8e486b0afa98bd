import { hash } from 'node:crypto';
import { addressBits, type Cidr, familyOf, type HostCidr, ipOf } from '../../core/address.ts';
import { nftRange } from '../../kernel/netlink/nftables/keys.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';

/** Two sets of the table in `nft-layout.ts`: pods by the number of their scope, and the ranges of scopes. */
export interface ScopeSets {
  readonly pods: string;
  readonly ranges: string;
}

/** The number of a scope takes four bytes, in hex. */
const numberDigits = 8;
/** Nearly every pod of a node has one of a few. */
const knownScopes = new Map<string, Scope>();
const knownScopesMax = 256;

interface Scope {
  /** As hex. */
  readonly number: string;
  readonly ranges: readonly Pick<NftElement, 'key' | 'keyEnd'>[];
}

/**
 * A pod's element, and those that all pods of the same scope share: ranges of addresses, disjoint. The number of a scope
 * follows from its ranges by a hash, so that the elements of nested subnets do not overlap.
 */
export function scopeElements(
  { pods, ranges }: ScopeSets,
  address: HostCidr,
  cidrs: readonly Cidr[],
): NftElement[] {
  const scope = scopeOf(cidrs);
  const pod = nftRange(`${ipOf(address)}/${addressBits(familyOf(address))}` as Cidr).key;
  return [
    { set: pods, key: pod, data: scope.number },
    ...scope.ranges.map(({ key, keyEnd }) => ({ set: ranges, key, keyEnd })),
  ];
}

function scopeOf(cidrs: readonly Cidr[]): Scope {
  const name = cidrs.join();
  const known = knownScopes.get(name);
  if (known !== undefined) return known;
  const number = hash('sha256', name).slice(0, numberDigits);
  const ranges = cidrs.map((cidr) => {
    const { key, keyEnd } = nftRange(cidr);
    return { key: number + key, keyEnd: number + keyEnd };
  });
  if (knownScopes.size === knownScopesMax) knownScopes.clear();
  knownScopes.set(name, { number, ranges });
  return { number, ranges };
}
