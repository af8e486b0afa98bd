import type { StorageEvent, StorageWatch } from '../storage/storage.ts';
import { asApiError } from './failures.ts';
import type { Matcher } from './selectors.ts';
import { Stored } from './stored.ts';

export interface RegistryEvent {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED';
  readonly stored: Stored;
}

export interface RegistryBatch {
  readonly events: readonly RegistryEvent[];
  /** Everything up to here has been delivered. */
  readonly revision: number;
  /** True for the one batch that holds the state before the first change. */
  readonly isInitial?: boolean;
}

/** Changes of one kind as a client sees them through its selectors. */
export class RegistryWatch implements AsyncIterable<RegistryBatch>, Disposable {
  readonly #watch: StorageWatch;
  readonly #matches: Matcher;
  readonly #initial: RegistryBatch | undefined;

  constructor(watch: StorageWatch, matches: Matcher, initial: RegistryBatch | undefined) {
    this.#watch = watch;
    this.#matches = matches;
    this.#initial = initial;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<RegistryBatch, void> {
    if (this.#initial !== undefined) yield this.#initial;
    try {
      for await (const { events, revision } of this.#watch) {
        const seen = events.flatMap((event) => eventFor(event, this.#matches) ?? []);
        // An empty batch from the storage is the answer to requestProgress.
        if (seen.length > 0 || events.length === 0) yield { events: seen, revision };
      }
    } catch (error) {
      throw asApiError(error);
    }
  }

  /** Asks for a batch that says how far this watch is. */
  requestProgress(): void {
    this.#watch.requestProgress();
  }

  [Symbol.dispose](): void {
    this.#watch[Symbol.dispose]();
  }
}

/** Live events are shared by all watches, so each is decoded once. */
const decoded = new WeakMap<
  StorageEvent,
  { readonly now: Stored | undefined; readonly before: Stored | undefined }
>();

function decode(event: StorageEvent) {
  const known = decoded.get(event);
  if (known !== undefined) return known;
  const { value, previous, revision } = event;
  const stored = {
    now: value === undefined ? undefined : new Stored(value, revision),
    // With the revision of this event: a client resumes from there after a DELETED.
    before: previous === undefined ? undefined : new Stored(previous.value, revision),
  };
  decoded.set(event, stored);
  return stored;
}

/** What begins to match is ADDED and what ceases to match is DELETED, whatever happened to it. */
function eventFor(event: StorageEvent, matches: Matcher): RegistryEvent | undefined {
  const { now, before } = decode(event);
  const was = before !== undefined && (matches === undefined || matches(before));
  if (now !== undefined && (matches === undefined || matches(now))) {
    return { type: was ? 'MODIFIED' : 'ADDED', stored: now };
  }
  return was ? { type: 'DELETED', stored: before } : undefined;
}
