import type { Descriptor } from '../native/index.ts';
import type { ReceivedMessage } from './netlink/message.ts';
import { monitor } from './netlink/monitor.ts';
import { message as messages, NFNLGRP_NFTABLES } from './netlink/nftables/constants.ts';
import { tableOf } from './netlink/nftables/messages.ts';
import { getGeneration } from './netlink/nftables/requests.ts';
import { NETLINK_NETFILTER, type NetlinkSocket } from './netlink/socket.ts';

export interface NftWatchOptions {
  readonly namespaceFd?: Descriptor;
  readonly signal?: AbortSignal;
  /** Names of tables to watch, of whatever family. */
  readonly tables: readonly string[];
  /**
   * Ports of the sockets that we write with ({@link readPortId}): their changes are no news. Process numbers would
   * not do: the kernel gives those of threads, as seen outside of containers.
   */
  readonly ownPorts: readonly number[];
}

/** Ends with the signal, with `break` or with disposal. */
export interface NftWatch extends AsyncIterable<'changed' | 'overrun'>, Disposable {}

/**
 * Says that somebody else changed one of the tables, `nft flush ruleset` included. However much changed since the
 * last answer is one answer. `overrun`: notifications were lost, perhaps only ours of a big write; read again.
 * Watching begins with this call.
 */
export function watchNftables({ namespaceFd, signal, tables, ownPorts }: NftWatchOptions): NftWatch {
  const events = monitor([NFNLGRP_NFTABLES], { namespaceFd, signal, protocol: NETLINK_NETFILTER });
  const isNews = (message: ReceivedMessage) =>
    message.type !== messages.NEWGEN &&
    !ownPorts.includes(message.portId) &&
    tables.includes(tableOf(message));
  return {
    async *[Symbol.asyncIterator]() {
      for await (const event of events) {
        if (event.kind === 'overrun') yield 'overrun';
        else if (event.messages.some(isNews)) yield 'changed';
      }
    },
    [Symbol.dispose]: () => events[Symbol.dispose](),
  };
}

/** The port of a socket of ours, which the kernel puts on the notifications of what was done with it. */
export async function readPortId(socket: NetlinkSocket): Promise<number> {
  const [answer] = await socket.request(getGeneration());
  return (answer as ReceivedMessage | undefined)?.portId ?? 0;
}
