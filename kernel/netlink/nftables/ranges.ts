import type { NftElement, NftSet } from './spec.ts';

/**
 * One element as the kernel counts them. In sets with `interval` and a single key, a range is two entries: its first
 * key, and the key behind its last one, marked as an end. A range up to the highest key has no end.
 */
export interface NftEntry extends Omit<NftElement, 'set'> {
  /** NFT_SET_ELEM_INTERVAL_END */
  readonly end?: boolean;
}

/** Ranges in concatenations are single entries with two keys, and not like these. */
export function isRangeSet(set: NftSet): boolean {
  return set.interval === true && set.key.length === 1;
}

/** The entries of a row of a range set. */
export function entriesOfRange(element: NftElement): NftEntry[] {
  const { key, keyEnd = key, data } = element;
  const begin: NftEntry = data === undefined ? { key } : { key, data };
  const behind = plusOne(keyEnd);
  return behind === undefined ? [begin] : [begin, { key: behind, end: true }];
}

/** The rows of a range set, from its entries in any order. Ends without a beginning (nft writes one) are nothing. */
export function rangesOfEntries(set: string, entries: readonly NftEntry[]): NftElement[] {
  const sorted = entries.toSorted((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : a.end ? -1 : 1));
  return sorted.flatMap((entry, index) => {
    if (entry.end) return [];
    const next = sorted[index + 1];
    const keyEnd = next === undefined ? 'f'.repeat(entry.key.length) : minusOne(next.key);
    return [{ set, key: entry.key, keyEnd, ...(entry.data === undefined ? {} : { data: entry.data }) }];
  });
}

function plusOne(key: string): string | undefined {
  const text = (BigInt(`0x${key}`) + 1n).toString(16).padStart(key.length, '0');
  return text.length > key.length ? undefined : text;
}

function minusOne(key: string): string {
  return (BigInt(`0x${key}`) - 1n).toString(16).padStart(key.length, '0');
}
