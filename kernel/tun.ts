import { type Descriptor, native } from '../native/index.ts';
import { KernelError } from './errors.ts';
import type { LinkRow } from './link.ts';
import { encodeLink, IFF_UP, IN6_ADDR_GEN_MODE_NONE, type Link } from './netlink/route/link.ts';
import { RTM_NEWLINK } from './netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

/**
 * Makes a TUN device with our mark on it: netlink cannot. It stays when nobody has it open, so that routes over it
 * outlive whoever carries its packets; until it is marked it goes away with the descriptor, also when we are killed.
 */
export async function createTun(
  socket: NetlinkSocket,
  row: LinkRow,
  namespaceFd: Descriptor,
): Promise<KernelError | undefined> {
  const { name, alias, mtuBytes, up } = row;
  const operation = `TUNSETIFF ${name}`;
  try {
    const fd = native.openTun(namespaceFd, name, true);
    try {
      const outcomes = await socket.submit([
        message(operation, { name, alias, mtuBytes }),
        message(operation, { name, ipv6AddressGeneration: IN6_ADDR_GEN_MODE_NONE }),
        message(operation, { name, flags: up ? IFF_UP : 0, changeMask: IFF_UP }),
      ]);
      // Where IPv6 is switched off there is no link-local address to prevent.
      const error = outcomes.find((outcome) => outcome !== undefined && outcome.code !== 'EAFNOSUPPORT');
      if (error === undefined) native.keepTun(fd);
      return error;
    } finally {
      native.close(fd);
    }
  } catch (error) {
    const failed = KernelError.from(operation, error);
    if (failed instanceof KernelError) return failed;
    throw failed;
  }
}

function message(operation: string, link: Link) {
  return { type: RTM_NEWLINK, flags: 0, payload: encodeLink(link), operation };
}
