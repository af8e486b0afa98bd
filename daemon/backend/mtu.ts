import { type Family, families } from '../../core/address.ts';
import type { JsonObject } from '../json-object.ts';
import type { Underlay } from '../underlay.ts';

/** MTU of the underlay, where it is not the interface's own. */
export interface UnderlayMtu {
  readonly mtuBytes?: number;
}

/** Bytes of headers around a packet where the outer packet is of this family. */
export type Overhead = Readonly<Record<Family, number>>;

/** The smallest MTU that IPv4 (RFC 791) and IPv6 (RFC 8200) allow on a link. */
const leastMtuBytes = Object.freeze({ 4: 68, 6: 1280 });

/** The option `MTU`. Refused when the tunnel leaves less than a family in use needs; 0 counts as absent. */
export function readMtu(options: JsonObject, overhead: Overhead, inUse: readonly Family[]): UnderlayMtu {
  const mtuBytes = options.integer('MTU', 0, 65535);
  if (!mtuBytes) return {};
  const least = Math.max(...inUse.map((family) => leastMtuBytes[family] + overhead[family]));
  if (mtuBytes < least) options.problem('MTU', `${mtuBytes} is less than ${least}`);
  return { mtuBytes };
}

export function underlayFamilies(underlay: Underlay): Family[] {
  return families.filter((family) => underlay.addresses[family] !== undefined);
}

/** What the tunnel of one family leaves of the underlay's MTU. */
export function innerMtu(
  config: UnderlayMtu,
  underlay: Underlay,
  overhead: Overhead,
  family: Family,
): number {
  return (config.mtuBytes ?? underlay.mtuBytes) - overhead[family];
}

/** What fits through the tunnels of all families in use. */
export function leastInnerMtu(config: UnderlayMtu, underlay: Underlay, overhead: Overhead): number {
  return Math.min(
    ...underlayFamilies(underlay).map((family) => innerMtu(config, underlay, overhead, family)),
  );
}
