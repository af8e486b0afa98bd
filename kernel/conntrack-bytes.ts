import type { Family } from '../core/address.ts';
import { type CountedFlow, decodeCountedFlow, getTranslatedFlows } from './netlink/conntrack/bytes.ts';
import type { NetlinkSocket } from './netlink/socket.ts';

export type { CountedFlow } from './netlink/conntrack/bytes.ts';

/** Set to 1, the kernel counts the packets and bytes of flows that begin from then on. */
export const CONNTRACK_ACCOUNTING = 'net/netfilter/nf_conntrack_acct';

/**
 * Tells `onFlow` of each flow of the family whose destination is translated and whose bytes are counted. In slices;
 * the socket is to have a lane. Throws KernelError.
 */
export async function readCountedFlows(
  socket: NetlinkSocket,
  family: Family,
  onFlow: (flow: CountedFlow) => void,
): Promise<void> {
  await socket.dumpInSlices(getTranslatedFlows(family), ({ payload }) => {
    const flow = decodeCountedFlow(payload);
    if (flow !== undefined) onFlow(flow);
  });
}
