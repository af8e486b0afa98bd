import { Backoff } from '../kube/backoff.ts';
import {
  type Lease,
  type LeaseAttributes,
  type LeaseStore,
  type LeaseView,
  leaseFamilies,
  narrowLease,
  sameAttributes,
  sameLease,
} from './lease.ts';

/** Between two times that the same is asked for. */
const firstWaitMs = 100;
const longestWaitMs = 10_000;

export interface OwnLeaseOptions<For> {
  readonly store: LeaseStore;
  readonly signal: AbortSignal;
  /** The subnets to ask for where there is no lease yet, and what they were announced with, where that is known. */
  readonly previous: () => Partial<Pick<Lease, 'subnets' | 'publicIps'>>;
  /** The store gave a lease that was asked for with this. */
  readonly onGranted: (purpose: For) => void;
  readonly onProblem: (problem: string | undefined) => void;
}

/**
 * This node's lease. It is asked for beside all other work, because a store may take long to answer, or not to answer;
 * until then it is as it was.
 */
export class OwnLease<For> {
  readonly #options: OwnLeaseOptions<For>;
  #lease: Lease | undefined;
  /** What the lease was acquired with; the store may have announced other addresses on an operator's wish. */
  #asked: LeaseAttributes | undefined;
  /** For which acquisition that was told; the store may have lost both since. */
  #announced: LeaseAttributes | undefined;
  /** The question to the store that is on its way, or is waited with. */
  #acquisition: Promise<void> | undefined;
  #wish: { readonly attributes: LeaseAttributes; readonly purpose: For } | undefined;
  /** A view that does not show what the store says it has given would make us ask without end. */
  readonly #backoff = new Backoff(firstWaitMs, longestWaitMs);
  #waiting: AbortController | undefined;

  constructor(options: OwnLeaseOptions<For>) {
    this.#options = options;
  }

  get lease(): Lease | undefined {
    return this.#lease;
  }

  get isBeingAcquired(): boolean {
    return this.#acquisition !== undefined;
  }

  /** Whether the store shows the lease as it was given to us, and we still want it so. */
  isHeld(attributes: LeaseAttributes, view: LeaseView | undefined): boolean {
    const own = this.#lease;
    const seen = own && view?.leases().get(own.key);
    const wanted = this.#asked !== undefined && sameAttributes(this.#asked, attributes);
    if (own === undefined || seen === undefined || !wanted) return false;
    if (!sameLease(narrowLease(seen, leaseFamilies(own)), own)) return false;
    this.#backoff.reset();
    this.#wish = undefined;
    this.#waiting?.abort();
    return true;
  }

  /**
   * Asks the store, unless it is being asked, and ever later where it gave us the same before; `purpose` is for
   * {@link OwnLeaseOptions.onGranted}.
   */
  acquire(attributes: LeaseAttributes, purpose: For): void {
    this.#wish = { attributes, purpose };
    if (!this.#wasGranted(attributes)) this.#waiting?.abort();
    this.#acquisition ??= this.#acquire().finally(() => {
      this.#acquisition = undefined;
    });
  }

  #wasGranted(attributes: LeaseAttributes): boolean {
    return this.#asked !== undefined && sameAttributes(this.#asked, attributes);
  }

  async #acquire(): Promise<void> {
    const { store, signal, onGranted, onProblem } = this.#options;
    if (this.#wish !== undefined && this.#wasGranted(this.#wish.attributes)) await this.#wait();
    if (this.#wish === undefined || signal.aborted) return;
    const { attributes, purpose } = this.#wish;
    const { subnets: previous, publicIps: announced } = this.#lease ?? this.#options.previous();
    try {
      this.#lease = await store.acquire(attributes, { signal, previous, announced });
      this.#asked = attributes;
      onProblem(undefined);
      onGranted(purpose);
    } catch (error) {
      if (signal.aborted) return;
      onProblem(`no lease: ${(error as Error).message}`);
    }
  }

  /** Until the time is over, or the lease is seen, or another one is wished for. */
  async #wait(): Promise<void> {
    this.#waiting = new AbortController();
    await this.#backoff.wait(AbortSignal.any([this.#options.signal, this.#waiting.signal])).catch(() => {});
    this.#waiting = undefined;
  }

  /** Tells the store once for each acquisition that pods here have a network. False: it knows. */
  async announceReady(): Promise<boolean> {
    const asked = this.#asked;
    if (this.#announced === asked) return false;
    await this.#options.store.announceReady?.(this.#options.signal);
    this.#announced = asked;
    return true;
  }

  /** Until no question is on its way. */
  async settled(): Promise<void> {
    await this.#acquisition;
  }
}
