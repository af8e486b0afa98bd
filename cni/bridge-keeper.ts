import { setTimeout as sleep } from 'node:timers/promises';
import type { SeenBridge } from './bridge.ts';
import type { Bridges } from './bridges.ts';
import type { Log } from './log.ts';

/**
 * How often each bridge is looked at. Notifications would come for every link of every pod as well: 50 µs of each ADD,
 * and a seventh of its processor time.
 */
const pollMs = 400;
/** After a repair that failed. */
const retryMs = 1_000;
/** What two short questions do not tell (parameters) is looked at this often. */
const resyncMs = 60_000;

export interface BridgeKeeperOptions {
  readonly bridges: Bridges;
  /** How the bridge stands. */
  readonly look: (bridge: string) => Promise<SeenBridge>;
  readonly log: Log;
  /** A bridge was not as it must be, and is again: what lies on it may not be. */
  readonly onRepaired: () => Promise<void>;
}

/** Makes bridges again what they must be, soon after somebody did something to them. */
export class BridgeKeeper {
  readonly #options: BridgeKeeperOptions;
  readonly #troubles = new Map<string, string>();
  #resyncAtMs = 0;

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
    this.#resyncAtMs = performance.now() + resyncMs;
    while (!signal.aborted) {
      await pause(this.#troubles.size === 0 ? pollMs : retryMs, signal);
      const isResync = performance.now() >= this.#resyncAtMs;
      if (isResync) this.#resyncAtMs = performance.now() + resyncMs;
      for (const bridge of [...this.#options.bridges.names()]) {
        if (!signal.aborted && (isResync || (await this.#isUnsound(bridge)))) await this.#repair(bridge);
      }
    }
  }

  async #isUnsound(bridge: string): Promise<boolean> {
    const { bridges, look } = this.#options;
    try {
      return bridges.isSound(bridge, await look(bridge)) === false;
    } catch {
      // The repair says what is the matter.
      return true;
    }
  }

  async #repair(bridge: string): Promise<void> {
    const { bridges, log, onRepaired } = this.#options;
    try {
      const writes = await bridges.repair(bridge);
      if (writes > 0) {
        log.warn({ bridge, writes }, 'bridge repaired');
        await onRepaired();
      }
      this.#troubles.delete(bridge);
    } catch (error) {
      const { message } = error as Error;
      if (message !== this.#troubles.get(bridge))
        log.error({ bridge, error: message }, 'bridge not repaired');
      this.#troubles.set(bridge, message);
    }
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => {});
}
