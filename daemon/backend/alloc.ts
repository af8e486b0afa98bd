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
    plan: () => noRows,
  }),
};
