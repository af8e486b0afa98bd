import type { Family } from '../core/address.ts';
import { familyOf } from '../core/address.ts';
import type { Problem } from '../core/errors.ts';
import type { V1Endpoint, V1EndpointPort, V1EndpointSlice } from '../kube/types.ts';
import { flagOf, objectsOf, portOf, quoted, type Report, reportTo } from './object-fields.ts';
import { notAProtocol, type Protocol, parseProtocol } from './protocol.ts';
import { parseIpSloppy } from './sloppy.ts';
import type { Endpoint } from './view.ts';

/** An endpoint as its slice describes it, with what the choice among endpoints goes by. */
export interface EndpointState extends Endpoint {
  readonly ready: boolean;
  readonly serving: boolean;
  readonly terminating: boolean;
  /** Who it is meant for. Undefined: it has no hints at all. */
  readonly hints: EndpointHints | undefined;
}

/** Names of the zones and of the nodes whose clients should use an endpoint; empty: it does not say. */
export interface EndpointHints {
  readonly zones: readonly string[];
  readonly nodes: readonly string[];
}

/** All endpoints of one service, by {@link endpointPortKey}, each list sorted and free of duplicates. */
export type EndpointsByPort = ReadonlyMap<string, readonly EndpointState[]>;

export function endpointPortKey(family: Family, protocol: Protocol, portName: string): string {
  return `${family} ${protocol} ${portName}`;
}

export interface EndpointContext {
  readonly nodeName: string;
  /** The weight of an address. */
  readonly weightOf: (ip: Endpoint['ip']) => number;
  readonly problems: Problem[];
}

/** Reads the slices of one service. What cannot be used is left out and reported. */
export function endpointsOf(slices: readonly V1EndpointSlice[], context: EndpointContext): EndpointsByPort {
  const lists: Lists = new Map();
  for (const slice of slices) addSlice(lists, slice, context);
  for (const [key, list] of lists) lists.set(key, withoutDuplicates(list.sort(byAddress)));
  return lists;
}

type Lists = Map<string, EndpointState[]>;

function addSlice(lists: Lists, slice: V1EndpointSlice, context: EndpointContext): void {
  const report = reportTo(context.problems, `endpointslice ${slice.metadata?.name ?? ''}`);
  const family = addressFamily(slice.addressType);
  if (family === undefined) {
    const isNamed = (slice.addressType as string) === 'FQDN';
    if (!isNamed) report('addressType', `is none of IPv4, IPv6, FQDN: ${quoted(slice.addressType)}`);
    return;
  }
  const place = { ...context, family, report };
  const hosts: Host[] = [];
  const endpoints = objectsOf(slice.endpoints, 'endpoints', report);
  for (let index = 0; index < endpoints.length; index += 1) {
    const endpoint = endpoints[index];
    const host = endpoint && hostOf(endpoint, index, place);
    if (host !== undefined) hosts.push(host);
  }
  for (const [index, port] of objectsOf(slice.ports, 'ports', report).entries()) {
    const key = port && portKeyOf(port, index, place);
    if (key !== undefined) addPort(lists, key, hosts);
  }
}

/** Undefined: none that services have. */
export function addressFamily(addressType: string): Family | undefined {
  if (addressType === 'IPv4') return 4;
  return addressType === 'IPv6' ? 6 : undefined;
}

interface Place extends EndpointContext {
  readonly family: Family;
  readonly report: Report;
}

type Host = Omit<EndpointState, 'port'>;

/** Only the first address counts: the others mean the same endpoint. */
function hostOf(endpoint: V1Endpoint, index: number, place: Place): Host | undefined {
  const { family, nodeName, weightOf } = place;
  const given: unknown = endpoint.addresses;
  const text: unknown = Array.isArray(given) ? given[0] : undefined;
  const ip = typeof text === 'string' ? parseIpSloppy(text) : undefined;
  if (ip === undefined || familyOf(ip) !== family) {
    const isEmpty = Array.isArray(given) && given.length === 0;
    const message = isEmpty ? 'is empty' : `is no IPv${family} address: ${quoted(text ?? given)}`;
    place.report(`endpoints[${index}].addresses`, message);
    return undefined;
  }
  const local = nodeName !== '' && endpoint.nodeName === nodeName;
  const { ready, serving, terminating, hints } = conditionsOf(endpoint, index, place);
  return { ip, local, weight: weightOf(ip), ready, serving, terminating, hints };
}

