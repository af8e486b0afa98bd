import type { NftCtKey, NftField, NftMetaKey, NftPayloadBase } from './fields.ts';
import type { NftVerdict } from './spec.ts';

/**
 * One instruction of the kernel's rule machine (struct nft_expr). `register`, `target` and `from` count words of
 * four bytes, 0 to 15; what is longer than a word fills the following ones. Constants are bytes in hex.
 */
export type NftExpression =
  | {
      readonly kind: 'payload';
      readonly target: number;
      readonly base: NftPayloadBase;
      readonly offset: number;
      readonly bytes: number;
    }
  | { readonly kind: 'meta'; readonly target: number; readonly key: NftMetaKey }
  | { readonly kind: 'meta set'; readonly key: NftMetaKey; readonly from: number }
  | {
      readonly kind: 'ct';
      readonly target: number;
      readonly key: NftCtKey;
      readonly direction?: 'original' | 'reply';
    }
  | { readonly kind: 'ct set'; readonly key: 'mark'; readonly from: number }
  | { readonly kind: 'fib'; readonly target: number; readonly address: 'saddr' | 'daddr' }
  | { readonly kind: 'numgen'; readonly target: number; readonly modulus: number; readonly offset: number }
  | {
      readonly kind: 'hash';
      readonly from: number;
      readonly bytes: number;
      readonly target: number;
      readonly modulus: number;
      readonly seed: number;
    }
  /** target = (from & mask) ^ xor */
  | {
      readonly kind: 'bitwise';
      readonly from: number;
      readonly target: number;
      readonly mask: string;
      readonly xor: string;
    }
  | { readonly kind: 'cmp'; readonly from: number; readonly op: NftCompare; readonly data: string }
  | {
      readonly kind: 'range';
      readonly from: number;
      readonly op: '==' | '!=';
      readonly low: string;
      readonly high: string;
    }
  /** Without target: goes on only when the key is there (or, inverted, is not). */
  | {
      readonly kind: 'lookup';
      readonly set: string;
      readonly from: number;
      readonly target?: number | 'verdict';
      readonly inverted?: boolean;
    }
  /** A lookup in a set without a name, made with the rule: goes on when the value is one of these. */
  | {
      readonly kind: 'one of';
      readonly from: number;
      readonly field: NftField;
      readonly values: readonly string[];
    }
  | {
      readonly kind: 'dynset';
      readonly set: string;
      readonly op: 'add' | 'update' | 'delete';
      readonly key: number;
      readonly data?: number;
      /** 0: the set's own. */
      readonly timeoutMs?: number;
    }
  | { readonly kind: 'immediate'; readonly target: number; readonly data: string }
  | { readonly kind: 'verdict'; readonly verdict: NftVerdict }
  | {
      readonly kind: 'nat';
      readonly nat: 'dnat' | 'snat';
      readonly family: 4 | 6;
      readonly address?: number;
      readonly port?: number;
      readonly flags: NftNatFlags;
    }
  | { readonly kind: 'masq'; readonly flags: NftNatFlags }
  | { readonly kind: 'reject'; readonly with: NftReject; readonly code: number }
  | { readonly kind: 'counter' }
  /** What nft or another program wrote and we never do. */
  | { readonly kind: 'other'; readonly name: string };

export type NftCompare = '==' | '!=' | '<' | '<=' | '>' | '>=';
export type NftReject = 'icmp' | 'tcp reset' | 'icmpx';

export interface NftNatFlags {
  /** Source ports by hash of the connection. */
  readonly random?: boolean;
  /** Source ports by a random number. */
  readonly fullyRandom?: boolean;
  readonly persistent?: boolean;
}
