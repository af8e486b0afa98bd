/** Duplicate address detection inside a container (RFC 4862 §5.4), where a network asks for it. */
import { constants } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { KernelError } from './errors.ts';
import { type Address, decodeAddress, encodeAddressDump } from './netlink/route/address.ts';
import { decodeLink, getLinkMessage } from './netlink/route/link.ts';
import { AF_INET6, RTM_GETADDR } from './netlink/route/rtnetlink.ts';
import { NETLINK_ROUTE, NetlinkSocket } from './netlink/socket.ts';
import { SysctlTable } from './sysctl.ts';

/** How long addresses may take until they are known to be nobody else's. */
export const duplicatesTimeoutMs = 5000;
const pollMs = 50;
const IFA_F_DADFAILED = 0x08;
const IFA_F_TENTATIVE = 0x40;

/** One interface of one container. */
export interface DetectionPlace {
  readonly namespaceFd?: number | undefined;
  readonly ifname: string;
  readonly detectsDuplicates?: boolean | undefined;
}

/** Switches it on, whatever the container's defaults are; to be done before there is an address. */
export async function detectDuplicates(place: DetectionPlace): Promise<Error | undefined> {
  if (!place.detectsDuplicates) return undefined;
  const keys = ['enhanced_dad', 'accept_dad'].map((name) => `net/ipv6/conf/${place.ifname}/${name}`);
  const sysctls = new SysctlTable({ keys, namespaceFd: place.namespaceFd ?? -1 });
  const [failure] = await sysctls.write(keys.map((key) => ({ kind: 'create', key, wanted: '1' })));
  return failure?.error;
}

/** Waits until the interface's addresses work; EADDRINUSE when somebody has one of them, ETIMEDOUT. */
export async function settleAddresses({
  namespaceFd,
  ifname,
}: DetectionPlace): Promise<KernelError | undefined> {
  using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd });
  const [answer] = await socket.request(getLinkMessage({ name: ifname }));
  const index = answer === undefined ? undefined : decodeLink(answer.payload).index;
  const refuse = (errno: number, detail: string) =>
    new KernelError(`duplicate address detection ${ifname}`, errno, { detail });
  for (let waitedMs = 0; waitedMs <= duplicatesTimeoutMs; waitedMs += pollMs) {
    const addresses = (await readAddresses(socket)).filter((address) => address.index === index);
    const failed = addresses.find(({ flags = 0 }) => (flags & IFA_F_DADFAILED) !== 0);
    if (failed !== undefined)
      return refuse(constants.errno.EADDRINUSE, `somebody else on the link has ${failed.ip}`);
    if (!addresses.some(({ flags = 0 }) => (flags & IFA_F_TENTATIVE) !== 0)) return undefined;
    await sleep(pollMs);
  }
  return refuse(
    constants.errno.ETIMEDOUT,
    `link ${ifname} still has tentative addresses after ${duplicatesTimeoutMs / 1000} seconds`,
  );
}

async function readAddresses(socket: NetlinkSocket): Promise<Address[]> {
  const payload = encodeAddressDump(AF_INET6);
  const messages = await socket.dump({ type: RTM_GETADDR, flags: 0, payload, operation: 'RTM_GETADDR' });
  return messages.map((message) => decodeAddress(message.payload));
}