type Conditions = Pick<EndpointState, 'ready' | 'serving' | 'terminating' | 'hints'>;

const usual: Conditions = { ready: true, serving: true, terminating: false, hints: undefined };

function conditionsOf({ conditions, hints }: V1Endpoint, index: number, { report }: Place): Conditions {
  const { ready, serving, terminating } = conditions ?? {};
  if (ready === true && serving === true && terminating === false && !hints) return usual;
  const path = `endpoints[${index}]`;
  return {
    ready: flagOf(ready, true, `${path}.conditions.ready`, report),
    serving: flagOf(serving, true, `${path}.conditions.serving`, report),
    terminating: flagOf(terminating, false, `${path}.conditions.terminating`, report),
    hints: hints ? hintsOf(hints, `${path}.hints`, report) : undefined,
  };
}

function hintsOf(hints: NonNullable<V1Endpoint['hints']>, path: string, report: Report): EndpointHints {
  const names = (list: { name: string }[] | undefined, field: string) =>
    objectsOf(list, `${path}.${field}`, report).flatMap((item) => item?.name ?? []);
  return { zones: names(hints.forZones, 'forZones'), nodes: names(hints.forNodes, 'forNodes') };
}

interface PortKey {
  readonly key: string;
  readonly port: number;
}

/** A port without a name field or without a number says nothing: "all ports" is not a thing here, as upstream. */
function portKeyOf(
  { name, port, protocol }: V1EndpointPort,
  index: number,
  place: Place,
): PortKey | undefined {
  const { family, report } = place;
  const number = portOf(port, `ports[${index}].port`, report);
  const known = parseProtocol(protocol);
  if (known === undefined) report(`ports[${index}].protocol`, notAProtocol(protocol));
  if (typeof name !== 'string' && name !== undefined && name !== null)
    report(`ports[${index}].name`, `is no text: ${quoted(name)}`);
  if (typeof name !== 'string' || number === undefined || known === undefined) return undefined;
  return { key: endpointPortKey(family, known, name), port: number };
}

function addPort(lists: Lists, { key, port }: PortKey, hosts: readonly Host[]): void {
  const list = lists.get(key) ?? [];
  lists.set(key, list);
  for (const { ip, local, weight, ready, serving, terminating, hints } of hosts)
    list.push({ ip, port, local, weight, ready, serving, terminating, hints });
}

/** Of a sorted list. The one that is not going away wins, then the ready one; then the one seen first. */
function withoutDuplicates(sorted: EndpointState[]): EndpointState[] {
  const isRepeated = (endpoint: EndpointState, index: number) => isSame(endpoint, sorted[index - 1]);
  if (!sorted.some(isRepeated)) return sorted;
  const left: EndpointState[] = [];
  for (const endpoint of sorted) {
    const last = left.at(-1);
    if (!isSame(endpoint, last)) left.push(endpoint);
    else if (outranks(endpoint, last)) left[left.length - 1] = endpoint;
  }
  return left;
}

function isSame<Last extends Endpoint | undefined>(
  endpoint: Endpoint,
  last: Last,
): last is NonNullable<Last> {
  return last !== undefined && endpoint.port === last.port && endpoint.ip === last.ip;
}

function outranks(a: EndpointState, b: EndpointState): boolean {
  if (a.terminating !== b.terminating) return b.terminating;
  return a.ready && !b.ready;
}

function byAddress(a: Endpoint, b: Endpoint): number {
  if (a.ip !== b.ip) return a.ip < b.ip ? -1 : 1;
  return a.port - b.port;
}
