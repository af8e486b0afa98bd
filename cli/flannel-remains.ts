import { setTimeout as sleep } from 'node:timers/promises';
import type { Log } from '../cni/log.ts';
import type { Daemon } from '../daemon/daemon.ts';
import { type KnownLink, LinkIndex } from '../kernel/linkindex.ts';
import { deleteLinks } from '../kernel/linkmessages.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../kernel/netlink/socket.ts';

const POLL_MS = 50;

/** Devices of flanneld's backends, by kind. */
const flannelDevices: ReadonlyMap<string | undefined, RegExp> = new Map([
  ['vxlan', /^flannel(-v6)?\.\d+$/],
  ['wireguard', /^flannel-wg(-v6)?$/],
  ['ipip', /^flannel\.ipip$/],
  ['tun', /^flannel\d+$/],
]);

export function isFlannelDevice({ name, kind }: Pick<KnownLink, 'name' | 'kind'>): boolean {
  return flannelDevices.get(kind)?.test(name) === true;
}

/**
 * Removes the devices that flanneld left, and with them its routes, neighbours and forwarding entries: the kernel has
 * one vxlan of a number. They carry packets until this node knows all leases, so that its own rows follow at once.
 */
export async function removeFlannelDevices(
  daemon: Pick<Daemon, 'status'>,
  { log, signal }: { readonly log: Log; readonly signal: AbortSignal },
): Promise<void> {
  while (!(daemon.status().synced && daemon.status().lease !== undefined)) {
    await sleep(POLL_MS, undefined, { signal });
  }
  using socket = NetlinkSocket.open(NETLINK_ROUTE);
  const found = [...(await LinkIndex.read(socket))].filter(isFlannelDevice);
  if (found.length === 0) return;
  const outcomes = await deleteLinks(socket, found);
  for (const { name: device } of found) {
    const error = outcomes.get(device);
    if (error === undefined) log.info({ device }, "flanneld's device removed");
    else log.warn({ device, error: error.message }, "flanneld's device stays");
  }
}
