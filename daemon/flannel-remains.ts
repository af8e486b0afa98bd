import type { Log } from '../cni/log.ts';
import type { LinkRow } from '../kernel/link.ts';
import type { KnownLink, LinkIndex } from '../kernel/linkindex.ts';
import { deleteLinks } from '../kernel/linkmessages.ts';
import type { NetlinkSocket } from '../kernel/netlink/socket.ts';

/**
 * Whether a link is what flanneld has in the place of one of ours: its device of the same backend, for vxlan of the same
 * network and port. The kernel has room for one of the two. Its devices of other backends and networks are left.
 */
export function isFlannelTwin(
  wanted: Pick<LinkRow, 'name' | 'kind' | 'vxlan'>,
  { name, kind, vxlan }: Pick<KnownLink, 'name' | 'kind' | 'vxlan'>,
): boolean {
  if (kind !== wanted.kind) return false;
  switch (wanted.kind) {
    case 'vxlan': {
      const isSame = vxlan?.vni === wanted.vxlan?.vni && vxlan?.port === wanted.vxlan?.port;
      return isSame && /^flannel(-v6)?\.\d+$/.test(name);
    }
    case 'wireguard':
      return name === (wanted.name.endsWith('6') ? 'flannel-wg-v6' : 'flannel-wg');
    case 'ipip':
      return name === 'flannel.ipip';
    case 'tun':
      return /^flannel\d+$/.test(name);
    default:
      return false;
  }
}

/**
 * Removes the devices that flanneld left in the place of ours, and with them its routes, neighbours and forwarding
 * entries. To be called right before ours are made: until then they carry packets.
 */
export async function removeFlannelTwins(
  socket: NetlinkSocket,
  links: LinkIndex,
  wanted: Iterable<LinkRow>,
  log: Log,
): Promise<void> {
  const rows = [...wanted];
  const found = [...links].filter((link) => rows.some((row) => isFlannelTwin(row, link)));
  if (found.length === 0) return;
  const outcomes = await deleteLinks(socket, found);
  for (const { name: device } of found) {
    const error = outcomes.get(device);
    if (error === undefined) log.info({ device }, "flanneld's device removed");
    else log.warn({ device, error: error.message }, "flanneld's device stays");
  }
}
