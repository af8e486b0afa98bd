import { type Cidr, cidrContains, familyOf, parseMac } from '../../core/address.ts';
import type { Loopback } from '../../kernel/loopback.ts';
import { noDns } from '../config.ts';
import { CniError, cniCode } from '../error.ts';
import type { Result } from '../result.ts';

/** The interface of type loopback, whatever CNI_IFNAME says. */
export const loopbackName = 'lo';
const loopbackCidrs = { 4: '127.0.0.0/8' as Cidr, 6: '::1/128' as Cidr } as const;

export interface LoopbackCall {
  /** CNI_NETNS as given. */
  readonly sandbox: string;
  /** `prevResult`; it is passed through. */
  readonly previous: Result | undefined;
}

/**
 * What ADD answers when lo is up: the first address of each family. It is up before any configuration is looked at,
 * because a container without it is of no use, and there is nothing to configure.
 */
export function planLoopback(
  { addresses }: Loopback,
  { sandbox, previous }: LoopbackCall,
): Result | CniError {
  const foreign = addresses.find((address) => !cidrContains(loopbackCidrs[familyOf(address)], address));
  if (foreign !== undefined) {
    const text = `loopback interface found with non-loopback address ${JSON.stringify(foreign)}`;
    return new CniError(cniCode.internal, text);
  }
  if (previous !== undefined) return previous;
  const ips = ([4, 6] as const).flatMap((family) => {
    const address = addresses.find((one) => familyOf(one) === family);
    return address === undefined ? [] : [{ address, interface: 0 }];
  });
  const mac = parseMac('00:00:00:00:00:00');
  return { interfaces: [{ name: loopbackName, mac, sandbox }], ips, routes: [], dns: noDns };
}

/** What CHECK says; undefined: all is well. */
export function checkLoopback({ isUp }: Loopback): CniError | undefined {
  return isUp ? undefined : new CniError(cniCode.internal, 'loopback interface is down');
}
