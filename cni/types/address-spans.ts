import {
  addressBits,
  type Family,
  familyOf,
  type Ip,
  ipOf,
  ipToBigInt,
  networkOf,
  parseHostCidr,
  parseIp,
  prefixLengthOf,
} from '../../core/address.ts';

/** Addresses from the first to the last, as numbers. */
export type AddressSpan = readonly [first: bigint, last: bigint];

/** All addresses of the family. */
export function everySpan(family: Family): AddressSpan {
  return [0n, (1n << BigInt(addressBits(family))) - 1n];
}

export function spanOfIp(ip: Ip): AddressSpan {
  const value = ipToBigInt(ip);
  return [value, value];
}

/** An address, a network (`10.1.2.3/8` is that of 10.0.0.0) or `first-last`, of the family. */
export function parseSpan(text: string, family: Family): AddressSpan | undefined {
  const ends = text.split('-').map((part) => parseIp(part));
  const [first, last = first] = ends;
  if (ends.length <= 2 && first !== undefined && last !== undefined) {
    const span: AddressSpan = [ipToBigInt(first), ipToBigInt(last)];
    const isOfFamily = familyOf(first) === family && familyOf(last) === family;
    return isOfFamily && span[0] <= span[1] ? span : undefined;
  }
  const cidr = parseHostCidr(text);
  if (cidr === undefined || familyOf(cidr) !== family) return undefined;
  const begin = ipToBigInt(ipOf(networkOf(cidr)));
  return [begin, begin + (1n << BigInt(addressBits(family) - prefixLengthOf(cidr))) - 1n];
}

/** In ascending order, apart from each other. */
export function joinSpans(spans: readonly AddressSpan[]): AddressSpan[] {
  const joined: [bigint, bigint][] = [];
  for (const [first, last] of spans.toSorted((a, b) => (a[0] < b[0] ? -1 : 1))) {
    const before = joined.at(-1);
    if (before === undefined || before[1] + 1n < first) joined.push([first, last]);
    else if (last > before[1]) before[1] = last;
  }
  return joined;
}

/** What is in both; each is joined. */
export function commonSpans(some: readonly AddressSpan[], others: readonly AddressSpan[]): AddressSpan[] {
  return some.flatMap(([first, last]) =>
    others.flatMap(([from, to]): AddressSpan[] => {
      const span: AddressSpan = [greater(first, from), -greater(-last, -to)];
      return span[0] <= span[1] ? [span] : [];
    }),
  );
}

function greater(one: bigint, other: bigint): bigint {
  return [one, other].reduce((most, value) => (value > most ? value : most));
}

/** All that is in none of them. */
export function otherSpans(spans: readonly AddressSpan[], family: Family): AddressSpan[] {
  const [, end] = everySpan(family);
  let from = 0n;
  const others: AddressSpan[] = [];
  for (const [first, last] of joinSpans(spans)) {
    if (from < first) others.push([from, first - 1n]);
    from = last + 1n;
  }
  if (from <= end) others.push([from, end]);
  return others;
}
