import type { Logger } from 'pino';
import type { Cidr, Ip } from '../core/address.ts';
import type { ListWatcher, V1Node } from '../kube/types.ts';
import type { Backend, SyncResult, Views } from './backend.ts';
import { ProxyLoop } from './loop.ts';
import { openNftables } from './nftables/backend.ts';
import { defaultPolicy, type NodeFacts, type ProxyPolicy } from './policy.ts';
import type { Trigger } from './slice-index.ts';
import type { ServiceHealthCheck, ServicePortView } from './view.ts';

export interface ProxyOptions {
  readonly client: ListWatcher;
  /** As in the endpoints' `nodeName`; the name of our own Node object. */
  readonly nodeName: string;
  /**
   * The node's own addresses, one of each family at most. They stand in for those of the Node object, which is waited
   * for otherwise.
   */
  readonly nodeAddresses?: readonly Ip[] | undefined;
  /** Default: kube-proxy's, with `clusterCidrs` as what tells pods. */
  readonly policy?: ProxyPolicy | undefined;
  /** Where pods have their addresses. Without one of a family, connections to its cluster IPs keep their source. */
  readonly clusterCidrs?: readonly Cidr[] | undefined;
  /** Only Services that name this proxy are ours; else those that name none. */
  readonly serviceProxyName?: string | undefined;
  /** Default true. */
  readonly allowExternalIps?: boolean | undefined;
  /** Views name the serving endpoints of TCP ports as well, for those who reset connections to others. */
  readonly resetTcp?: boolean | undefined;
  /** The node's network namespace; else that of the process. Not kept. */
  readonly namespaceFd?: number | undefined;
  /** Between the end of a pass and the beginning of the next; default 0. */
  readonly minSyncPeriodMs?: number | undefined;
  /** Everything is read back and compared at least this often; default 10 minutes. */
  readonly fullSyncIntervalMs?: number | undefined;
  readonly log: Logger;
  /** As good as disposing. */
  readonly signal?: AbortSignal | undefined;
  /** Another backend than nftables. The proxy disposes it. */
  readonly backend?: Backend | undefined;
  /** Told of every pass: stale flows, health checks and metrics follow it. */
  readonly observers?: readonly ProxyObserver[] | undefined;
}

/** How one service was before a pass, and how it is now; without ports it was not there, or is gone. */
export interface ViewChange {
  readonly before: readonly ServicePortView[];
  readonly after: readonly ServicePortView[];
}

/** A pass that the kernel took. What a failed pass was about is in the next one that succeeds. */
export interface ProxyPass {
  readonly kind: 'full' | 'update';
  readonly result: SyncResult;
  readonly durationMs: number;
  /** By `namespace/name`. */
  readonly changed: ReadonlyMap<string, ViewChange>;
  /** The node as the kernel has it now; the same object as in the pass before, unless it changed. */
  readonly facts: NodeFacts;
  /** What happened in the cluster, as far as slices say. */
  readonly triggers: readonly Trigger[];
  /** The same, only when: milliseconds of the epoch. */
  readonly triggerTimesMs: readonly number[];
}

export interface ProxyObserver {
  /** Called within the loop: whatever takes long has to go on by itself. */
  passed?(pass: ProxyPass): void;
  failed?(error: Error, kind: ProxyPass['kind']): void;
}

export interface ProxyStatus {
  readonly backend: Backend['name'];
  /** Everything was written once. */
  readonly synced: boolean;
  readonly services: number;
  /** Services that changed and are not written yet. */
  readonly dirty: number;
  /** Of all ports and families together, as far as they get connections. */
  readonly endpoints: number;
  /** Rows written since the start. */
  readonly writes: number;
  /** Passes over what changed, and passes that read everything back. */
  readonly updates: number;
  readonly fullSyncs: number;
  /** How long the last pass took. */
  readonly lastSyncMs: number | undefined;
  /** When the last pass ended that did not fail: milliseconds of the epoch. */
  readonly lastSyncedAtMs: number | undefined;
  /** When something last came that the kernel did not have: milliseconds of the epoch. */
  readonly lastQueuedAtMs: number | undefined;
  /**
   * Since when the oldest change waits that is not in the kernel, at the start all that is known: milliseconds of the
   * epoch. Undefined while the first lists are awaited.
   */
  readonly waitingSinceMs: number | undefined;
  /** Passes that failed since the last that did not. */
  readonly failures: number;
  /** Why the last one failed; undefined: it did not. */
  readonly error: string | undefined;
}

export interface ServiceProxy extends AsyncDisposable {
  /** Fulfilled when the kernel does what the API says for the first time; rejected when stopped before. */
  readonly synced: Promise<void>;
  /** By service; what backends are told. */
  readonly views: Views;
  readonly healthChecks: ReadonlyMap<string, ServiceHealthCheck>;
  /** What is wrong with a service, in words, as of the last pass; by `namespace/name`. */
  readonly problems: ReadonlyMap<string, string>;
  /** What the backend goes by, besides the views; the facts are undefined before the first pass. */
  readonly policy: ProxyPolicy;
  readonly facts: NodeFacts | undefined;
  /** Our own Node object as of now; undefined: not there, or not known yet. */
  readonly node: V1Node | undefined;
  status(): ProxyStatus;
}

/**
 * Starts to serve. Stopping it leaves the kernel as it is, so that connections outlive a restart.
 * Throws KernelError where the backend's interface cannot be opened.
 */
export function startProxy(options: ProxyOptions): ServiceProxy {
  const policy = options.policy ?? policyOf(options.clusterCidrs ?? []);
  return new ProxyLoop({ ...options, policy }, options.backend ?? openDefault(options, policy));
}

function policyOf(cidrs: readonly Cidr[]): ProxyPolicy {
  return cidrs.length === 0 ? defaultPolicy : { ...defaultPolicy, detectLocal: { mode: 'cidrs', cidrs } };
}

/** The loop tells it the node's addresses before the first pass. */
function openDefault({ namespaceFd, log }: ProxyOptions, policy: ProxyPolicy): Backend {
  const onRefused = (error: Error) => log.warn({ error: error.message }, 'change refused, table rebuilt');
  return openNftables({ policy, namespaceFd, onRefused });
}
