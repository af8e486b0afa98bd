import type { EndpointState } from './endpoints.ts';
import type { TrafficPolicy, ViewNode } from './view.ts';

/** Which lists a service port needs, and for whom. */
export interface Selection {
  /** A policy "Cluster" is in force somewhere: inside, or because the service can be reached from outside. */
  readonly needsCluster: boolean;
  /** A policy "Local" is in force somewhere. */
  readonly needsLocal: boolean;
}

export interface SelectedEndpoints {
  readonly clusterEndpoints: readonly EndpointState[];
  readonly localEndpoints: readonly EndpointState[];
  readonly hasAnyEndpoints: boolean;
}

/** Pods and the node itself reach what is open to the outside by the policy "Cluster", whatever it says for others. */
export function selectionOf(
  internalPolicy: TrafficPolicy,
  externalPolicy: TrafficPolicy,
  isExternal: boolean,
): Selection {
  return {
    needsCluster: internalPolicy === 'Cluster' || isExternal,
    needsLocal: internalPolicy === 'Local' || (isExternal && externalPolicy === 'Local'),
  };
}

/**
 * The endpoints that get new connections, of all of a port. Each list falls back by itself to those that are going
 * away but still serve; hints count among the ready ones only, and never for the local list.
 * (kube-proxy's topology.go, CategorizeEndpoints.)
 */
export function selectEndpoints(
  all: readonly EndpointState[],
  { needsCluster, needsLocal }: Selection,
  node: Pick<ViewNode, 'nodeName' | 'zone'>,
): SelectedEndpoints {
  return {
    clusterEndpoints: needsCluster ? evenWeights(clusterEndpoints(all, node)) : none,
    localEndpoints: needsLocal ? evenWeights(usable(all.filter(({ local }) => local))) : none,
    hasAnyEndpoints: all.some((endpoint) => endpoint.ready || servesWhileTerminating(endpoint)),
  };
}

const none: readonly EndpointState[] = [];

function clusterEndpoints(
  all: readonly EndpointState[],
  node: Pick<ViewNode, 'nodeName' | 'zone'>,
): readonly EndpointState[] {
  const isMeant = hinted(all, node);
  if (isMeant === undefined) return usable(all);
  return all.filter((endpoint) => endpoint.ready && isMeant(endpoint));
}

/** Those that are ready; when there are none, those that are going away but still serve. */
function usable(all: readonly EndpointState[]): readonly EndpointState[] {
  if (all.every(isReady)) return all;
  const ready = all.filter(isReady);
  return ready.length > 0 ? ready : all.filter(servesWhileTerminating);
}

function isReady({ ready }: EndpointState): boolean {
  return ready;
}

function servesWhileTerminating(endpoint: EndpointState): boolean {
  return endpoint.serving && endpoint.terminating;
}

/**
 * Which of the ready endpoints are meant for this node: by the node's name, else by its zone. One endpoint that gives
 * no hint of a kind, or none that is meant for us, and the hints of that kind do not count.
 */
function hinted(
  all: readonly EndpointState[],
  { nodeName, zone }: Pick<ViewNode, 'nodeName' | 'zone'>,
): ((endpoint: EndpointState) => boolean) | undefined {
  if (all.some(({ ready, hints }) => ready && hints === undefined)) return undefined;
  const ready = all.filter((endpoint) => endpoint.ready);
  const forNode = (endpoint: EndpointState) => endpoint.hints?.nodes.includes(nodeName) === true;
  if (ready.every(({ hints }) => hints?.nodes.length !== 0) && ready.some(forNode)) return forNode;
  const forZone = ({ hints }: EndpointState) => zone !== undefined && hints?.zones.includes(zone) === true;
  if (ready.every(({ hints }) => hints?.zones.length !== 0) && ready.some(forZone)) return forZone;
  return undefined;
}

/** Weight 0 means nothing where nobody has more. */
function evenWeights(endpoints: readonly EndpointState[]): readonly EndpointState[] {
  if (endpoints.length === 0 || endpoints.some(({ weight }) => weight > 0)) return endpoints;
  return endpoints.map((endpoint) => ({ ...endpoint, weight: 1 }));
}
