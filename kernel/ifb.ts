import { constants } from 'node:os';
import type { Mac } from '../core/address.ts';
import { KernelError } from './errors.ts';
import { type KnownLink, LINK_ALIAS_PREFIX, LinkIndex } from './linkindex.ts';
import { type NetlinkMessage, NLM_F_CREATE, NLM_F_EXCL } from './netlink/message.ts';
import { encodeLink, IFF_UP, IN6_ADDR_GEN_MODE_NONE, type Link } from './netlink/route/link.ts';
import { RTM_DELLINK, RTM_NEWLINK } from './netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

/**
 * An intermediate functional block: a link through which frames that come in by another one are led, because
 * only frames that go out can be made to wait. It belongs to one device, which its alias names.
 */
export interface Ifb {
  readonly name: string;
  /** The link whose frames it gets. */
  readonly device: string;
  readonly mac?: Mac | undefined;
  readonly mtuBytes?: number | undefined;
}

const aliasPrefix = `${LINK_ALIAS_PREFIX} bandwidth `;

export function ifbAlias(device: string): string {
  return `${aliasPrefix}${device}`;
}

/** The device that a link of ours serves; undefined for every other link. */
export function deviceOfIfb({ kind, alias }: Link): string | undefined {
  return kind === 'ifb' && alias?.startsWith(aliasPrefix) ? alias.slice(aliasPrefix.length) : undefined;
}

/** Makes the link, up and with its mark, or finds it. A link of the name that is not this one is left alone. */
export async function ensureIfb(socket: NetlinkSocket, ifb: Ifb): Promise<KnownLink | KernelError> {
  const operation = `RTM_NEWLINK ${ifb.name} (ifb of ${ifb.device})`;
  const there = (await LinkIndex.lookUp(socket, [ifb.name])).named(ifb.name);
  if (there === undefined) {
    const refused = await createIfb(socket, ifb, operation);
    if (refused !== undefined) return refused;
    return (await LinkIndex.lookUp(socket, [ifb.name])).find(ifb.name, operation);
  }
  if (deviceOfIfb(there) !== ifb.device) {
    const detail = `link "${ifb.name}" has no alias "${ifbAlias(ifb.device)}"`;
    return new KernelError(operation, constants.errno.EEXIST, { detail });
  }
  const { mac, mtuBytes } = ifb;
  const settings = { mac: mac === there.mac ? undefined : mac, mtuBytes };
  const up = { index: there.index, flags: IFF_UP, changeMask: IFF_UP };
  const [refused] = await socket.submit([message(operation, { ...up, ...settings })]);
  return refused ?? there;
}

/** The kernel ignores the alias at birth; the group makes sure that nobody else's link gets it. */
async function createIfb(
  socket: NetlinkSocket,
  { name, device, mac, mtuBytes }: Ifb,
  operation: string,
): Promise<KernelError | undefined> {
  const group = 1 + Math.floor(Math.random() * 0x7ffffffe);
  const birth: Link = { name, kind: 'ifb', mac, mtuBytes, group, txQueues: 1, rxQueues: 1 };
  const [refused, quieted, ...later] = await socket.submit([
    { ...message(operation, birth), flags: NLM_F_CREATE | NLM_F_EXCL },
    // No link-local address: else its duplicate detection would be traffic of the container's.
    message(operation, { group, ipv6AddressGeneration: IN6_ADDR_GEN_MODE_NONE }),
    message(`${operation} alias`, { group, alias: ifbAlias(device) }),
    message(`${operation} up`, { group, flags: IFF_UP, changeMask: IFF_UP }),
  ]);
  if (refused !== undefined) return refused;
  later.push(...(await socket.submit([message(`${operation} group`, { name, group: 0 })])));
  if (quieted?.code !== 'EAFNOSUPPORT') later.push(quieted);
  const error = later.find((outcome) => outcome !== undefined);
  if (error !== undefined) await socket.submit([deletion({ name })]);
  return error;
}

/** Removes the link of this name if it serves the device; what is gone is no failure. */
export async function removeIfb(
  socket: NetlinkSocket,
  { name, device }: Pick<Ifb, 'name' | 'device'>,
): Promise<KernelError | undefined> {
  const link = (await LinkIndex.lookUp(socket, [name])).named(name);
  if (link === undefined || deviceOfIfb(link) !== device) return undefined;
  const [refused] = await socket.submit([deletion({ index: link.index, name })]);
  return refused?.code === 'ENODEV' ? undefined : refused;
}

function deletion({ index, name }: Link): NetlinkMessage {
  const place = index === undefined ? { name } : { index };
  return { type: RTM_DELLINK, flags: 0, payload: encodeLink(place), operation: `RTM_DELLINK ${name}` };
}

function message(operation: string, link: Link): NetlinkMessage {
  return { type: RTM_NEWLINK, flags: 0, payload: encodeLink(link), operation };
}
