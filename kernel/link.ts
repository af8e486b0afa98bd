import { constants } from 'node:os';
import type { Ip, Mac } from '../core/address.ts';
import type { Change, Failure, Table } from '../core/rows.ts';
import type { Descriptor } from '../native/index.ts';
import { isMissing, KernelError } from './errors.ts';
import { isOurs, type KnownLink, LINK_ALIAS_PREFIX, LinkIndex, type OnLinks } from './linkindex.ts';
import { createLink, deleteLinks, type LinkPlaces, updateLink } from './linkmessages.ts';
import { IFF_UP } from './netlink/route/link.ts';
import type { NetlinkSocket } from './netlink/socket.ts';
import { createTun } from './tun.ts';
import { failuresOf } from './write.ts';

const kinds = [
  ...(['bridge', 'vxlan', 'veth', 'dummy'] as const),
  /** Layer 3: no MAC address, no neighbours. */
  ...(['ipip', 'ip6tnl', 'wireguard', 'tun'] as const),
];

/** A virtual link of ours. */
export interface LinkRow {
  readonly name: string;
  /** A veth made by this table gets a peer named by the kernel, in the same namespace. */
  readonly kind: (typeof kinds)[number];
  /** Begins with {@link LINK_ALIAS_PREFIX}. */
  readonly alias: string;
  /** Undefined: whatever it is. A bridge without one takes that of its lowest port. */
  readonly mac?: Mac | undefined;
  /** Undefined: whatever it is. */
  readonly mtuBytes?: number | undefined;
  readonly up: boolean;
  /** Name of the bridge whose port it is; undefined: of none. */
  readonly master?: string | undefined;
  readonly vxlan?: VxlanParameters | undefined;
  /** Of kind ipip. An ip6tnl has no ends of its own: each route over it has. */
  readonly ipip?: IpipParameters | undefined;
  /** Only with a master. */
  readonly bridgePort?: { readonly hairpin?: boolean | undefined } | undefined;
}

/** None of these can change without making the link anew. */
export interface VxlanParameters {
  readonly vni: number;
  /** UDP. */
  readonly port: number;
  readonly local: Ip;
  /** Name of the link that carries the outer packets. */
  readonly device: string;
  readonly learning: boolean;
  /** Marks of packets travel in the header (group based policy); by default they do not. */
  readonly gbp?: boolean | undefined;
}

/** IPv4 in IPv4; the other end is each route's next hop. */
export interface IpipParameters {
  readonly local: Ip;
  /** Name of the link that carries the outer packets. */
  readonly device: string;
}

export function linkKey(row: LinkRow): string {
  return row.name;
}

export interface LinkTableOptions extends OnLinks {
  /** The socket's, for kinds that netlink cannot make (tun); by default that of the process. */
  readonly namespaceFd?: Descriptor | undefined;
  /** Links that are ours although somebody took their mark away; they get it again. */
  readonly adopts?: ((link: KnownLink) => boolean) | undefined;
}

/**
 * The links whose alias begins with "fairlead". Wanted rows may name each other (a port its bridge) in any
 * order. Where a vxlan is made anew, what lay on it is gone: the next pass makes that again.
 */
export class LinkTable implements Table<string, LinkRow> {
  readonly name = 'link';
  readonly #socket: NetlinkSocket;
  readonly #links: LinkIndex | undefined;
  readonly #namespaceFd: Descriptor;
  readonly #isOurs: (link: KnownLink) => boolean;

  constructor({ socket, links, namespaceFd = -1, adopts = () => false }: LinkTableOptions) {
    this.#socket = socket;
    this.#links = links;
    this.#namespaceFd = namespaceFd;
    this.#isOurs = (link) => isOurs(link) || adopts(link);
  }

  same(wanted: LinkRow, actual: LinkRow): boolean {
    return (
      !mustBeMadeAnew(wanted, actual) &&
      wanted.alias === actual.alias &&
      wanted.up === actual.up &&
      wanted.master === actual.master &&
      (wanted.mac === undefined || wanted.mac === actual.mac) &&
      (wanted.mtuBytes === undefined || wanted.mtuBytes === actual.mtuBytes) &&
      hairpinOf(wanted) === hairpinOf(actual)
    );
  }

  async read(): Promise<Map<string, LinkRow>> {
    const links = this.#links ?? (await LinkIndex.read(this.#socket));
    const rows = new Map<string, LinkRow>();
    for (const link of links) {
      const row = this.#isOurs(link) ? rowFrom(link, links) : undefined;
      if (row !== undefined) rows.set(linkKey(row), row);
    }
    return rows;
  }

  async write(changes: readonly Change<string, LinkRow>[]): Promise<Failure<string>[]> {
    const errors = new Map<Change<string, LinkRow>, KernelError>();
    for (const change of inOrderOfDependence(changes)) {
      const error = await this.#make(change.wanted, change.kind === 'update' ? change.actual : undefined);
      if (error !== undefined) errors.set(change, error);
    }
    const deletes = changes.filter((change) => change.kind === 'delete');
    const outcomes = await this.#remove(deletes.map(({ actual }) => actual.name));
    deletes.forEach((change, index) => {
      const error = outcomes[index];
      if (error !== undefined) errors.set(change, error);
    });
    return failuresOf(this, errors);
  }

  async #make(wanted: LinkRow, actual: LinkRow | undefined): Promise<KernelError | undefined> {
    const invalid = checkAlias(wanted);
    if (invalid !== undefined) return invalid;
    const places = await this.#find(wanted);
    if (places instanceof KernelError) return places;
    if (actual === undefined) return this.#create(wanted, places);
    if (!mustBeMadeAnew(wanted, actual)) return updateLink(this.#socket, wanted, actual, places);
    const [refused] = await this.#remove([wanted.name]);
    if (refused !== undefined && !isMissing(refused)) return refused;
    return this.#create(wanted, places);
  }

