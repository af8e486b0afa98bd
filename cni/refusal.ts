import type { Ip } from '../core/address.ts';
import { CniError, cniCode } from './error.ts';
import { formatRangeSet, type RangeSet } from './ranges.ts';

/** Why addresses were not given; then none was. `index` is that of the range set. */
export type Refusal =
  /** The set has nothing left. */
  | { readonly kind: 'exhausted'; readonly index: number; readonly set: RangeSet }
  /** What was asked for is the gateway. */
  | { readonly kind: 'gateway'; readonly index: number; readonly ip: Ip }
  /** What was asked for is held by someone. */
  | {
      readonly kind: 'taken';
      readonly index: number;
      readonly ip: Ip;
      readonly set: RangeSet;
      /** Key of the attachment, which may be one of another network. */
      readonly holder?: string | undefined;
    }
  /** The holder holds this one already. */
  | { readonly kind: 'duplicate'; readonly index: number; readonly ip: Ip }
  /** These were asked for and no set, or none that was not asked for another, has them. */
  | { readonly kind: 'unmatched'; readonly ips: readonly Ip[] };

/** What a runtime is told, in host-local's words. It may try again where another pod's end could help. */
export function refusalError(refusal: Refusal, containerId: string): CniError {
  if (refusal.kind === 'unmatched') {
    return new CniError(
      cniCode.invalidConfig,
      `failed to allocate all requested IPs: ${refusal.ips.join(' ')}`,
    );
  }
  const isPassing = refusal.kind === 'exhausted' || refusal.kind === 'taken';
  const code = isPassing ? cniCode.tryAgain : cniCode.invalidConfig;
  const message = `failed to allocate for range ${refusal.index}: ${reason(refusal, containerId)}`;
  const isHeld = refusal.kind === 'taken' && refusal.holder !== undefined;
  return new CniError(code, message, isHeld ? `${refusal.ip} is held by ${refusal.holder}` : '');
}

function reason(refusal: Exclude<Refusal, { kind: 'unmatched' }>, containerId: string): string {
  switch (refusal.kind) {
    case 'exhausted':
      return exhaustedText(refusal.set);
    case 'gateway':
      return `requested ip ${refusal.ip} is subnet's gateway`;
    case 'taken':
      return `requested IP address ${refusal.ip} is not available in range set ${formatRangeSet(refusal.set)}`;
    case 'duplicate':
      return `${refusal.ip} has been allocated to ${containerId}, duplicate allocation is not allowed`;
  }
}

export function exhaustedText(set: RangeSet): string {
  return `no IP addresses available in range set: ${formatRangeSet(set)}`;
}
