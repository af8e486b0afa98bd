import { constants } from 'node:os';
import { type HostCidr, hostCidr } from '../core/address.ts';
import type { Descriptor } from '../native/index.ts';
import { KernelError } from './errors.ts';
import { decodeAddress, encodeAddressDump } from './netlink/route/address.ts';
import { decodeLink, encodeLink, getLinkMessage, IFF_UP } from './netlink/route/link.ts';
import { AF_UNSPEC, RTM_GETADDR, RTM_SETLINK } from './netlink/route/rtnetlink.ts';
import { NETLINK_ROUTE, NetlinkSocket } from './netlink/socket.ts';

/** The interface lo of one network namespace, which every namespace has. */
export interface Loopback {
  readonly isUp: boolean;
  readonly addresses: readonly HostCidr[];
}

const name = 'lo';

/** Throws KernelError. */
export async function readLoopback(namespaceFd: Descriptor): Promise<Loopback> {
  using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd });
  const [answer] = await socket.request(getLinkMessage({ name }));
  if (answer === undefined) throw new KernelError(`RTM_GETLINK ${name}`, constants.errno.ENODEV);
  const { index, flags = 0 } = decodeLink(answer.payload);
  const payload = encodeAddressDump(AF_UNSPEC);
  const messages = await socket.dump({ type: RTM_GETADDR, flags: 0, payload, operation: 'RTM_GETADDR' });
  const addresses = messages.map((message) => decodeAddress(message.payload));
  return {
    isUp: (flags & IFF_UP) !== 0,
    addresses: addresses
      .filter((address) => address.index === index)
      .map(({ ip, prefixLength }) => hostCidr(ip, prefixLength)),
  };
}

/** The kernel adds 127.0.0.1 and ::1 when it goes up, and takes them away when it goes down. Throws KernelError. */
export async function writeLoopback(namespaceFd: Descriptor, isUp: boolean): Promise<void> {
  using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd });
  const payload = encodeLink({ name, flags: isUp ? IFF_UP : 0, changeMask: IFF_UP });
  const operation = `RTM_SETLINK ${name} ${isUp ? 'up' : 'down'}`;
  await socket.request({ type: RTM_SETLINK, flags: 0, payload, operation });
}