  #create(row: LinkRow, places: LinkPlaces): Promise<KernelError | undefined> {
    return row.kind === 'tun'
      ? createTun(this.#socket, row, this.#namespaceFd)
      : createLink(this.#socket, row, places);
  }

  /** The indexes of the links that a row names. */
  async #find({ name, master, ...row }: LinkRow): Promise<LinkPlaces | KernelError> {
    const below = belowOf(row);
    const named = [name, master, below].filter((link) => link !== undefined);
    const links = await LinkIndex.lookUp(this.#socket, named);
    const operation = `RTM_NEWLINK ${name}`;
    const bridge = master === undefined ? undefined : links.find(master, operation);
    if (bridge instanceof KernelError) return bridge;
    const device = below === undefined ? undefined : links.find(below, operation);
    if (device instanceof KernelError) return device;
    const own = links.named(name);
    return {
      own: own !== undefined && this.#isOurs(own) ? own.index : undefined,
      master: bridge?.index,
      device: device?.index,
    };
  }

  async #remove(names: readonly string[]): Promise<(KernelError | undefined)[]> {
    const links = await LinkIndex.lookUp(this.#socket, names);
    const found = names.map((name) => links.named(name));
    // A link that took the name meanwhile and is not ours: ours is gone.
    const ours = found.filter((link) => link !== undefined && this.#isOurs(link)) as KnownLink[];
    const outcomes = await deleteLinks(this.#socket, ours);
    return found.map((link) => (link === undefined ? undefined : outcomes.get(link.name)));
  }
}

function checkAlias({ name, alias }: LinkRow): KernelError | undefined {
  if (alias.startsWith(LINK_ALIAS_PREFIX)) return undefined;
  return new KernelError(`RTM_NEWLINK ${name}`, constants.errno.EINVAL, {
    detail: `alias "${alias}" does not begin with "${LINK_ALIAS_PREFIX}"`,
  });
}

/** The link that carries what this one sends. */
function belowOf({ vxlan, ipip }: Pick<LinkRow, 'vxlan' | 'ipip'>): string | undefined {
  return vxlan?.device ?? ipip?.device;
}

/** Bridges before their ports, and links before the vxlans on them. */
function inOrderOfDependence<C extends Change<string, LinkRow>>(
  changes: readonly C[],
): Exclude<C, { kind: 'delete' }>[] {
  const made = changes.filter((change): change is Exclude<C, { kind: 'delete' }> => change.kind !== 'delete');
  const rows = new Map(made.map(({ wanted }) => [wanted.name, wanted]));
  const depthOf = (name: string | undefined, limit: number): number => {
    const row = name === undefined ? undefined : rows.get(name);
    if (row === undefined || limit === 0) return 0;
    return 1 + Math.max(depthOf(row.master, limit - 1), depthOf(belowOf(row), limit - 1));
  };
  const depths = new Map(made.map(({ wanted }) => [wanted.name, depthOf(wanted.name, 4)]));
  return made.toSorted((a, b) => (depths.get(a.wanted.name) ?? 0) - (depths.get(b.wanted.name) ?? 0));
}

function mustBeMadeAnew(wanted: LinkRow, actual: LinkRow): boolean {
  return (
    wanted.kind !== actual.kind ||
    !sameVxlan(wanted.vxlan, actual.vxlan) ||
    wanted.ipip?.local !== actual.ipip?.local ||
    wanted.ipip?.device !== actual.ipip?.device
  );
}

function sameVxlan(a: VxlanParameters | undefined, b: VxlanParameters | undefined): boolean {
  return (
    a?.vni === b?.vni &&
    a?.port === b?.port &&
    a?.local === b?.local &&
    a?.device === b?.device &&
    a?.learning === b?.learning &&
    (a?.gbp ?? false) === (b?.gbp ?? false)
  );
}

function hairpinOf({ master, bridgePort }: LinkRow): boolean {
  return master !== undefined && (bridgePort?.hairpin ?? false);
}

function rowFrom(link: KnownLink, links: LinkIndex): LinkRow | undefined {
  const kind = kinds.find((known) => known === link.kind);
  if (kind === undefined) return undefined;
  const hairpin = link.bridgePort?.hairpin;
  return {
    name: link.name,
    kind,
    alias: link.alias ?? '',
    mac: link.mac,
    mtuBytes: link.mtuBytes,
    up: ((link.flags ?? 0) & IFF_UP) !== 0,
    master: links.at(link.masterIndex)?.name,
    vxlan: vxlanFrom(link, links),
    ipip: ipipFrom(link, links),
    bridgePort: hairpin === undefined ? undefined : { hairpin },
  };
}

/** What the kernel leaves out (no source address, no device) equals nothing that we make. */
function vxlanFrom({ vxlan }: KnownLink, links: LinkIndex): VxlanParameters | undefined {
  if (vxlan === undefined) return undefined;
  return {
    vni: vxlan.vni ?? 0,
    port: vxlan.port ?? 0,
    local: vxlan.local ?? ('' as Ip),
    device: links.at(vxlan.deviceIndex)?.name ?? '',
    learning: vxlan.learning ?? false,
    gbp: vxlan.gbp ?? false,
  };
}

function ipipFrom({ ipip }: KnownLink, links: LinkIndex): IpipParameters | undefined {
  if (ipip === undefined || ipip.external) return undefined;
  const hasRemote = ipip.remote !== undefined && /[^0.:]/.test(ipip.remote);
  return {
    local: hasRemote ? ('' as Ip) : (ipip.local ?? ('' as Ip)),
    device: links.at(ipip.deviceIndex)?.name ?? '',
  };
}
