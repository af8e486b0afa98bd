import { families, type HostCidr, hostCidr } from '../core/address.ts';
import type { Descriptor } from '../native/index.ts';
import { isMissing } from './errors.ts';
import { decodeAddress, encodeAddressDump } from './netlink/route/address.ts';
import { decodeLink, getLinkMessage, type Link } from './netlink/route/link.ts';
import { decodeRoute, encodeRouteDump, type Route } from './netlink/route/route.ts';
import { AF_UNSPEC, RTM_GETADDR, RTM_GETROUTE } from './netlink/route/rtnetlink.ts';
import { NETLINK_ROUTE, NetlinkSocket } from './netlink/socket.ts';

/** What there is of an attachment; a link that is not there is undefined. */
export interface AttachmentState {
  readonly bridge?: Link | undefined;
  /** The end on the host. */
  readonly host?: Link | undefined;
  /** The end in the container. */
  readonly pod?: Link | undefined;
  /** Of the end in the container. */
  readonly addresses: readonly HostCidr[];
  /** All of the container's, in every table. */
  readonly routes: readonly Route[];
}

export interface AttachmentPlace {
  /** Undefined: the attachment has none. */
  readonly bridge?: string | undefined;
  readonly hostName: string;
  readonly ifname: string;
  /** The container's. */
  readonly namespaceFd: Descriptor;
}

/** Reads both sides; `socket` is in the node's namespace. Throws KernelError. */
export async function readAttachment(
  socket: NetlinkSocket,
  place: AttachmentPlace,
): Promise<AttachmentState> {
  const { bridge, hostName, ifname, namespaceFd } = place;
  using inside = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd });
  const pod = await readLink(inside, ifname);
  return {
    bridge: bridge === undefined ? undefined : await readLink(socket, bridge),
    host: await readLink(socket, hostName),
    pod,
    addresses: await readAddresses(inside, pod?.index),
    routes: await readRoutes(inside),
  };
}

async function readLink(socket: NetlinkSocket, name: string): Promise<Link | undefined> {
  try {
    const [answer] = await socket.request(getLinkMessage({ name }));
    return answer === undefined ? undefined : decodeLink(answer.payload);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

async function readAddresses(socket: NetlinkSocket, index: number | undefined): Promise<HostCidr[]> {
  const payload = encodeAddressDump(AF_UNSPEC);
  const messages = await socket.dump({ type: RTM_GETADDR, flags: 0, payload, operation: 'RTM_GETADDR' });
  const addresses = messages.map((message) => decodeAddress(message.payload));
  return addresses
    .filter((address) => address.index === index)
    .map(({ ip, prefixLength }) => hostCidr(ip, prefixLength));
}

async function readRoutes(socket: NetlinkSocket): Promise<Route[]> {
  const routes: Route[] = [];
  for (const family of families) {
    const operation = `RTM_GETROUTE IPv${family}`;
    const payload = encodeRouteDump(family, {});
    const messages = await socket.dump({ type: RTM_GETROUTE, flags: 0, payload, operation });
    routes.push(...messages.map((message) => decodeRoute(message.payload)));
  }
  return routes;
}
