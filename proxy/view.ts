import type { Cidr, Family, Ip } from '../core/address.ts';
import type { Problem } from '../core/errors.ts';
import type { Protocol } from './protocol.ts';

/*
 * The view is what Services and EndpointSlices mean for one node, with nothing in it of how a kernel is told:
 * every backend plans from it. It is made service by service, so that a change costs its own service.
 */

/** An address that clients connect to. */
export type Frontend =
  | {
      readonly kind: 'clusterIP' | 'externalIP' | 'loadBalancerIP';
      readonly ip: Ip;
      readonly port: number;
    }
  /** On the node's own addresses, see `NodeFacts`. */
  | { readonly kind: 'nodePort'; readonly port: number };

/** Where a connection can end. */
export interface Endpoint {
  readonly ip: Ip;
  readonly port: number;
  /** Runs on this node. */
  readonly local: boolean;
  /** Its part of the new connections: 1 unless an annotation says otherwise; 0 gets none while others have more. */
  readonly weight: number;
}

export type TrafficPolicy = 'Cluster' | 'Local';

/**
 * One port of one Service in one family: the unit that everything is kept by.
 *
 * Which endpoints a connection may reach: at a `clusterIP` those of `internalPolicy`; elsewhere those of
 * `externalPolicy`, except that under "Local" the pods of this cluster and the node itself get `clusterEndpoints`.
 */
export interface ServicePortView {
  /** `namespace/name:portName`; a port without a name leaves nothing after the colon. */
  readonly name: string;
  readonly family: Family;
  readonly protocol: Protocol;
  readonly frontends: readonly Frontend[];
  /** Those that get new connections under the policy "Cluster", sorted. Empty where no policy needs it. */
  readonly clusterEndpoints: readonly Endpoint[];
  /** Those that do under the policy "Local": on this node, sorted. Empty where no policy needs it. */
  readonly localEndpoints: readonly Endpoint[];
  /** For `clusterIP` frontends. */
  readonly internalPolicy: TrafficPolicy;
  /** For all others; "Cluster" where the Service cannot be reached from outside. */
  readonly externalPolicy: TrafficPolicy;
  /** False: connections are refused. True, and the list that counts is empty: they are dropped. */
  readonly hasAnyEndpoints: boolean;
  /** Session affinity: for how many seconds after its last connection a client keeps its endpoint. */
  readonly affinitySeconds?: number | undefined;
  /** Who may connect to `loadBalancerIP` frontends, of this family; undefined: everybody. */
  readonly sourceRanges?: readonly Cidr[] | undefined;
  /** `maglev`: by a consistent hash of the client's address. */
  readonly balancing: 'random' | 'maglev';
  /**
   * Where flows may end, whatever the policies say; those that end elsewhere are stale. UDP: every endpoint that serves.
   * TCP, only where the node wants to know: every one that a slice names, in whatever condition.
   */
  readonly flowEndpoints?: readonly Pick<Endpoint, 'ip' | 'port'>[] | undefined;
  /** Where the Service's load balancer asks about this node, as in `ServiceHealthCheck`: it must get through to us. */
  readonly healthCheckPort?: number | undefined;
}

/** A load balancer asks here whether this node has endpoints of the Service (spec.healthCheckNodePort). */
export interface ServiceHealthCheck {
  readonly port: number;
  /** Ready ones, by address; never those that are going away. */
  readonly localReadyEndpoints: number;
}

export interface ServiceView {
  readonly ports: readonly ServicePortView[];
  readonly healthCheck?: ServiceHealthCheck | undefined;
  /** What in the objects could not be used. */
  readonly problems: readonly Problem[];
}

/** What of the node itself the views depend on: when it changes, every view does. */
export interface ViewNode {
  /** As in the endpoints' `nodeName`. */
  readonly nodeName: string;
  /** The node's `topology.kubernetes.io/zone`. */
  readonly zone?: string | undefined;
  /** One of each family at most. */
  readonly nodeIps: readonly Ip[];
  /** Only Services that carry this name in `service.kubernetes.io/service-proxy-name` are ours; else those without. */
  readonly serviceProxyName?: string | undefined;
  /** Default true. */
  readonly allowExternalIps?: boolean | undefined;
  /** TCP flows to endpoints that no slice names any more are stale as well. */
  readonly resetTcp?: boolean | undefined;
}
