import type { Failure } from '../core/rows.ts';
import type { NodeFacts } from './policy.ts';
import type { ServicePortView } from './view.ts';

/** The views of services, by `namespace/name`. A service that is gone has an empty list. */
export type Views = ReadonlyMap<string, readonly ServicePortView[]>;

/** What one pass over the kernel did. */
export interface SyncResult {
  /** Rows written. */
  readonly writes: number;
  readonly failures: readonly Failure[];
}

/** One way to make a kernel do what the views say. */
export interface Backend extends Disposable {
  readonly name: 'nftables' | 'iptables' | 'ipvs';
  /** Reads what is there and makes it what all services say. Works from any state, also one that others left. */
  replace(views: Views): Promise<SyncResult>;
  /** These services are not as they were at the last call; all the rest is. */
  update(changed: Views): Promise<SyncResult>;
  /**
   * From now on the node is this. Before the first `replace` it is only remembered; afterwards the kernel follows at
   * once, at a cost that does not depend on the services.
   */
  updateNode(facts: NodeFacts): Promise<SyncResult>;
  /** Whether somebody else has changed what is ours, or may have, since the last call. */
  isDisturbed(): Promise<boolean>;
  /**
   * Whether much of what is ours is certainly gone. Asked while `isDisturbed` would cost too much, because others change
   * things all the time: so it costs next to nothing.
   */
  isDamaged(): Promise<boolean>;
  /** What cannot be done as wanted, by service. */
  problems(): ReadonlyMap<string, string>;
}
