import { constants } from 'node:os';
import { isMissing, KernelError } from './errors.ts';
import { decodeLink, getLinkMessage, type Link } from './netlink/route/link.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

/** The mark of our links: their alias begins with it. */
export const LINK_ALIAS_PREFIX = 'fairlead';

/** From this many names on, reading all links is cheaper than asking for each. */
const LOOKUPS_MAX = 16;

/** A link as it was read: it has a name and an index. */
export interface KnownLink extends Link {
  readonly index: number;
  readonly name: string;
}

/** What tables of rows on links are made with. */
export interface OnLinks {
  /** Speaks NETLINK_ROUTE. */
  readonly socket: NetlinkSocket;
  /**
   * The links, for reading; by default read each time. Several tables that are read together may share them: reading
   * them waits for a lock that is held for long where network namespaces are being removed.
   */
  readonly links?: LinkIndex | undefined;
}

/** Links by name and by index, as of one moment. */
export class LinkIndex {
  readonly #byName = new Map<string, KnownLink>();
  readonly #byIndex = new Map<number, KnownLink>();

  constructor(links: Iterable<Link>) {
    for (const link of links) {
      if (link.index === undefined || link.name === undefined) continue;
      const known = { ...link, index: link.index, name: link.name };
      this.#byName.set(known.name, known);
      this.#byIndex.set(known.index, known);
    }
  }

  /** All links of the namespace. */
  static async read(socket: NetlinkSocket): Promise<LinkIndex> {
    const messages = await socket.dump(getLinkMessage());
    return new LinkIndex(messages.map(({ payload }) => decodeLink(payload)));
  }

  /** At least the links of these names that are there. */
  static async lookUp(socket: NetlinkSocket, names: Iterable<string>): Promise<LinkIndex> {
    const wanted = new Set(names);
    if (wanted.size > LOOKUPS_MAX) return LinkIndex.read(socket);
    const links = await Promise.all([...wanted].map((name) => lookUpLink(socket, name)));
    return new LinkIndex(links.filter((link) => link !== undefined));
  }

  [Symbol.iterator](): Iterator<KnownLink> {
    return this.#byIndex.values();
  }

  named(name: string): KnownLink | undefined {
    return this.#byName.get(name);
  }

  at(index: number | undefined): KnownLink | undefined {
    return index === undefined ? undefined : this.#byIndex.get(index);
  }

  /** The link of this index, if it is ours. */
  oursAt(index: number): KnownLink | undefined {
    const link = this.#byIndex.get(index);
    return link !== undefined && isOurs(link) ? link : undefined;
  }

  /** The link, or why a row cannot be on it. */
  find(name: string, operation: string): KnownLink | KernelError {
    return (
      this.#byName.get(name) ??
      new KernelError(operation, constants.errno.ENODEV, { detail: `no link "${name}"` })
    );
  }

  /** As {@link find}, for rows that are recognised by the link they are on. */
  findOurs(name: string, operation: string): KnownLink | KernelError {
    const link = this.find(name, operation);
    if (link instanceof KernelError || isOurs(link)) return link;
    return new KernelError(operation, constants.errno.EPERM, {
      detail: `link "${name}" has no alias beginning with "${LINK_ALIAS_PREFIX}"`,
    });
  }
}

export function isOurs(link: Pick<Link, 'alias'>): boolean {
  return link.alias?.startsWith(LINK_ALIAS_PREFIX) ?? false;
}

async function lookUpLink(socket: NetlinkSocket, name: string): Promise<Link | undefined> {
  try {
    const [answer] = await socket.request(getLinkMessage({ name }));
    return answer === undefined ? undefined : decodeLink(answer.payload);
  } catch (error) {
    // ERANGE: longer than any name of a link.
    if (isMissing(error) || (error as KernelError).code === 'ERANGE') return undefined;
    throw error;
  }
}
