/** The messages behind {@link LinkTable}: making, changing and removing one link in as few steps as are safe. */
import { constants } from 'node:os';
import { KernelError } from './errors.ts';
import type { LinkRow } from './link.ts';
import type { KnownLink } from './linkindex.ts';
import { type NetlinkMessage, NLM_F_CREATE, NLM_F_EXCL } from './netlink/message.ts';
import { encodeLink, IFF_UP, IN6_ADDR_GEN_MODE_NONE, type Link } from './netlink/route/link.ts';
import { RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK } from './netlink/route/rtnetlink.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

/** Unregistering waits for the kernel once a batch; a larger batch holds its global lock for too long. */
const DELETE_BATCH_MAX = 50;

/** Indexes of the links that a row is about. */
export interface LinkPlaces {
  /** Of the link itself, when it is there and ours. */
  readonly own: number | undefined;
  readonly master: number | undefined;
  /** Of the link below a tunnel. */
  readonly device: number | undefined;
}

/**
 * Makes a link with our mark on it. The kernel ignores the alias in the message that makes a link, and a
 * second message by name in the same datagram would mark somebody else's link where the name is taken. So the
 * link is born in a group of its own and the following messages go to that group: it is never there without
 * the mark, and nobody else's link ever gets it.
 */
export async function createLink(
  socket: NetlinkSocket,
  row: LinkRow,
  places: LinkPlaces,
): Promise<KernelError | undefined> {
  const group = 1 + Math.floor(Math.random() * 0x7ffffffe);
  const operation = `RTM_NEWLINK ${row.name}`;
  const [refused, quieted, ...later] = await socket.submit([
    { ...message(operation, birthOf(row, places, group)), flags: NLM_F_CREATE | NLM_F_EXCL },
    message(`${operation} without link-local address`, { group, ...quietOf(row) }),
    message(`${operation} alias`, { group, alias: row.alias }),
    // At birth a bridge's own MTU would not stick, and a vxlan's that is too large would be cut silently.
    message(`${operation} MTU ${row.mtuBytes}`, { group, mtuBytes: row.mtuBytes }),
    message(`${operation} up`, { group, flags: row.up ? IFF_UP : 0, changeMask: IFF_UP }),
  ]);
  if (refused !== undefined) return refused;
  later.push(...(await socket.submit(settle(row, operation))));
  // Where IPv6 is switched off there is no link-local address to prevent.
  if (quieted?.code !== 'EAFNOSUPPORT') later.push(quieted);
  const error = later.find((outcome) => outcome !== undefined);
  if (error !== undefined) await socket.submit([deletion({ name: row.name })]);
  return error;
}

const tunnelKinds: readonly LinkRow['kind'][] = ['vxlan', 'ipip', 'ip6tnl', 'wireguard'];

/** A tunnel has no address but those that it is given: no neighbor discovery floods the other nodes. */
function quietOf({ kind }: LinkRow): Link {
  return tunnelKinds.includes(kind) ? { ipv6AddressGeneration: IN6_ADDR_GEN_MODE_NONE } : {};
}

function birthOf(row: LinkRow, places: LinkPlaces, group: number): Link {
  const { name, kind, mac, vxlan, ipip } = row;
  return {
    name,
    kind,
    mac,
    mtuBytes: kind === 'bridge' ? undefined : row.mtuBytes,
    group,
    masterIndex: places.master,
    vxlan: vxlan && { ...vxlan, deviceIndex: places.device },
    // With snooping each new port sets timers of all the others (br_port_state_selection in net/bridge/br_stp_if.c).
    bridge: kind === 'bridge' ? { multicastSnooping: false } : undefined,
    ipip: kind === 'ip6tnl' ? { external: true } : ipip && { local: ipip.local, deviceIndex: places.device },
    // Each queue costs kobjects; the default is one for each CPU.
    ...(kind === 'veth' ? { txQueues: 1, rxQueues: 1, peer: { txQueues: 1, rxQueues: 1 } } : {}),
  };
}

/** Out of the group of birth, and what only a port that is there can be given. */
function settle(row: LinkRow, operation: string): NetlinkMessage[] {
  const { name } = row;
  const grouped = message(`${operation} group`, { name, group: 0 });
  if (row.master === undefined || row.bridgePort === undefined) return [grouped];
  return [grouped, portMessage(row, { name })];
}

function portMessage({ name, bridgePort }: LinkRow, place: Link): NetlinkMessage {
  const port: Link = { ...place, portKind: 'bridge', bridgePort: { hairpin: bridgePort?.hairpin ?? false } };
  return message(`RTM_NEWLINK ${name} bridge port`, port);
}

/** Changes what can change. Only what differs is in the message: some drivers refuse an equal value when up. */
export async function updateLink(
  socket: NetlinkSocket,
  wanted: LinkRow,
  actual: LinkRow,
  { own: index, master }: LinkPlaces,
): Promise<KernelError | undefined> {
  const operation = `RTM_NEWLINK ${wanted.name}`;
  if (index === undefined) return new KernelError(operation, constants.errno.ENODEV);
  const changed: Link = {
    index,
    alias: wanted.alias === actual.alias ? undefined : wanted.alias,
    mac: wanted.mac === actual.mac ? undefined : wanted.mac,
    mtuBytes: wanted.mtuBytes === actual.mtuBytes ? undefined : wanted.mtuBytes,
    masterIndex: wanted.master === actual.master ? undefined : (master ?? 0),
    // Flags without a mask would be all the flags that the link has afterwards.
    flags: wanted.up && !actual.up ? IFF_UP : 0,
    changeMask: wanted.up === actual.up ? 0 : IFF_UP,
  };
  const messages = [message(operation, changed)];
  if (wanted.master !== undefined) messages.push(portMessage(wanted, { index }));
  const outcomes = await socket.submit(messages);
  return outcomes.find((error) => error !== undefined);
}

/** Removes links, many at a time; per name: why one could not be removed. */
export async function deleteLinks(
  socket: NetlinkSocket,
  links: readonly KnownLink[],
): Promise<Map<string, KernelError>> {
  const errors = new Map<string, KernelError>();
  for (let at = 0; at < links.length; at += DELETE_BATCH_MAX) {
    const batch = links.slice(at, at + DELETE_BATCH_MAX);
    for (const [name, error] of await deleteBatch(socket, batch)) errors.set(name, error);
  }
  return errors;
}

/** One wait for all: the links are put into a group, and the group is removed. */
async function deleteBatch(
  socket: NetlinkSocket,
  links: readonly KnownLink[],
): Promise<[string, KernelError][]> {
  const group = 1 + Math.floor(Math.random() * 0x7ffffffe);
  const messages =
    links.length === 1
      ? links.map(({ index }) => deletion({ index }))
      : [
          ...links.map(({ index, name }) =>
            message(`RTM_SETLINK ${name} group`, { index, group }, RTM_SETLINK),
          ),
          deletion({ group }),
        ];
  const outcomes = await socket.submit(messages);
  const all = links.length === 1 ? undefined : outcomes.at(-1);
  return links.flatMap(({ name }, at) => {
    const error = outcomes[at] ?? all;
    return error === undefined ? [] : [[name, error] as [string, KernelError]];
  });
}

function deletion(link: Link): NetlinkMessage {
  return message(`RTM_DELLINK ${link.name ?? link.index ?? `group ${link.group}`}`, link, RTM_DELLINK);
}

function message(operation: string, link: Link, type = RTM_NEWLINK): NetlinkMessage {
  return { type, flags: 0, payload: encodeLink(link), operation };
}
