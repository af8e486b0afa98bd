import type { Endpoint, Frontend, ServicePortView } from './view.ts';

/** Whether two views mean the same for every backend. Called for each change, so written for speed. */
export function samePorts(a: readonly ServicePortView[], b: readonly ServicePortView[]): boolean {
  return sameList(a, b, samePort);
}

function samePort(a: ServicePortView, b: ServicePortView): boolean {
  return sameService(a, b) && a.hasAnyEndpoints === b.hasAnyEndpoints && sameEndpoints(a, b);
}

/** Whether two ports are the same but for their endpoints. */
export function sameService(a: ServicePortView, b: ServicePortView): boolean {
  return (
    a.name === b.name &&
    a.family === b.family &&
    a.protocol === b.protocol &&
    a.internalPolicy === b.internalPolicy &&
    a.externalPolicy === b.externalPolicy &&
    a.affinitySeconds === b.affinitySeconds &&
    a.balancing === b.balancing &&
    a.healthCheckPort === b.healthCheckPort &&
    sameList(a.frontends, b.frontends, sameFrontend) &&
    sameList(a.sourceRanges, b.sourceRanges, Object.is)
  );
}

function sameEndpoints(a: ServicePortView, b: ServicePortView): boolean {
  return (
    sameList(a.clusterEndpoints, b.clusterEndpoints, sameEndpoint) &&
    sameList(a.localEndpoints, b.localEndpoints, sameEndpoint) &&
    sameList(a.flowEndpoints, b.flowEndpoints, samePlace)
  );
}

function sameFrontend(a: Frontend, b: Frontend): boolean {
  if (a.kind !== b.kind || a.port !== b.port) return false;
  return a.kind === 'nodePort' || b.kind === 'nodePort' || a.ip === b.ip;
}

function sameEndpoint(a: Endpoint, b: Endpoint): boolean {
  return samePlace(a, b) && a.local === b.local && a.weight === b.weight;
}

export function samePlace(a: Pick<Endpoint, 'ip' | 'port'>, b: Pick<Endpoint, 'ip' | 'port'>): boolean {
  return a.ip === b.ip && a.port === b.port;
}

function sameList<T>(
  a: readonly T[] | undefined,
  b: readonly T[] | undefined,
  same: (a: T, b: T) => boolean,
): boolean {
  if (a === b) return true;
  if (a === undefined || b === undefined || a.length !== b.length) return false;
  return a.every((item, index) => same(item, b[index] as T));
}
