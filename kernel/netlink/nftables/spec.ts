import type { NftExpression } from './bytecode.ts';
import type { NftField } from './fields.ts';
import type { NftTypeName } from './types.ts';

/**
 * One table of nftables as plain data: what does not change with the objects of the cluster. All that changes
 * stands in elements of its sets and maps ({@link NftElement}).
 */
export interface NftLayout {
  readonly family: NftFamily;
  readonly table: string;
  readonly chains: readonly NftChain[];
  readonly sets: readonly NftSet[];
  /** Kept with the table (`readLayoutNote`): what a later process must know to build the same layout again. */
  readonly note?: string;
}

export type NftFamily = 'ip' | 'ip6' | 'inet' | 'bridge';

export interface NftChain {
  readonly name: string;
  /** Absent: a chain that is only jumped to. */
  readonly hook?: NftHook;
  /** Chains that rules name may stand before or after. */
  readonly rules: readonly NftRule[];
}

export interface NftHook {
  readonly type: 'filter' | 'nat' | 'route';
  readonly hook: 'prerouting' | 'input' | 'forward' | 'output' | 'postrouting';
  /** See `hookPriorities`; lower runs first. */
  readonly priority: number;
  /** For packets that reach the end; accept if absent. */
  readonly policy?: 'accept' | 'drop';
}

/** nft's names: an offset to one of them is printed as `dstnat - 10`. `srcnat` and `dstnat` as in ip and ip6. */
export const hookPriorities = {
  raw: -300,
  mangle: -150,
  dstnat: -100,
  filter: 0,
  security: 50,
  srcnat: 100,
} as const;

export interface NftRule {
  readonly expressions: readonly NftExpression[];
  /** At most 127 bytes. Printed by nft; also how a changed rule of ours is noticed, so best given to all. */
  readonly comment?: string;
}

export interface NftSet {
  readonly name: string;
  /** Fields for `typeof ip daddr . th dport`, names of types for `type ipv4_addr . inet_service`. Not mixed. */
  readonly key: NftKey;
  /** Makes it a map. */
  readonly data?: NftKey | 'verdict';
  /** Most elements it can ever hold (ENFILE beyond). Given: the kernel takes a fixed hash, three times faster to fill. */
  readonly size?: number;
  /** Elements are ranges ({@link NftElement.keyEnd}); they must not overlap. */
  readonly interval?: boolean;
  /**
   * Rules add elements to it (`update @set`). Its elements are not rows: never read, never written by us, except that
   * a table made anew takes over those of the table that it replaces.
   */
  readonly dynamic?: boolean;
  /** Elements of a dynamic set go after this time without an update. */
  readonly timeoutMs?: number;
  /** Each element counts the packets that are looked up and find it. A new value makes a new element, at zero. */
  readonly counter?: boolean;
  readonly comment?: string;
}

export type NftKey = readonly NftField[] | readonly NftTypeName[];

/** One element of a set or map: the row of the element table. */
export interface NftElement {
  /** The set's or map's name. */
  readonly set: string;
  /** The key's bytes as the kernel holds them, in lower-case hex; build it with `nftKey` or `nftKeyWriter`. */
  readonly key: string;
  /** Interval sets: the last key of the range (inclusive), as hex. */
  readonly keyEnd?: string;
  /** Maps: the data's bytes in hex, or a verdict in a verdict map. */
  readonly data?: string | NftVerdict;
  /** Of dynamic sets only. */
  readonly lifetime?: NftLifetime;
}

/** How long an element that packets made lives after each of them, and how long it still has. */
export interface NftLifetime {
  readonly timeoutMs: number;
  readonly expiresMs: number;
}

export type NftVerdict =
  | { readonly verdict: 'accept' | 'drop' | 'continue' | 'return' }
  | { readonly verdict: 'jump' | 'goto'; readonly chain: string };

/** The row's key: set and element in one text. */
export function nftElementKey(element: NftElement): string {
  return element.keyEnd === undefined
    ? `${element.set} ${element.key}`
    : `${element.set} ${element.key}-${element.keyEnd}`;
}
