import { hash } from 'node:crypto';
import { type HostCidr, ipOf, ipToBytes, type Mac, macFromBytes } from '../core/address.ts';

export { attachmentKey } from './part.ts';

const hostNamePrefix = 'fl';
const hostNameDigits = 13;

/** The same for the same attachment, whoever asks and whenever. 52 bits of SHA-256. */
export function hostNameOf(key: string): string {
  return hostNamePrefix + hash('sha256', key, 'hex').slice(0, hostNameDigits);
}

/** Whether {@link hostNameOf} could have made it. */
export function isHostName(name: string): boolean {
  return /^fl[0-9a-f]{13}$/.test(name);
}

/** Locally administered; the last four bytes are those of the address. */
const bridgeMacBytes = [0x0a, 0x58] as const;

/**
 * The bridge's address on the link follows from its first gateway. Without a fixed one it would be that of its
 * lowest port, and every pod's neighbour entry of the gateway would go stale when a pod comes or goes.
 */
export function bridgeMac([first]: readonly HostCidr[]): Mac | undefined {
  if (first === undefined) return undefined;
  return macFromBytes(Uint8Array.of(...bridgeMacBytes, ...ipToBytes(ipOf(first)).slice(-4)));
}
