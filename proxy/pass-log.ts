import type { Views } from './backend.ts';
import type { ProxyObserver, ProxyPass, ProxyStatus, ViewChange } from './proxy.ts';
import type { Trigger } from './slice-index.ts';
import type { ServicePortView } from './view.ts';

type Counted = Omit<ProxyStatus, 'backend' | 'services' | 'endpoints'>;

const noPorts: readonly ServicePortView[] = [];

/** Keeps account of passes, and of what has not reached the kernel: it is in the next pass that succeeds. */
export class PassLog {
  /** The views that the kernel had last, of services that are not so any more. */
  readonly replaced = new Map<string, readonly ServicePortView[]>();
  /** Services that the pass under way is about. */
  underWay = 0;
  failures = 0;
  readonly #observers: readonly ProxyObserver[];
  #triggers: Trigger[] = [];
  /** Of changes that the pass under way does not know of. */
  #waitingSinceMs: number | undefined;
  /** Of changes that it is about. */
  #underWaySinceMs: number | undefined;
  /** What there is to do is known. Before, changes come in that nobody could be late with. */
  #isReady = false;
  #isSynced = false;
  #writes = 0;
  #passes = { full: 0, update: 0 };
  #lastSyncMs: number | undefined;
  #lastSyncedAtMs: number | undefined;
  #lastQueuedAtMs: number | undefined;
  #error: string | undefined;

  constructor(observers: readonly ProxyObserver[]) {
    this.#observers = observers;
  }

  /** From now on the kernel can be brought to what is known, and should be. */
  ready(): void {
    this.#isReady = true;
    this.waiting();
  }

  /** Something is not as the kernel has it. */
  waiting(): void {
    if (!this.#isReady) return;
    this.#lastQueuedAtMs = Date.now();
    this.#waitingSinceMs ??= this.#lastQueuedAtMs;
  }

  begin(triggers: readonly Trigger[]): void {
    for (const trigger of triggers) this.#triggers.push(trigger);
    this.#underWaySinceMs ??= this.#waitingSinceMs;
    this.#waitingSinceMs = undefined;
  }

  succeeded(done: Pick<ProxyPass, 'kind' | 'result' | 'durationMs' | 'facts'>, current: Views): void {
    this.#isSynced = true;
    this.#writes += done.result.writes;
    this.#passes[done.kind] += 1;
    this.#lastSyncMs = done.durationMs;
    this.#lastSyncedAtMs = Date.now();
    this.#underWaySinceMs = undefined;
    this.underWay = 0;
    this.failures = 0;
    this.#error = undefined;
    const triggers = this.#triggers;
    this.#triggers = [];
    const triggerTimesMs = triggers.map(({ atMs }) => atMs);
    const pass = { ...done, changed: this.#takeChanges(current), triggers, triggerTimesMs };
    for (const observer of this.#observers) observer.passed?.(pass);
  }

  #takeChanges(current: Views): ReadonlyMap<string, ViewChange> {
    const changes = new Map<string, ViewChange>();
    for (const [service, before] of this.replaced) {
      changes.set(service, { before, after: current.get(service) ?? noPorts });
    }
    this.replaced.clear();
    return changes;
  }

  /** Whatever it was about, also if it was to put right what others did, is still to be done. */
  failed(error: Error, kind: ProxyPass['kind'], writes: number): void {
    this.#underWaySinceMs ??= Date.now();
    this.#writes += writes;
    this.underWay = 0;
    this.failures += 1;
    this.#error = error.message;
    for (const observer of this.#observers) observer.failed?.(error, kind);
  }

  status(dirty: number): Counted {
    return {
      synced: this.#isSynced,
      dirty: dirty + this.underWay,
      writes: this.#writes,
      updates: this.#passes.update,
      fullSyncs: this.#passes.full,
      lastSyncMs: this.#lastSyncMs,
      lastSyncedAtMs: this.#lastSyncedAtMs,
      lastQueuedAtMs: this.#lastQueuedAtMs,
      waitingSinceMs: this.#underWaySinceMs ?? this.#waitingSinceMs,
      failures: this.failures,
      error: this.#error,
    };
  }
}
