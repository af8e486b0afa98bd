import type { Cidr } from '../core/address.ts';

/** What the daemon knows about pods on this node. Give the same object as long as nothing has changed. */
export interface NodeNetwork {
  /** Name of the bridge that pods are on, such as "cni0". */
  readonly name: string;
  /** The node's pod subnets: one per family. */
  readonly subnets: readonly Cidr[];
  /** Of pods' interfaces. */
  readonly mtuBytes: number;
  /** Whether pods' traffic to the outside is masqueraded; that is the daemon's work, not the plugin's. */
  readonly masquerade: boolean;
}
