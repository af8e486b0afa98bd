import { type Family, families, familyOf, type Ip } from '../../core/address.ts';
import type { Change } from '../../core/rows.ts';
import {
  type DestinationRow,
  destinationKey,
  type ServerAddress,
  serverKey,
  type VirtualServerRow,
} from '../../kernel/ipvs.ts';
import { type NftElement, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import type { Views } from '../backend.ts';
import type { NodeFacts } from '../policy.ts';
import type { ServicePortView } from '../view.ts';
import { addPort, noRows, type PortContext, type Rows, refusedElement } from './port-rows.ts';
import { schedulingProblem } from './schedulers.ts';
import { WantedRows } from './wanted-rows.ts';

export interface PlanOptions {
  /** Default: both. */
  readonly families?: readonly Family[] | undefined;
  readonly scheduler: string;
  /** For how long at most a TCP destination that is no longer wanted keeps its connections. */
  readonly drainMs: number;
  /** Milliseconds of any clock that goes on steadily. */
  readonly now: () => number;
}

/** Changes to the rows of all tables. */
export interface PlanChanges {
  readonly addresses: readonly Change<string, Ip>[];
  readonly servers: readonly Change<string, VirtualServerRow>[];
  readonly destinations: readonly Change<string, DestinationRow>[];
  readonly elements: Readonly<Record<Family, readonly Change<string, NftElement>[]>>;
}

interface Entry {
  readonly ports: readonly ServicePortView[];
  readonly rows: Rows;
}

/** A destination without new connections, until those it has are over. */
export interface Draining {
  readonly destination: DestinationRow;
  readonly untilMs: number;
}

/** Sorts behind all services and before what drains. */
const NODE = '}node';
const nothing: Entry = { ports: [], rows: noRows() };

/**
 * The wanted rows of both families, without any I/O: kept current service by service. A TCP destination that goes
 * takes its server and its address with it only when it has been drained.
 */
export class IpvsPlan {
  readonly addresses = new WantedRows<Ip>((a, b) => a === b);
  readonly servers = new WantedRows<VirtualServerRow>(
    (a, b) =>
      a.scheduler === b.scheduler &&
      a.schedulerFlags === b.schedulerFlags &&
      a.persistenceSeconds === b.persistenceSeconds,
  );
  readonly destinations = new WantedRows<DestinationRow>((a, b) => a.weight === b.weight);
  readonly elements = { 4: newElements(), 6: newElements() } as const;
  /** What cannot be done as wanted, by service. */
  readonly problems = new Map<string, string>();
  readonly #options: PlanOptions;
  readonly #families: readonly Family[];
  readonly #services = new Map<string, Entry>();
  readonly #draining = new Map<string, Draining & { readonly rows: Rows }>();
  #nodeRows = noRows();
  #context: PortContext;

  constructor(options: PlanOptions) {
    this.#options = options;
    this.#families = options.families ?? families;
    const { scheduler } = options;
    this.#context = {
      scheduler,
      schedulers: new Set([scheduler]),
      nodePortIps: { 4: [], 6: [] },
      foreignIps: new Set(),
    };
  }

  /** These are all services. */
  follow(views: Views): void {
    for (const service of this.#services.keys()) if (!views.has(service)) this.put(service, []);
    for (const [service, ports] of views) this.put(service, ports);
  }

  /** This service is now these ports; without ports it is gone. */
  put(service: string, ports: readonly ServicePortView[]): void {
    const before = this.#services.get(service) ?? nothing;
    const rows = noRows();
    this.problems.delete(service);
    for (const port of ports) {
      if (!this.#families.includes(port.family)) continue;
      addPort(rows, port, this.#context);
      const problem = schedulingProblem(port, this.#context);
      if (problem !== undefined) this.problems.set(service, problem);
    }
    this.#replace(service, before.rows, rows);
    if (ports.length === 0) this.#services.delete(service);
    else this.#services.set(service, { ports, rows });
    for (const [key, row] of before.rows.destinations)
      if (!rows.destinations.has(key)) this.#drainFrom(row, before.rows);
    for (const key of rows.destinations.keys()) this.endDrain(key);
  }

  /** Addresses of the node, and the elements that come from it. */
  setNode(
    node: Pick<PortContext, 'nodePortIps' | 'foreignIps' | 'schedulers'>,
    elements: Readonly<Record<Family, readonly NftElement[]>>,
  ): void {
    const before = this.#context;
    this.#context = { ...before, ...node };
    const rows = noRows();
    for (const family of families)
      for (const element of elements[family]) rows.elements[family].set(nftElementKey(element), element);
    this.#replace(NODE, this.#nodeRows, rows);
    this.#nodeRows = rows;
    const moved = before.foreignIps.symmetricDifference(node.foreignIps);
    const isOpenElsewhere = families.some(
      (family) => before.nodePortIps[family].join() !== node.nodePortIps[family].join(),
    );
    for (const [service, { ports }] of this.#services) {
      const isTouched = ports.some(({ frontends }) =>
        frontends.some((each) => (each.kind === 'nodePort' ? isOpenElsewhere : moved.has(each.ip))),
      );
      if (isTouched) this.put(service, ports);
    }
  }

  /** Whether rows depend on it that these, and no longer those told last, are the addresses on other devices. */
  isMovedBy(foreignIps: ReadonlySet<Ip>, { nodePortIps }: NodeFacts): boolean {
    for (const ip of this.#context.foreignIps.symmetricDifference(foreignIps)) {
      const family = familyOf(ip);
      if (nodePortIps[family] === 'all' && isForNodePorts(ip)) return true;
      if (this.#isFrontend(ip)) return true;
    }
    return false;
  }

  #isFrontend(ip: Ip): boolean {
    if (this.addresses.has(ip)) return true;
    return [...this.servers.values()].some((server) => server.ip === ip);
  }

  #replace(owner: string, before: Rows, after: Rows): void {
    this.addresses.replace(owner, before.addresses, after.addresses);
    this.servers.replace(owner, before.servers, after.servers);
    this.destinations.replace(owner, before.destinations, after.destinations);
    for (const family of families)
      this.elements[family].replace(owner, before.elements[family], after.elements[family]);
  }

  #drainFrom(row: DestinationRow, before: Rows): void {
    const server = before.servers.get(serverKey(row.server));
    const held = before.addresses.has(row.server.ip);
    if (server !== undefined && row.server.protocol === 'tcp') this.drainDestination(row, server, held);
  }

  /**
   * No new connections to this one, which nobody wants any more; those it has go on. The server stays as long, and
   * with `held` its address on our device.
   */
  drainDestination(row: DestinationRow, server: VirtualServerRow, held: boolean): void {
    const key = destinationKey(row);
    if (this.#draining.has(key) || this.destinations.has(key)) return;
    const rows = noRows();
    const destination = { ...row, weight: 0 };
    rows.destinations.set(key, destination);
    rows.servers.set(serverKey(server), server);
    // Where others serve on, connections to node ports are theirs.
    if (held || !this.servers.has(serverKey(server))) {
      const refused = refusedElement(server, held);
      rows.elements[familyOf(server.ip)].set(nftElementKey(refused), refused);
    }
    if (held && !this.#context.foreignIps.has(server.ip)) rows.addresses.set(server.ip, server.ip);
    this.#draining.set(key, { destination, untilMs: this.#options.now() + this.#options.drainMs, rows });
    this.#replace(drainOwner(key), noRows(), rows);
  }

  get draining(): ReadonlyMap<string, Draining> {
    return this.#draining;
  }

  /** It may go, or is wanted again. */
  endDrain(key: string): void {
    const draining = this.#draining.get(key);
    if (draining === undefined) return;
    this.#draining.delete(key);
    this.#replace(drainOwner(key), draining.rows, noRows());
  }

  /** Servers that have something to drain. */
  drainingServers(): ServerAddress[] {
    const servers = new Map<string, ServerAddress>();
    for (const { destination } of this.#draining.values())
      servers.set(serverKey(destination.server), destination.server);
    return [...servers.values()];
  }

  /** The changes since the last call. */
  drain(): PlanChanges {
    return {
      addresses: this.addresses.drain(),
      servers: this.servers.drain(),
      destinations: this.destinations.drain(),
      elements: { 4: this.elements[4].drain(), 6: this.elements[6].drain() },
    };
  }
}

function newElements(): WantedRows<NftElement> {
  // They are what their keys say.
  return new WantedRows(() => true);
}

/** Not on loopback; and an address that counts on one link only cannot be a server's. */
export function isForNodePorts(ip: Ip): boolean {
  return !ip.startsWith('127.') && (ip as string) !== '::1' && !/^fe[89ab]/.test(ip);
}

function drainOwner(key: string): string {
  return `~${key}`;
}
