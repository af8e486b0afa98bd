import { type Cidr, type Family, familyOf, type Ip } from '../core/address.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import { KernelError } from './errors.ts';
import { LinkIndex, type OnLinks } from './linkindex.ts';
import { type NetlinkMessage, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE } from './netlink/message.ts';
import {
  decodeRoute,
  encodeRoute,
  encodeRouteDump,
  type Route,
  type RouteEncapsulation,
  RT_SCOPE_LINK,
  RT_SCOPE_NOWHERE,
  RT_SCOPE_UNIVERSE,
  RT_TABLE_MAIN,
  RTM_F_CLONED,
  RTN_BLACKHOLE,
  RTN_UNICAST,
  RTN_UNSPEC,
  RTNH_F_ONLINK,
} from './netlink/route/route.ts';
import {
  FAIRLEAD_PROTOCOL,
  RTM_DELROUTE,
  RTM_GETROUTE,
  RTM_NEWROUTE,
  RTPROT_BOOT,
} from './netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from './netlink/socket.ts';
import { writeRows } from './write.ts';

export { FAIRLEAD_PROTOCOL } from './netlink/route/rtnetlink.ts';

/** One way to one network. */
export interface RouteRow {
  readonly destination: Cidr;
  readonly gateway?: Ip | undefined;
  /** Empty for a blackhole. */
  readonly device: string;
  /** Packets that no other route to the destination takes end here; it stands behind all others. */
  readonly blackhole?: boolean | undefined;
  /** The gateway is on the link although no address of the link says so. */
  readonly onlink?: boolean | undefined;
  /** Ends of an outer IPv6 header, where the device is an ip6tnl. */
  readonly encapsulation?: RouteEncapsulation | undefined;
  /** Source address of packets that begin here; an address of this node. */
  readonly source?: Ip | undefined;
  /** IPv4 only; by default universe with a gateway and link without. */
  readonly scope?: 'universe' | 'link' | undefined;
  /** By default the main table, 254. */
  readonly table?: number | undefined;
}

/** Of blackholes: the kernel prefers lower ones, and its own routes have none, or 256 (IPv6). */
const BLACKHOLE_PRIORITY = 65_535;

export function routeKey(row: Pick<RouteRow, 'destination' | 'table'>): string {
  return `${row.table ?? RT_TABLE_MAIN} ${row.destination}`;
}

/**
 * Which routes of nobody in particular (protocol boot) become ours, where they stand in the place of one of ours:
 * `same`, those through the same gateway; `flannel`, all on the same link, as flanneld has them.
 */
export type Adoption = 'same' | 'flannel';

/** The routes with our protocol number. A route of somebody else to the same network is left in its place. */
export class RouteTable implements Table<string, RouteRow> {
  readonly name = 'route';
  readonly #socket: NetlinkSocket;
  readonly #links: LinkIndex | undefined;
  readonly #adopts: Adoption | undefined;

  constructor({ socket, links, adopts }: OnLinks & { readonly adopts?: Adoption | undefined }) {
    this.#socket = socket;
    this.#links = links;
    this.#adopts = adopts;
  }

  same(wanted: RouteRow, actual: RouteRow): boolean {
    return (
      wanted.gateway === actual.gateway &&
      wanted.device === actual.device &&
      (wanted.blackhole ?? false) === (actual.blackhole ?? false) &&
      (wanted.onlink ?? false) === (actual.onlink ?? false) &&
      wanted.source === actual.source &&
      wanted.encapsulation?.destination === actual.encapsulation?.destination &&
      wanted.encapsulation?.source === actual.encapsulation?.source &&
      scopeOf(wanted) === scopeOf(actual)
    );
  }

  async read(): Promise<Map<string, RouteRow>> {
    const links = this.#links ?? (await LinkIndex.read(this.#socket));
    const rows = new Map<string, RouteRow>();
    for (const family of [4, 6] as const) {
      const payload = encodeRouteDump(family, { protocol: FAIRLEAD_PROTOCOL });
      const operation = `RTM_GETROUTE IPv${family}`;
      const messages = await this.#socket.dump({ type: RTM_GETROUTE, flags: 0, payload, operation });
      for (const message of messages) {
        const route = decodeRoute(message.payload);
        // A kernel without strict checks does not filter.
        if (!isOurs(route)) continue;
        const row = rowFrom(route, links);
        // The first of one destination has the lowest metric.
        if (!rows.has(routeKey(row))) rows.set(routeKey(row), row);
      }
    }
    return rows;
  }

