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
  /** The question to the store that is on its way. */
  #acquisition: Promise<void> | undefined;

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
    return sameLease(narrowLease(seen, leaseFamilies(own)), own);
  }

  /** Asks the store, unless it is being asked; `purpose` is for {@link OwnLeaseOptions.onGranted}. */
  acquire(attributes: LeaseAttributes, purpose: For): void {
    this.#acquisition ??= this.#acquire(attributes, purpose).finally(() => {
      this.#acquisition = undefined;
    });
  }

  async #acquire(attributes: LeaseAttributes, purpose: For): Promise<void> {
    const { store, signal, onGranted, onProblem } = this.#options;
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
