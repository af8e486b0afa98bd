/**
 * What the API server needs of a database: keys with values, one revision counter over all keys, and the
 * history of changes up to a bound. Modelled on etcd, so that etcd itself can be an implementation.
 * Every implementation runs test/conformance/storage.ts.
 */
export interface Storage extends AsyncDisposable {
  /** The revision of the newest write; 1 in an empty database. */
  revision(): Promise<number>;
  get(key: string): Promise<Entry | undefined>;
  /** Entries whose key begins with `prefix`, in the order of keys. Throws StorageError "compacted", "future". */
  list(prefix: string, options?: ListRange): Promise<Page>;
  /** The revision of the write; undefined when the key is there already. */
  create(key: string, value: string): Promise<number | undefined>;
  /** undefined when the stored revision is not `expectedRevision`, or the key is gone. */
  update(key: string, value: string, expectedRevision: number): Promise<number | undefined>;
  delete(key: string, expectedRevision: number): Promise<number | undefined>;
  /**
   * Every change after `fromRevision`, in order, without gap or repetition. Throws StorageError "compacted"
   * when history does not reach back so far (also later, for a reader slower than the writers), "future"
   * when nothing is that new.
   */
  watch(prefix: string, fromRevision: number): StorageWatch;
  /** Forgets history up to and including `revision`; what is current stays. */
  compact(revision: number): Promise<void>;
}

export interface Entry {
  readonly key: string;
  readonly value: string;
  /** Of the write that made this value. */
  readonly revision: number;
}

export interface ListRange {
  /** At most so many entries. */
  readonly limit?: number;
  /** Only keys after this one. */
  readonly after?: string;
  /** The state as of this revision; the newest by default. */
  readonly revision?: number;
}

export interface Page {
  readonly entries: readonly Entry[];
  /** The state that was read. */
  readonly revision: number;
  /** How many more entries there are after these. */
  readonly remaining: number;
}

export interface StorageEvent {
  readonly key: string;
  readonly revision: number;
  /** undefined: the key was deleted by this write. */
  readonly value: string | undefined;
  /** What was there before; undefined: the key was created by this write. */
  readonly previous: Omit<Entry, 'key'> | undefined;
}

export interface WatchBatch {
  readonly events: readonly StorageEvent[];
  /** Everything up to here has been delivered. */
  readonly revision: number;
}

/** One reader. Disposing it ends its iteration. */
export interface StorageWatch extends AsyncIterable<WatchBatch>, Disposable {
  /** Asks for a batch that says how far this reader is, empty if need be. */
  requestProgress(): void;
}

export type StorageErrorCode = 'compacted' | 'future';

export class StorageError extends Error {
  override readonly name = 'StorageError';
  readonly code: StorageErrorCode;
  readonly asked: number;
  /** The oldest revision that can be asked for, or the newest one. */
  readonly bound: number;

  constructor(code: StorageErrorCode, asked: number, bound: number) {
    super(`revision ${asked}: ${code} (${bound})`);
    this.code = code;
    this.asked = asked;
    this.bound = bound;
  }
}