  async write(changes: readonly Change<string, RouteRow>[]): Promise<Failure<string>[]> {
    const devices = changes.flatMap((change) =>
      change.kind === 'delete' || change.wanted.blackhole ? [] : [change.wanted.device],
    );
    const links = await LinkIndex.lookUp(this.#socket, devices);
    const failures = await writeRows(this, this.#socket, changes, (change) => encodeChange(change, links));
    const inTheWay = failures.filter(
      ({ kind, error }) => kind === 'create' && (error as KernelError).code === 'EEXIST',
    );
    if (this.#adopts === undefined || inTheWay.length === 0) return failures;
    const keys = new Set(inTheWay.map(({ key }) => key));
    const adopted = await this.#adopt(
      changes.flatMap((change) => (change.kind === 'create' && keys.has(change.key) ? change.wanted : [])),
      links,
    );
    return failures.filter(({ key }) => !adopted.has(key));
  }

  /** Puts rows in the place of routes of nobody in particular, without a moment of none. Returns their keys. */
  async #adopt(rows: readonly RouteRow[], links: LinkIndex): Promise<Set<string>> {
    const there = await this.#readUnmarked(new Set(rows.map(({ destination }) => familyOf(destination))));
    const changes = rows.flatMap((wanted): Change<string, RouteRow>[] => {
      const key = routeKey(wanted);
      const [route, ...more] = there.get(key) ?? [];
      const isOne = route !== undefined && more.length === 0 && route.nextHops === undefined;
      if (!isOne || links.at(route.index)?.name !== wanted.device || wanted.gateway === undefined) return [];
      const isSame = route.gateway === wanted.gateway;
      if (!isSame && !(this.#adopts === 'flannel' && route.gateway !== undefined)) return [];
      return [{ kind: 'update', key, wanted, actual: wanted }];
    });
    const failed = await writeRows(this, this.#socket, changes, (change) => encodeChange(change, links));
    const refused = new Set(failed.map(({ key }) => key));
    return new Set(changes.map(({ key }) => key).filter((key) => !refused.has(key)));
  }

  /** Routes of the main table that name no maker, by key. */
  async #readUnmarked(families: ReadonlySet<Family>): Promise<Map<string, Route[]>> {
    const found = new Map<string, Route[]>();
    for (const family of families) {
      const payload = encodeRouteDump(family, { protocol: RTPROT_BOOT });
      const operation = `RTM_GETROUTE IPv${family}`;
      const messages = await this.#socket.dump({ type: RTM_GETROUTE, flags: 0, payload, operation });
      for (const message of messages) {
        const route = decodeRoute(message.payload);
        if (route.protocol !== RTPROT_BOOT || route.table !== RT_TABLE_MAIN) continue;
        if (route.type !== RTN_UNICAST || ((route.flags ?? 0) & RTM_F_CLONED) !== 0) continue;
        found.set(routeKey(route), [...(found.get(routeKey(route)) ?? []), route]);
      }
    }
    return found;
  }
}

function isOurs(route: Route): boolean {
  return (
    route.protocol === FAIRLEAD_PROTOCOL &&
    (route.type === RTN_UNICAST || route.type === RTN_BLACKHOLE) &&
    ((route.flags ?? 0) & RTM_F_CLONED) === 0
  );
}

function scopeOf({ scope, gateway, destination }: RouteRow): 'universe' | 'link' {
  if (familyOf(destination) === 6) return 'universe';
  return scope ?? (gateway === undefined ? 'link' : 'universe');
}

/** A route with several next hops is none that we made: its row has no device and equals no wanted one. */
function rowFrom(route: Route, links: LinkIndex): RouteRow {
  // IPv6 puts them on lo.
  if (route.type === RTN_BLACKHOLE) {
    const { destination, table } = route;
    return { destination, device: '', blackhole: true, table };
  }
  return {
    destination: route.destination,
    gateway: route.gateway,
    device: links.at(route.index)?.name ?? '',
    onlink: ((route.flags ?? 0) & RTNH_F_ONLINK) !== 0,
    encapsulation: route.encapsulation,
    source: route.source,
    scope: route.scope === RT_SCOPE_LINK ? 'link' : 'universe',
    table: route.table,
  };
}

function encodeChange(change: Change<string, RouteRow>, links: LinkIndex): NetlinkMessage | KernelError {
  if (change.kind === 'delete') return deleteMessage(change.actual);
  const row = change.wanted;
  // Replacing leaves no moment without a route; making refuses to replace what somebody else made.
  const flags = NLM_F_CREATE | (change.kind === 'update' ? NLM_F_REPLACE : NLM_F_EXCL);
  const operation = `RTM_NEWROUTE ${row.destination}`;
  if (row.blackhole) return { type: RTM_NEWROUTE, flags, payload: encodeBlackhole(row), operation };
  const link = links.find(row.device, operation);
  if (link instanceof KernelError) return link;
  const payload = encodeRoute({
    destination: row.destination,
    gateway: row.gateway,
    index: link.index,
    flags: row.onlink ? RTNH_F_ONLINK : 0,
    encapsulation: row.encapsulation,
    source: row.source,
    table: row.table ?? RT_TABLE_MAIN,
    protocol: FAIRLEAD_PROTOCOL,
    scope: scopeOf(row) === 'link' ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE,
    type: RTN_UNICAST,
  });
  return { type: RTM_NEWROUTE, flags, payload, operation };
}

function encodeBlackhole({ destination, table = RT_TABLE_MAIN }: RouteRow): Uint8Array {
  return encodeRoute({
    ...{ destination, table, priority: BLACKHOLE_PRIORITY },
    ...{ protocol: FAIRLEAD_PROTOCOL, scope: RT_SCOPE_UNIVERSE, type: RTN_BLACKHOLE },
  });
}

/** The protocol is part of what is matched, so that a route of somebody else is never removed. */
function deleteMessage(row: RouteRow): NetlinkMessage {
  const payload = encodeRoute({
    destination: row.destination,
    table: row.table ?? RT_TABLE_MAIN,
    protocol: FAIRLEAD_PROTOCOL,
    scope: RT_SCOPE_NOWHERE,
    type: RTN_UNSPEC,
  });
  return { type: RTM_DELROUTE, flags: 0, payload, operation: `RTM_DELROUTE ${row.destination}` };
}
