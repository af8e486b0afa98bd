import { createHash } from 'node:crypto';
import type { PlainService } from './world.ts';

/*
 * The same Services in the layouts of kube-proxy, as text for `nft -f` and `iptables-restore`: as many tables, chains,
 * rules and elements, of the same kinds and with names of the same length, without comments. What kube-proxy does
 * beside it (1.36 lists all chains before each change) is left out, which is in its favour.
 */

/** Text of a whole load, and of one change of a service's first endpoint; without line ends. */
export interface Layout {
  load(services: Iterable<PlainService>): Generator<string>;
  change(before: PlainService, after: PlainService, services: Iterable<PlainService>): Generator<string>;
}

/** Names end in such things, so that they fit and are the same each time. */
export function hash(text: string, length: number): string {
  return createHash('sha256').update(text).digest('hex').slice(0, length).toUpperCase();
}
