import type { Cidr } from '../../core/address.ts';
import { type MonitorEvent, monitor } from '../../kernel/netlink/monitor.ts';
import { decodeRoute } from '../../kernel/netlink/route/route.ts';
import {
  RTM_DELNEIGH,
  RTM_DELROUTE,
  RTM_NEWNEIGH,
  RTM_NEWROUTE,
  RTNLGRP_IPV4_ROUTE,
  RTNLGRP_NEIGH,
} from '../../kernel/netlink/route/rtnetlink.ts';
import { openNamespace } from '../../kernel/netns.ts';

/** One notification of the kernel. */
export interface Written {
  readonly atNs: bigint;
  readonly type: 'route' | 'no route' | 'neighbor' | 'no neighbor';
  readonly destination?: Cidr;
}

const types = new Map([
  [RTM_NEWROUTE, 'route'],
  [RTM_DELROUTE, 'no route'],
  [RTM_NEWNEIGH, 'neighbor'],
  [RTM_DELNEIGH, 'no neighbor'],
] as const);

/** What is written to routes, neighbours and forwarding entries of a namespace, as it happens. */
export class KernelWatch implements Disposable {
  readonly written: Written[] = [];
  readonly #stop = new AbortController();
  #news = Promise.withResolvers<void>();

  constructor(namespace: string) {
    using opened = openNamespace(`/run/netns/${namespace}`);
    const groups = [RTNLGRP_NEIGH, RTNLGRP_IPV4_ROUTE];
    const events = monitor(groups, { namespaceFd: opened.fd, signal: this.#stop.signal });
    void this.#follow(events);
  }

  async #follow(events: AsyncIterable<MonitorEvent>): Promise<void> {
    for await (const event of events) {
      const atNs = process.hrtime.bigint();
      for (const { type, payload } of event.kind === 'messages' ? event.messages : []) {
        const known = types.get(type as typeof RTM_NEWROUTE);
        if (known === undefined) continue;
        const isRoute = known === 'route' || known === 'no route';
        this.written.push({
          atNs,
          type: known,
          ...(isRoute ? { destination: decodeRoute(payload).destination } : {}),
        });
      }
      this.#news.resolve();
    }
  }

  /** Forgets what was written, and waits until so much is that the condition holds. */
  async until(holds: (written: readonly Written[]) => boolean, timeoutMs = 30_000): Promise<void> {
    const deadlineMs = performance.now() + timeoutMs;
    while (!holds(this.written)) {
      if (performance.now() > deadlineMs) throw new Error(`not in the kernel within ${timeoutMs} ms`);
      this.#news = Promise.withResolvers();
      const timer = setTimeout(this.#news.resolve, 100);
      await this.#news.promise;
      clearTimeout(timer);
    }
  }

  forget(): void {
    this.written.length = 0;
  }

  [Symbol.dispose](): void {
    this.#stop.abort();
  }
}
