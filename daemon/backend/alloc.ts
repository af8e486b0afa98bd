import { type BackendConfig, type BackendKind, noRows } from './backend.ts';

/*
 * The life of one packet: none of ours. This node gets its subnet and tells its pods' plugin of it; who carries
 * packets between the nodes (a cloud's route table, a router that is told of the leases) is somebody else.
 */

/** A subnet for this node, and nothing in the kernel. */
export const alloc: BackendKind<BackendConfig & { type: 'alloc' }> = {
  type: 'alloc',
  parse: () => ({ type: 'alloc' }),
  make: () => ({
    type: 'alloc',
    data: () => ({}),
    mtuBytes: (underlay) => underlay.mtuBytes,
    // Whether there is a way to a node is not known here: none is said to be missing.
    plan: ({ self, leases }) => ({ ...noRows, peers: leases.size - Number(leases.has(self.key)) }),
  }),
};
