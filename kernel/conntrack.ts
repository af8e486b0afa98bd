import { families } from '../core/address.ts';
import type { Descriptor, Lane } from '../native/index.ts';
import { isMissing } from './errors.ts';
import {
  decodeFlow,
  deleteFlow,
  type Flow,
  type FlowFilter,
  getFlows,
  isFlowOf,
} from './netlink/conntrack/flow.ts';
import { NETLINK_NETFILTER, NetlinkSocket } from './netlink/socket.ts';

export { flowStatus } from './netlink/conntrack/constants.ts';
export type { Flow, FlowFilter } from './netlink/conntrack/flow.ts';

/** Half a million flows are 100 MB of answer; nothing is reserved until it is needed. */
const SOCKET_BUFFER_BYTES = 16 << 20;
/** More filters than this are cheaper to apply here, to one dump, than in the kernel, to one dump each. */
const DUMPS_MAX = 8;

/** A socket for the functions here; dispose of it. With a lane, large tables do not hold up the calling thread. */
export function openConntrackSocket(
  options: { namespaceFd?: Descriptor | undefined; lane?: Lane | undefined } = {},
): NetlinkSocket {
  return NetlinkSocket.open(NETLINK_NETFILTER, { ...options, bufferBytes: SOCKET_BUFFER_BYTES });
}

/**
 * The flows that one of the filters means (no filter: none). The kernel picks them where it can; a filter without
 * a family is for both.
 */
export async function readFlows(socket: NetlinkSocket, filters: readonly FlowFilter[]): Promise<Flow[]> {
  const found = new Map<string, Flow>();
  for (const request of dumpsFor(filters.flatMap(byFamily))) {
    for (const { payload } of await socket.dump(getFlows(request))) {
      const flow = decodeFlow(payload);
      if (flow === undefined || !filters.some((filter) => isFlowOf(flow, filter))) continue;
      found.set(flowKey(flow), flow);
    }
  }
  return [...found.values()];
}

/** The kernel's filter is for one family. */
function byFamily(filter: FlowFilter): FlowFilter[] {
  return filter.family === undefined ? families.map((family) => ({ ...filter, family })) : [filter];
}

/** One dump for each filter, or, where they are many, for each family and protocol among them. */
function dumpsFor(filters: readonly FlowFilter[]): readonly FlowFilter[] {
  if (filters.length <= DUMPS_MAX) return filters;
  const wide = filters.map(({ family, protocol }) => ({ family, protocol }));
  return [...new Map(wide.map((filter) => [`${filter.family} ${filter.protocol}`, filter])).values()];
}

/** What the kernel tells flows apart by. */
function flowKey({ family, protocol, zone, original: { src, dst, sport, dport, icmp } }: Flow): string {
  return `${family} ${zone} ${protocol} ${src} ${sport} ${dst} ${dport} ${icmp?.id} ${icmp?.type}`;
}

/**
 * Forgets the flows that one of the filters means and, if `isStale` is given, that it says are stale. Gives those that
 * were there; what goes away by itself meanwhile is no failure. The next packet of each is like that of a new
 * connection. Throws KernelError.
 */
export async function deleteFlows(
  socket: NetlinkSocket,
  filters: readonly FlowFilter[],
  isStale: (flow: Flow) => boolean = () => true,
): Promise<Flow[]> {
  const stale = (await readFlows(socket, filters)).filter(isStale);
  const outcomes = await socket.submit(stale.map(deleteFlow));
  const failed = outcomes.find((error) => error !== undefined && !isMissing(error));
  if (failed !== undefined) throw failed;
  return stale.filter((_, index) => outcomes[index] === undefined);
}
