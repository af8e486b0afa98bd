import { setImmediate as nextTurn } from 'node:timers/promises';
import type { StorageEvent, StorageWatch, WatchBatch } from './storage.ts';

/** Where a watch reads: everything is there, so a watch holds a position and no queue. */
export interface Log {
  revision(): number;
  /**
   * The next changes under `prefix` after `revision`, from a bounded piece of the log.
   * Throws StorageError "compacted".
   */
  read(prefix: string, revision: number): WatchBatch;
}

/** A reader of the log. A slow one costs no memory: it falls behind until its position is compacted. */
export class LogWatch implements StorageWatch {
  readonly #log: Log;
  readonly #prefix: string;
  readonly #onClose: (watch: LogWatch) => void;
  #position: number;
  #progressWanted = false;
  #closed = false;
  #resume: (() => void) | undefined;

  constructor(log: Log, prefix: string, fromRevision: number, onClose: (watch: LogWatch) => void) {
    this.#log = log;
    this.#prefix = prefix;
    this.#position = fromRevision;
    this.#onClose = onClose;
  }

  /** Told of every write. True when this watch waits for it and is to be woken. */
  wants(event: StorageEvent): boolean {
    if (this.#resume === undefined) return false;
    if (event.key.startsWith(this.#prefix)) return true;
    // Waiting means that everything before is delivered: only then may it step over what is not its own.
    if (this.#position === event.revision - 1) this.#position = event.revision;
    return false;
  }

  wake(): void {
    this.#resume?.();
    this.#resume = undefined;
  }

  requestProgress(): void {
    this.#progressWanted = true;
    this.wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<WatchBatch, void> {
    while (!this.#closed) {
      if (this.#position < this.#log.revision()) {
        const batch = this.#log.read(this.#prefix, this.#position);
        this.#position = batch.revision;
        if (batch.events.length > 0) yield batch;
        else await nextTurn();
      } else if (this.#progressWanted) {
        this.#progressWanted = false;
        yield { events: [], revision: this.#position };
      } else {
        const { promise, resolve } = Promise.withResolvers<void>();
        this.#resume = resolve;
        await promise;
      }
    }
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    this.wake();
    this.#onClose(this);
  }
}
