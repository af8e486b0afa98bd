import { type Cidr, type Family, families, familyOf, hostCidr, type Ip } from '../core/address.ts';
import { KernelError } from '../kernel/errors.ts';
import { type KnownLink, LinkIndex } from '../kernel/linkindex.ts';
import type { NetlinkMessage } from '../kernel/netlink/message.ts';
import { decodeAddress, encodeAddressDump } from '../kernel/netlink/route/address.ts';
import {
  decodeRoute,
  encodeRouteDump,
  encodeRouteLookup,
  type Route,
  RT_SCOPE_LINK,
  RT_SCOPE_UNIVERSE,
  RT_TABLE_MAIN,
  RTN_UNICAST,
} from '../kernel/netlink/route/route.ts';
import {
  AF_UNSPEC,
  FAIRLEAD_PROTOCOL,
  RTM_GETADDR,
  RTM_GETROUTE,
  RTPROT_BOOT,
} from '../kernel/netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from '../kernel/netlink/socket.ts';
import type { AddressFact, LinkFact, UnderlayFacts, UnderlaySelector } from './underlay.ts';

/** IFA_F_…, uapi/linux/if_addr.h */
const DAD_FAILED = 0x08;
const DEPRECATED = 0x20;
const TENTATIVE = 0x40;
const PERMANENT = 0x80;

/** What {@link selectUnderlay} chooses from, read in the socket's namespace. */
export async function readUnderlayFacts(
  socket: NetlinkSocket,
  { canReach }: Pick<UnderlaySelector, 'canReach'> = {},
  known?: LinkIndex,
): Promise<UnderlayFacts> {
  const links = known ?? (await LinkIndex.read(socket));
  return {
    reach: canReach && (await readWay(socket, links, canReach)),
    links: Array.from(links, linkFact),
    addresses: await readAddresses(socket, links),
    ...(await readRoutes(socket, links)),
  };
}

function linkFact({ name, index, mtuBytes = 0, ipip }: KnownLink): LinkFact {
  const remote = ipip?.remote;
  const hasRemote = remote !== undefined && !['0.0.0.0', '::'].includes(remote);
  return { name, index, mtuBytes, ...(hasRemote ? { remote } : {}) };
}

async function readAddresses(socket: NetlinkSocket, links: LinkIndex): Promise<AddressFact[]> {
  const payload = encodeAddressDump(AF_UNSPEC);
  const messages = await socket.dump({ type: RTM_GETADDR, flags: 0, payload, operation: 'RTM_GETADDR' });
  return messages.flatMap((message) => {
    const { ip, prefixLength, index, flags = 0, scope } = decodeAddress(message.payload);
    const device = links.at(index)?.name;
    if (device === undefined) return [];
    return {
      device,
      address: hostCidr(ip, prefixLength),
      scope: scope === RT_SCOPE_UNIVERSE ? 'global' : scope === RT_SCOPE_LINK ? 'link' : 'other',
      usable: (flags & (TENTATIVE | DAD_FAILED | DEPRECATED)) === 0,
      permanent: (flags & PERMANENT) !== 0,
    } as const;
  });
}

/** In struct rtmsg: of thousands of routes to peers no more is read. */
const PREFIX_LENGTH_AT = 1;
const PROTOCOL_AT = 5;
const SCOPE_AT = 6;
const TYPE_AT = 7;
/** RTPROT_KERNEL, _BOOT, _STATIC, _RA: who says what is on a link. IPv6 has no scopes. */
const linkProtocols: readonly (number | undefined)[] = [2, RTPROT_BOOT, 4, 9];

function mayBeOnLink(family: Family, header: Uint8Array): boolean {
  if (header[TYPE_AT] !== RTN_UNICAST || header[PROTOCOL_AT] === FAIRLEAD_PROTOCOL) return false;
  return family === 4 ? header[SCOPE_AT] === RT_SCOPE_LINK : linkProtocols.includes(header[PROTOCOL_AT]);
}

/** The kernel makes a family's table with its first route. */
async function readTable(socket: NetlinkSocket, dump: NetlinkMessage): Promise<NetlinkMessage[]> {
  try {
    return await socket.dump(dump);
  } catch (error) {
    if (error instanceof KernelError && error.code === 'ENOENT') return [];
    throw error;
  }
}

async function readRoutes(
  socket: NetlinkSocket,
  links: LinkIndex,
): Promise<Required<Pick<UnderlayFacts, 'defaultRoutes' | 'onLink'>>> {
  const defaults: (readonly [Family, string])[] = [];
  const onLink: { device: string; network: Cidr }[] = [];
  for (const family of families) {
    const payload = encodeRouteDump(family, { table: RT_TABLE_MAIN });
    const operation = `RTM_GETROUTE default IPv${family}`;
    const messages = await readTable(socket, { type: RTM_GETROUTE, flags: 0, payload, operation });
    const short = messages.filter((message) => message.payload[PREFIX_LENGTH_AT] === 0);
    const routes = short.map((message) => decodeRoute(message.payload)).filter(isDefault);
    const [best] = routes.sort((a, b) => (a.priority ?? 0) - (b.priority ?? 0));
    const device = links.at(best?.index ?? best?.nextHops?.[0]?.index)?.name;
    if (device !== undefined) defaults.push([family, device]);
    for (const message of messages) {
      if (!mayBeOnLink(family, message.payload)) continue;
      const route = decodeRoute(message.payload);
      const on = links.at(route.index)?.name;
      const isOne =
        route.gateway === undefined && route.nextHops === undefined && route.table === RT_TABLE_MAIN;
      if (isOne && on !== undefined) onLink.push({ device: on, network: route.destination });
    }
  }
  return { defaultRoutes: Object.fromEntries(defaults), onLink };
}

/** undefined where the kernel knows no way. */
async function readWay(socket: NetlinkSocket, links: LinkIndex, ip: Ip): Promise<UnderlayFacts['reach']> {
  const operation = `RTM_GETROUTE ${ip}`;
  try {
    const payload = encodeRouteLookup(ip);
    const [answer] = await socket.request({ type: RTM_GETROUTE, flags: 0, payload, operation });
    const route = answer && decodeRoute(answer.payload);
    const device = links.at(route?.index)?.name;
    return device === undefined || route?.type !== RTN_UNICAST ? undefined : { device, source: route.source };
  } catch (error) {
    if (error instanceof KernelError) return undefined;
    throw error;
  }
}

function isDefault({ destination, table, type }: Route): boolean {
  const any = familyOf(destination) === 4 ? '0.0.0.0/0' : '::/0';
  return (destination as string) === any && table === RT_TABLE_MAIN && type === RTN_UNICAST;
}
