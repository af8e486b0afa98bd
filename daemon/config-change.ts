import { type Cidr, cidrContains, families } from '../core/address.ts';
import type { NetworkConfig } from './config.ts';
import type { PerFamily } from './lease.ts';
import { isNodeSubnet } from './subnets.ts';

/**
 * What in a changed configuration a running node cannot follow, one sentence each: pods have addresses of the
 * subnets that the node has, and nobody gives them others. Everything else (backends, a network that grew, other
 * bounds for the subnets of new nodes) can be followed.
 */
export function configObstacles(
  before: NetworkConfig,
  after: NetworkConfig,
  own: PerFamily<Cidr> | undefined,
): string[] {
  return families.flatMap((family) => {
    const [old, now, subnet] = [before.networks[family], after.networks[family], own?.[family]];
    if (old === undefined && now === undefined) return [];
    if (now === undefined) return `IPv${family} is switched off`;
    if (old === undefined) return `IPv${family} is switched on`;
    if (subnet === undefined) return [];
    if (!cidrContains(now.network, subnet))
      return `${now.network} does not hold this node's subnet ${subnet}`;
    if (isNodeSubnet(old, subnet) && !isNodeSubnet(now, subnet)) {
      const bounds = `/${now.subnetLength} from ${now.subnetMin} to ${now.subnetMax}`;
      return `this node's subnet ${subnet} is none of ${bounds}`;
    }
    return [];
  });
}
