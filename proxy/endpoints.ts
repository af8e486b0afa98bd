import type { Family } from '../core/address.ts';
import { familyOf } from '../core/address.ts';
import type { Problem } from '../core/errors.ts';
import type { V1Endpoint, V1EndpointPort, V1EndpointSlice } from '../kube/types.ts';
import { type Protocol, parseProtocol } from './protocol.ts';
import { parseIpSloppy } from './sloppy.ts';
import type { Endpoint } from './view.ts';

/** An endpoint as its slice describes it, with what the choice among endpoints goes by. */
export interface EndpointState extends Endpoint {
  readonly ready: boolean;
  readonly serving: boolean;
  readonly terminating: boolean;
}

/** All endpoints of one service, by {@link endpointPortKey}, each list sorted and free of duplicates. */
export type EndpointsByPort = ReadonlyMap<string, readonly EndpointState[]>;

export function endpointPortKey(family: Family, protocol: Protocol, portName: string): string {
  return `${family} ${protocol} ${portName}`;
}

/** The identity of an endpoint within one list. */
export function endpointKey({ ip, port }: Pick<Endpoint, 'ip' | 'port'>): string {
  return `${ip} ${port}`;
}

/** Reads the slices of one service. What cannot be used is left out and reported. */
export function endpointsOf(
  slices: readonly V1EndpointSlice[],
  nodeName: string,
  problems: Problem[] = [],
): EndpointsByPort {
  const lists = new Map<string, Map<string, EndpointState>>();
  for (const slice of slices) {
    const family = addressFamily(slice.addressType);
    if (family === undefined) continue;
    const states = (slice.endpoints ?? []).flatMap((endpoint, index) => {
      const path = `endpointslice ${slice.metadata?.name ?? ''}: endpoints[${index}]`;
      return endpointState(endpoint, { family, nodeName, path, problems }) ?? [];
    });
    for (const port of slice.ports ?? []) addPort(lists, family, port, states);
  }
  return new Map(Array.from(lists, ([key, list]) => [key, [...list.values()].sort(byAddress)]));
}

function addressFamily(addressType: string): Family | undefined {
  if (addressType === 'IPv4') return 4;
  return addressType === 'IPv6' ? 6 : undefined;
}

interface EndpointContext {
  readonly family: Family;
  readonly nodeName: string;
  readonly path: string;
  readonly problems: Problem[];
}

type Host = Omit<EndpointState, 'port'>;

/** Only the first address counts: the others mean the same endpoint. */
function endpointState(endpoint: V1Endpoint, context: EndpointContext): Host | undefined {
  const text = endpoint.addresses?.[0];
  const ip = text === undefined ? undefined : parseIpSloppy(text);
  if (ip === undefined || familyOf(ip) !== context.family) {
    const message = text === undefined ? 'is empty' : `is no IPv${context.family} address: "${text}"`;
    context.problems.push({ path: `${context.path}.addresses`, message });
    return undefined;
  }
  const { ready, serving, terminating } = endpoint.conditions ?? {};
  return {
    ip,
    local: context.nodeName !== '' && endpoint.nodeName === context.nodeName,
    weight: 1,
    ready: ready ?? true,
    serving: serving ?? true,
    terminating: terminating ?? false,
  };
}

/** A port without a name field or without a number says nothing: "all ports" is not a thing here, as upstream. */
function addPort(
  lists: Map<string, Map<string, EndpointState>>,
  family: Family,
  { name, port, protocol }: V1EndpointPort,
  hosts: readonly Host[],
): void {
  const known = parseProtocol(protocol);
  if (name === undefined || name === null || !port || known === undefined) return;
  const key = endpointPortKey(family, known, name);
  const list = lists.get(key) ?? new Map<string, EndpointState>();
  lists.set(key, list);
  for (const host of hosts) {
    const state = { ...host, port };
    const there = list.get(endpointKey(state));
    if (there === undefined || outranks(state, there)) list.set(endpointKey(state), state);
  }
}

/** The same address twice: the one that is not going away wins, then the ready one; then the one seen first. */
function outranks(a: EndpointState, b: EndpointState): boolean {
  if (a.terminating !== b.terminating) return b.terminating;
  return a.ready && !b.ready;
}

function byAddress(a: Endpoint, b: Endpoint): number {
  if (a.ip !== b.ip) return a.ip < b.ip ? -1 : 1;
  return a.port - b.port;
}

/**
 * The endpoints that get new connections under the policy "Cluster": the ready ones; when there are none, those that
 * are going away but still serve. (kube-proxy's topology.go, CategorizeEndpoints.)
 */
export function chooseEndpoints(all: readonly EndpointState[]): readonly EndpointState[] {
  const ready = all.filter((endpoint) => endpoint.ready);
  return ready.length > 0 ? ready : all.filter(servesWhileTerminating);
}

/** Whether any endpoint anywhere could serve: without one a connection is refused, whatever the policies say. */
export function hasUsableEndpoint(all: readonly EndpointState[]): boolean {
  return all.some((endpoint) => endpoint.ready || servesWhileTerminating(endpoint));
}

function servesWhileTerminating(endpoint: EndpointState): boolean {
  return endpoint.serving && endpoint.terminating;
}
