import { isMissing } from './errors.ts';
import type { NetlinkMessage } from './netlink/message.ts';
import { message as messageTypes } from './netlink/nftables/constants.ts';
import { decodePackets } from './netlink/nftables/decode-elements.ts';
import { getElements } from './netlink/nftables/requests.ts';
import { type NftLayout, nftElementKey } from './netlink/nftables/spec.ts';
import type { NetlinkSocket } from './netlink/socket.ts';
import { Slices } from './nftables-slices.ts';

/** Packets that found an element of a set with `counter`, by the row's key. Elements that none found are left out. */
export type ElementPackets = ReadonlyMap<string, number>;

/** What the elements had counted that a transaction took away, by what NLM_F_ECHO says of it. */
export function packetsOfRemoved(answers: readonly NetlinkMessage[]): ElementPackets {
  const packets = new Map<string, number>();
  for (const answer of answers) if (answer.type === messageTypes.DELSETELEM) notePackets(answer, packets);
  return packets;
}

function notePackets(message: NetlinkMessage, packets: Map<string, number>): void {
  decodePackets(message, (set, key, count) => packets.set(nftElementKey({ set, key }), count));
}

/** What the kernel has counted so far in the layout's sets; nothing where there is no such table. In slices. */
export async function readPackets(socket: NetlinkSocket, layout: NftLayout): Promise<ElementPackets> {
  const packets = new Map<string, number>();
  const slices = new Slices();
  try {
    for (const set of layout.sets.filter(({ counter }) => counter)) {
      for (const message of await socket.dump(getElements(layout, set.name))) {
        notePackets(message, packets);
        if (slices.isOver) await slices.next();
      }
    }
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
  return packets;
}
