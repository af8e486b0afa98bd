import type { Cidr } from '../core/address.ts';
import type { Lease, LeaseStore, PerFamily } from './lease.ts';

/** No store: this node has the given pod subnets and no peers. */
export function staticLeaseStore(nodeName: string, subnets: PerFamily<Cidr>): LeaseStore {
  const leases = new Map<string, Lease>();
  return {
    name: 'static',
    acquire: async (attributes) => {
      const lease = { ...attributes, key: nodeName, subnets };
      leases.set(nodeName, lease);
      return lease;
    },
    watch: () => ({ synced: Promise.resolve(), leases: () => leases, problems: () => [], behindMs: () => 0 }),
  };
}
