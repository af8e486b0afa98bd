import type { Log } from '../cni/server.ts';
import type { Cidr } from '../core/address.ts';
import type { NetworkConfig } from './config.ts';
import type { ConfigSource } from './config-source.ts';
import type { LeaseStore } from './lease.ts';
import type { NodeFacts } from './node-plan.ts';
import type { UnderlaySelector } from './underlay.ts';

export interface DaemonOptions {
  readonly nodeName: string;
  readonly store: LeaseStore;
  readonly config: NetworkConfig;
  /** Where `config` is from: the node follows its changes, as far as a running node can. */
  readonly configSource?: ConfigSource | undefined;
  readonly underlay?: UnderlaySelector | undefined;
  /** `bridge`: by default "cni0". */
  readonly cni: {
    readonly socketPath: string;
    readonly stateDir: string;
    readonly bridge?: string | undefined;
  };
  /** Where this node remembers its subnets; by default with the CNI plugin's state. */
  readonly stateDir?: string | undefined;
  /** Where this node keeps what must outlive a reboot (its key of WireGuard); by default as `stateDir`. */
  readonly keptDir?: string | undefined;
  /** flannel's subnet.env; without it none is written. */
  readonly subnetFile?: string | undefined;
  /** By default true: pods' packets to the outside get this node's address. */
  readonly masquerade?: boolean | undefined;
  /** Networks outside to which packets of pods go with the pods' addresses. */
  readonly nonMasqueradeCidrs?: readonly Cidr[] | undefined;
  /** By default true: what is forwarded from and to pods is accepted where iptables' FORWARD drops. */
  readonly forwardRules?: boolean | undefined;
  /** By default false: packets to this node's pod addresses that nobody has end here. */
  readonly blackholeRoute?: boolean | undefined;
  /** By default true: masqueraded connections get random ports. */
  readonly randomPorts?: boolean | undefined;
  /** The node's network namespace; else that of the process. */
  readonly namespaceFd?: number | undefined;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly timing?: Partial<DaemonTiming> | undefined;
}

export interface DaemonTiming {
  /** All of the kernel's tables are looked at at least this often. */
  readonly resyncMs: number;
  /** Wait before what failed is tried again; doubles up to the most. */
  readonly retryMs: number;
  readonly retryMostMs: number;
}

export function keptDirectory({ keptDir, stateDir, cni }: DaemonOptions): string {
  return keptDir ?? stateDir ?? cni.stateDir;
}

/** What a plan is told by whoever started the agent. */
export function planWishes(
  options: DaemonOptions,
): Pick<NodeFacts, 'nodeName' | 'blackhole' | 'nonMasqueradeCidrs' | 'forwardRules'> {
  const { nodeName, blackholeRoute: blackhole, nonMasqueradeCidrs, forwardRules } = options;
  return { nodeName, blackhole, nonMasqueradeCidrs, forwardRules };
}
