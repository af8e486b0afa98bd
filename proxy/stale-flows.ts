import type { Logger } from 'pino';
import { type Family, families } from '../core/address.ts';
import { deleteFlows, openConntrackSocket } from '../kernel/conntrack.ts';
import { openLane } from '../kernel/lane.ts';
import type { NetlinkSocket } from '../kernel/netlink/socket.ts';
import type { Views } from './backend.ts';
import type { NodeFacts } from './policy.ts';
import { planFlowFilters, StaleIndex, type Suspects } from './stale-index.ts';

/** The kernel refused to list or to forget flows: until then it is left alone. */
const RETRY_MS = 5_000;

export interface StaleFlowsOptions {
  /** The node's network namespace; else that of the process. Not kept. */
  readonly namespaceFd?: number | undefined;
  /**
   * Forget TCP flows to endpoints that are in no slice any more as well: the next packet of such a connection is
   * answered with a reset. Counts for ports whose view names `flowEndpoints`.
   */
  readonly resetTcp?: boolean | undefined;
  readonly log: Logger;
  /** Told of every look at the flows of one family, for metrics. */
  readonly onPass?: ((pass: { family: Family; ms: number; deleted: number }) => void) | undefined;
}

/** Forgets flows that go where the views, since they changed, say that none should. */
export class StaleFlows implements AsyncDisposable {
  readonly #index: StaleIndex;
  readonly #stack = new DisposableStack();
  readonly #socket: NetlinkSocket;
  readonly #options: StaleFlowsOptions;
  #running: Promise<void> | undefined;
  #retry: NodeJS.Timeout | undefined;
  /** Families whose flows were all looked at once: those of Services that went while no proxy ran are gone. */
  readonly #seen = new Set<Family>();
  #isFailing = false;
  #isStopped = false;
  #knowsAll = false;

  /** Throws KernelError where there is no conntrack. */
  constructor(options: StaleFlowsOptions) {
    this.#options = options;
    this.#index = new StaleIndex({ resetTcp: options.resetTcp ?? false });
    // A long list of flows must not hold up everything else.
    const lane = this.#stack.use(openLane());
    this.#socket = this.#stack.use(openConntrackSocket({ namespaceFd: options.namespaceFd, lane }));
  }

  /** Before the first `update`, and whenever the node's addresses change; as {@link update}. */
  updateNode(facts: NodeFacts): Promise<void> {
    this.#index.setNode(facts);
    return this.#clean();
  }

  /**
   * To be called when the kernel's rules do what these views say; the first time with all of them. Fulfilled when the
   * flows are forgotten, or that has failed: then it is logged and tried again. Need not be waited for.
   */
  update(changed: Views): Promise<void> {
    this.#index.update(changed);
    this.#knowsAll = true;
    return this.#clean();
  }

  #clean(): Promise<void> {
    if (!this.#isWanted()) return this.#running ?? Promise.resolve();
    this.#running ??= this.#run();
    return this.#running;
  }

  /** Ends in the same turn in which it finds that nothing is wanted any more: what comes later starts it anew. */
  async #run(): Promise<void> {
    try {
      while (this.#isWanted()) await this.#pass();
    } catch (error) {
      this.#failed(error as Error);
    } finally {
      this.#running = undefined;
    }
  }

  async #pass(): Promise<void> {
    const suspects = this.#index.take();
    try {
      for (const family of families) await this.#cleanFamily(family, suspects);
      this.#isFailing = false;
    } catch (error) {
      this.#index.giveBack(suspects);
      throw error;
    }
  }

  #isWanted(): boolean {
    if (this.#isStopped || !this.#knowsAll) return false;
    return this.#index.hasSuspects || this.#seen.size < families.length;
  }

  async #cleanFamily(family: Family, suspects: Suspects): Promise<void> {
    const isFirst = !this.#seen.has(family);
    const filters = [
      ...planFlowFilters(family, suspects),
      ...(isFirst ? this.#index.leftOverFilters(family) : []),
    ];
    if (filters.length === 0) return;
    const startMs = performance.now();
    const deleted = await deleteFlows(this.#socket, filters, (flow) => {
      return this.#index.isStale(flow, suspects) || (isFirst && this.#index.isLeftOver(flow));
    });
    this.#seen.add(family);
    const ms = performance.now() - startMs;
    this.#options.onPass?.({ family, ms, deleted: deleted.length });
    if (deleted.length > 0)
      this.#options.log.debug({ family, flows: deleted.length, ms }, 'stale flows forgotten');
  }

  #failed(error: Error): void {
    if (this.#isStopped) return;
    if (!this.#isFailing) this.#options.log.warn({ error: error.message }, 'stale flows cannot be forgotten');
    this.#isFailing = true;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => void this.#clean(), RETRY_MS).unref();
  }

  /** Lets what is under way come to its end. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#retry);
    this.#isStopped = true;
    await this.#running;
    this.#stack[Symbol.dispose]();
  }
}
