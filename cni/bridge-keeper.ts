import { setTimeout as sleep } from 'node:timers/promises';
import { monitor } from '../kernel/netlink/monitor.ts';
import { RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_LINK } from '../kernel/netlink/route/rtnetlink.ts';
import type { Bridges } from './bridges.ts';
import type { Log } from './log.ts';

/** Waits for more of the same before a repair. */
const settleMs = 50;
const retryMs = 1_000;
/** What nobody is told of (parameters) is looked at this often. */
const resyncMs = 60_000;
const watchAgainMs = 5_000;

export interface BridgeKeeperOptions {
  readonly bridges: Bridges;
  readonly log: Log;
  readonly namespaceFd?: number | undefined;
  /** A bridge was not as it must be, and is again: what lies on it may not be. */
  readonly onRepaired: () => Promise<void>;
}

/** Makes bridges again what they must be as soon as the kernel tells that they are not. */
export class BridgeKeeper {
  readonly #options: BridgeKeeperOptions;
  readonly #dirty = new Set<string>();
  #wake: (() => void) | undefined;
  readonly #troubles = new Map<string, string>();

  constructor(options: BridgeKeeperOptions) {
    this.#options = options;
  }

  /** What is wrong with bridges and could not be repaired. */
  trouble(): string | undefined {
    const [first] = this.#troubles.values();
    return first;
  }

  /** Until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([this.#listen(signal), this.#work(signal)]);
  }

  async #listen(signal: AbortSignal): Promise<void> {
    const groups = [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR];
    const { bridges, log, namespaceFd } = this.#options;
    while (!signal.aborted) {
      try {
        for await (const event of monitor(groups, { namespaceFd, signal })) {
          if (event.kind === 'overrun') this.#markAll();
          else for (const message of event.messages) this.#mark(bridges.concerned(message));
        }
      } catch (error) {
        log.error({ error: (error as Error).message }, 'bridges are not watched');
      }
      await pause(watchAgainMs, signal);
      this.#markAll();
    }
  }

  #mark(bridge: string | undefined): void {
    if (bridge === undefined) return;
    this.#dirty.add(bridge);
    this.#wake?.();
  }

  #markAll(): void {
    for (const bridge of this.#options.bridges.names()) this.#mark(bridge);
  }

  async #work(signal: AbortSignal): Promise<void> {
    signal.addEventListener('abort', () => this.#wake?.(), { once: true });
    while (!signal.aborted) {
      if (this.#dirty.size === 0 && !(await this.#rest())) this.#markAll();
      await pause(settleMs, signal);
      const dirty = [...this.#dirty];
      this.#dirty.clear();
      let isDone = true;
      for (const bridge of dirty) if (!signal.aborted) isDone = (await this.#repair(bridge)) && isDone;
      if (!isDone) await pause(retryMs, signal);
    }
  }

  /** False when nothing happened for a long time. */
  #rest(): Promise<boolean> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), resyncMs);
      this.#wake = () => {
        clearTimeout(timer);
        this.#wake = undefined;
        resolve(true);
      };
    });
  }

  async #repair(bridge: string): Promise<boolean> {
    const { bridges, log, onRepaired } = this.#options;
    try {
      const writes = await bridges.repair(bridge);
      if (writes > 0) {
        log.warn({ bridge, writes }, 'bridge repaired');
        await onRepaired();
      }
      this.#troubles.delete(bridge);
      return true;
    } catch (error) {
      const { message } = error as Error;
      if (message !== this.#troubles.get(bridge))
        log.error({ bridge, error: message }, 'bridge not repaired');
      this.#troubles.set(bridge, message);
      this.#dirty.add(bridge);
      return false;
    }
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => {});
}
