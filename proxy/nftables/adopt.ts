import { type NftElement, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import type { Frontend, ServicePortView } from '../view.ts';
import {
  decodeEndpoint,
  decodeSlot,
  decodeToken,
  decodeValue,
  type FrontendSet,
  type FrontendValue,
  frontendElement,
  kinds,
  type Place,
} from './elements.ts';
import { type KnownPort, noTokens, portKey } from './lists.ts';
import { sourceGroupName } from './source-groups.ts';

/** What of the kernel's elements a plan goes on with. */
export interface KernelState {
  /** By `portKey`. */
  readonly ports: ReadonlyMap<string, KnownPort>;
  /** Numbers of source ranges, by `sourceGroupName`. */
  readonly groups: ReadonlyMap<string, number>;
}

type Rows = ReadonlyMap<string, NftElement>;

/**
 * Finds these service ports in what the kernel holds: a port is known by the id under any of its frontends (of two
 * services at one frontend by the first, whose frontend it is). So a restarted proxy goes on with the ids, slots and
 * tokens of the one before it, which it never met.
 */
export function* knownState(ports: readonly ServicePortView[], actual: Rows): Generator<void, KernelState> {
  const known = new Map<string, KnownPort>();
  const groups = new Map<string, number>();
  if (actual.size === 0) return { ports: known, groups };
  const lists = yield* listsById(actual);
  const taken = { ports: new Set<number>(), groups: new Set<number>() };
  for (const port of ports) {
    yield;
    const id = portIds(port, actual).find((each) => !taken.ports.has(each));
    if (id !== undefined && port.clusterEndpoints.length + port.localEndpoints.length > 0) {
      taken.ports.add(id);
      known.set(portKey(port), { id, ...(lists.get(id) ?? noLists) });
    }
    if (port.sourceRanges === undefined) continue;
    const name = sourceGroupName(port.sourceRanges);
    const group = groupNumbers(port, actual).find((each) => !taken.groups.has(each));
    if (group === undefined || groups.has(name)) continue;
    taken.groups.add(group);
    groups.set(name, group);
  }
  return { ports: known, groups };
}

const noLists = { cluster: [], local: [], tokens: noTokens };
const waysToPort: readonly FrontendSet[] = ['all', 'guarded', 'inside'];

function* portIds(port: ServicePortView, actual: Rows): Generator<number> {
  for (const way of waysToPort) {
    for (const frontend of port.frontends) {
      const value = valueAt(way, frontend, port, actual);
      if (value !== undefined && value.id !== 0 && !isGuarded(value)) yield value.id;
    }
  }
}

function* groupNumbers(port: ServicePortView, actual: Rows): Generator<number> {
  for (const frontend of port.frontends) {
    const value = valueAt('all', frontend, port, actual);
    if (value !== undefined && value.id !== 0 && isGuarded(value)) yield value.id;
  }
}

/** What is in the kernel under a frontend. */
function valueAt(
  set: FrontendSet,
  frontend: Frontend,
  { protocol }: ServicePortView,
  actual: Rows,
): FrontendValue | undefined {
  const row = actual.get(nftElementKey(frontendElement(set, frontend, protocol)));
  return typeof row?.data === 'string' ? decodeValue(row.data) : undefined;
}

function isGuarded({ kind }: FrontendValue): boolean {
  return (kind & 3) === kinds.guarded;
}

interface Lists {
  readonly cluster: (Place | undefined)[];
  readonly local: (Place | undefined)[];
  readonly tokens: Map<string, number>;
}

/** The slots of all ports, with and without affinity, and their tokens. */
function* listsById(rows: Rows): Generator<void, Map<number, Lists>> {
  const lists = new Map<number, Lists>();
  const listsOf = (id: number): Lists => {
    const its = lists.get(id) ?? { cluster: [], local: [], tokens: new Map() };
    lists.set(id, its);
    return its;
  };
  const endpoints = new Map<string, string>();
  for (const { set, key, data } of rows.values()) {
    if ((set !== 'sticky' && set !== 'sticky-local') || typeof data !== 'string') continue;
    const { id, token } = decodeToken(key);
    endpoints.set(`${id} ${token}`, data);
    listsOf(id).tokens.set(data, token);
  }
  for (const { set, key, data } of rows.values()) {
    yield;
    if ((set !== 'endpoints' && set !== 'tokens') || typeof data !== 'string') continue;
    const { id, local, slot } = decodeSlot(key);
    const its = listsOf(id);
    const endpoint = set === 'endpoints' ? data : endpoints.get(`${id} ${decodeToken(data).token}`);
    (local ? its.local : its.cluster)[slot] = endpoint === undefined ? undefined : decodeEndpoint(endpoint);
  }
  return lists;
}
