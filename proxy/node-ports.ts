import type { Ip } from '../core/address.ts';
import type { ReceivedMessage } from '../kernel/netlink/message.ts';
import { type Monitor, monitor } from '../kernel/netlink/monitor.ts';
import { decodeAddress, encodeAddressDump } from '../kernel/netlink/route/address.ts';
import {
  AF_UNSPEC,
  RTM_DELADDR,
  RTM_GETADDR,
  RTM_NEWADDR,
  RTNLGRP_IPV4_IFADDR,
  RTNLGRP_IPV6_IFADDR,
} from '../kernel/netlink/route/rtnetlink.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../kernel/netlink/socket.ts';
import { Backoff } from '../kube/backoff.ts';

export interface LocalAddressesOptions {
  readonly namespaceFd?: number | undefined;
  readonly signal: AbortSignal;
  /** An address came or went; only mark here. */
  readonly onChange: () => void;
  /** The kernel does not answer; unless the notifications themselves ended, it is asked again. */
  readonly onError: (error: Error) => void;
}

/**
 * The addresses of all of a node's interfaces, from the kernel's own notifications: each one is applied as it comes,
 * because on a busy node there are many, of pods' interfaces that nobody asks for.
 */
export class LocalAddresses implements Disposable {
  readonly #socket: NetlinkSocket;
  readonly #events: Monitor;
  readonly #options: LocalAddressesOptions;
  /** By interface and address: the same one may be on two. */
  readonly #addresses = new Map<string, Ip>();

  private constructor(socket: NetlinkSocket, events: Monitor, options: LocalAddressesOptions) {
    this.#socket = socket;
    this.#events = events;
    this.#options = options;
  }

  /** Resolves when all are known. Throws KernelError. */
  static async open(options: LocalAddressesOptions): Promise<LocalAddresses> {
    const { namespaceFd, signal } = options;
    using stack = new DisposableStack();
    const socket = stack.use(
      NetlinkSocket.open(NETLINK_ROUTE, namespaceFd === undefined ? {} : { namespaceFd }),
    );
    const events = stack.use(monitor([RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR], { namespaceFd, signal }));
    const addresses = new LocalAddresses(socket, events, options);
    await addresses.#readAll();
    void addresses.#follow().catch(options.onError);
    stack.move();
    return addresses;
  }

  /** Each once. */
  ips(): ReadonlySet<Ip> {
    return new Set(this.#addresses.values());
  }

  /** Of all links but this one, and of this one. */
  split(index: number | undefined): { readonly elsewhere: ReadonlySet<Ip>; readonly there: ReadonlySet<Ip> } {
    const [elsewhere, there] = [new Set<Ip>(), new Set<Ip>()];
    for (const [key, ip] of this.#addresses) (key.startsWith(`${index} `) ? there : elsewhere).add(ip);
    return { elsewhere, there };
  }

  async #readAll(): Promise<void> {
    const payload = encodeAddressDump(AF_UNSPEC);
    const operation = 'RTM_GETADDR';
    const messages = await this.#socket.dump({ type: RTM_GETADDR, flags: 0, payload, operation });
    this.#addresses.clear();
    for (const message of messages) this.#put(decodeAddress(message.payload));
  }

  async #follow(): Promise<void> {
    for await (const event of this.#events) {
      const before = this.ips();
      if (event.kind === 'overrun') await this.#readAgain();
      else for (const message of event.messages) this.#apply(message);
      const after = this.ips();
      if (before.size !== after.size || before.union(after).size !== before.size) this.#options.onChange();
    }
  }

  async #readAgain(): Promise<void> {
    const { signal, onError } = this.#options;
    for (const backoff = new Backoff(); !signal.aborted; await backoff.wait(signal).catch(() => {})) {
      try {
        return await this.#readAll();
      } catch (error) {
        onError(error as Error);
      }
    }
  }

  #apply({ type, payload }: ReceivedMessage): void {
    if (type !== RTM_NEWADDR && type !== RTM_DELADDR) return;
    const address = decodeAddress(payload);
    if (type === RTM_NEWADDR) this.#put(address);
    else this.#addresses.delete(`${address.index} ${address.ip}`);
  }

  #put({ ip, index }: { readonly ip: Ip; readonly index: number }): void {
    this.#addresses.set(`${index} ${ip}`, ip);
  }

  [Symbol.dispose](): void {
    this.#events[Symbol.dispose]();
    this.#socket[Symbol.dispose]();
  }
}
