import { addressBits, type Cidr, familyOf, type Ip } from '../core/address.ts';
import { isMissing } from '../kernel/errors.ts';
import type { NetlinkMessage } from '../kernel/netlink/message.ts';
import { decodeLink, getLinkMessage, type Link } from '../kernel/netlink/route/link.ts';
import { decodeRoute, encodeRoute } from '../kernel/netlink/route/route.ts';
import { RTM_GETROUTE } from '../kernel/netlink/route/rtnetlink.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../kernel/netlink/socket.ts';
import { type PodSetting, PodSettings } from '../kernel/pod-setting.ts';
import type { FirewalldTable } from './firewalld/table.ts';
import type { ChainedNode, Peer } from './plugin-type.ts';

/** Questions about what others may have made: to the kernel about interfaces, and whether firewalld runs. */
export class NodeLinks implements ChainedNode {
  readonly #socket: NetlinkSocket;

  readonly #firewalld: Pick<FirewalldTable, 'runs'>;

  /** The socket is one of the node's namespace. */
  constructor(socket: NetlinkSocket, firewalld: Pick<FirewalldTable, 'runs'>) {
    this.#socket = socket;
    this.#firewalld = firewalld;
  }

  hasFirewalld(): Promise<boolean> {
    return this.#firewalld.runs();
  }

  async hasLink(namespaceFd: number, name: string): Promise<boolean> {
    using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd });
    return (await readLink(socket, { name })) !== undefined;
  }

  async peerOf(namespaceFd: number, ifname: string): Promise<Peer | undefined> {
    using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd });
    const own = await readLink(socket, { name: ifname });
    const index = own?.kind === 'veth' ? own.linkIndex : undefined;
    if (own === undefined || index === undefined) return undefined;
    const there = await readLink(this.#socket, { index });
    // Another link may have the same number in the node's namespace.
    if (there?.kind !== 'veth' || there.linkIndex !== own.index) return { index };
    return { index, name: there.name, mtuBytes: there.mtuBytes };
  }

  async capture(namespaceFd: number, settings: readonly PodSetting[]): Promise<readonly PodSetting[]> {
    return settings.length === 0 ? [] : new PodSettings({ namespaceFd, settings }).capture();
  }

  async deviceTo(ip: Ip): Promise<string | undefined> {
    const destination = `${ip}/${addressBits(familyOf(ip))}` as Cidr;
    const payload = encodeRoute({ destination, table: 0, protocol: 0, scope: 0, type: 0 });
    const index = await this.#ask({ type: RTM_GETROUTE, flags: 0, payload, operation: `RTM_GETROUTE ${ip}` });
    return index === undefined ? undefined : (await readLink(this.#socket, { index }))?.name;
  }

  async #ask(message: NetlinkMessage): Promise<number | undefined> {
    try {
      const [answer] = await this.#socket.request(message);
      return answer === undefined ? undefined : decodeRoute(answer.payload).index;
    } catch {
      // No way there.
      return undefined;
    }
  }
}

async function readLink(
  socket: NetlinkSocket,
  which: Pick<Link, 'name' | 'index'>,
): Promise<Link | undefined> {
  try {
    const [answer] = await socket.request(getLinkMessage(which));
    return answer === undefined ? undefined : decodeLink(answer.payload);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}
