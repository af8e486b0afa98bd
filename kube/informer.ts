import { setTimeout as sleep } from 'node:timers/promises';
import { Backoff } from './backoff.ts';
import { ApiError } from './errors.ts';
import { type KubeObject, type ListWatcher, objectKey, type Resource } from './types.ts';

/**
 * Lists come in pages from the newest state, where client-go asks for all at once with resourceVersion "0". Ten thousand
 * Services' slices at once are some 40 MB of JSON, which hold up everything while they are parsed, and are there twice; in
 * pages they are in the store as they come. And state from a cache may be older than what the one before us acted on.
 * The price is reads of etcd at each start, with servers that cannot serve pages out of their cache.
 */
const PAGE_SIZE = 500;
/**
 * The server is asked to end each watch after a random time between this and twice as long, as client-go does it: watches
 * of thousands of nodes do not end at one moment.
 */
const WATCH_SECONDS_LEAST = 300;
/**
 * kube-apiserver's bookmarks come once a minute: where they come, silence of this length means that the connection is dead.
 * A peer that has gone altogether is found by TCP's keepalive, in twenty seconds; this is for those that hang, or stand
 * before somebody who has gone.
 */
const SILENCE_MS = 150_000;
/** Without bookmarks the end of the watch, which is asked for, is the next that must come. */
const END_GRACE_MS = 15_000;
/** How often a server that does not have a kind is asked whether it has it now. */
const ABSENT_KIND_INTERVAL_MS = 5 * 60_000;
/** A watch that ended sooner than this counts as a failed one, so that its repetition is slowed down. */
const SHORT_WATCH_MS = 1_000;

export interface InformerOptions<T = KubeObject> {
  readonly client: ListWatcher;
  readonly resource: Resource;
  readonly namespace?: string;
  readonly labelSelector?: string;
  readonly fieldSelector?: string;
  /** Ends everything: no connection and no timer stays. */
  readonly signal: AbortSignal;
  /** Says which object is not as it was; only mark it dirty here, the loop owns the work. */
  readonly onChange: (key: string) => void;
  /** Each time the server cannot be reached or refuses; the informer goes on trying by itself. */
  readonly onError?: (error: Error) => void;
  /** What of an object to keep; metadata's name, namespace and resourceVersion must stay. Default: all of it. */
  readonly trim?: ((object: T) => T) | undefined;
  /** Some servers do not have this kind: the same to us as one without objects. */
  readonly isOptional?: boolean;
  /** How long one watch lasts; default: 5 to 10 minutes. */
  readonly watchSeconds?: number;
  /** Silence that means a dead connection; default: by what the server has sent so far. */
  readonly inactivityTimeoutMs?: number;
}

/**
 * A copy of all objects of a kind, kept current: list in pages, watch from there, resume from the last
 * resourceVersion, list again when that one has expired. What vanished between is found and reported. Each page is
 * in the store, and its objects reported, before the next is asked for.
 */
export class Informer<T extends KubeObject> {
  /** By {@link objectKey}. The objects are never changed in place. */
  readonly store: ReadonlyMap<string, T>;
  /** Fulfilled when the store holds a whole list for the first time; rejected when aborted before. */
  readonly synced: Promise<void>;
  /** Fulfilled when, after the abort, nothing runs any more. */
  readonly closed: Promise<void>;

  readonly #options: InformerOptions<T>;
  readonly #objects = new Map<string, T>();
  readonly #backoff = new Backoff();
  #resourceVersion: string | undefined;
  /** The server sends bookmarks of this kind. A kind of which nothing changes has none for some servers. */
  #hasBookmarks = false;

  constructor(options: InformerOptions<T>) {
    this.#options = options;
    this.store = this.#objects;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.synced = promise;
    this.synced.catch(() => {});
    this.closed = this.#run(resolve).then(() => reject(options.signal.reason));
  }

  async #run(synced: () => void): Promise<void> {
    const { signal } = this.#options;
    while (!signal.aborted) {
      try {
        if (this.#resourceVersion === undefined) {
          await this.#relist();
          synced();
        }
        await this.#watch();
      } catch (error) {
        if (signal.aborted) return;
        if (this.#options.isOptional && isUnknownKind(error)) {
          this.#dropOthers(new Set());
          this.#resourceVersion = undefined;
          synced();
          await sleep(ABSENT_KIND_INTERVAL_MS, undefined, { signal }).catch(() => {});
        } else await this.#failed(error as Error);
      }
    }
  }

  /** The resourceVersion that cannot be watched from is forgotten, so that the next round lists. */
  async #failed(error: Error): Promise<void> {
    if (isUnknownVersion(error)) this.#resourceVersion = undefined;
    else this.#options.onError?.(error);
    const atLeastMs = error instanceof ApiError ? error.retryAfterMs : 0;
    await this.#backoff.wait(this.#options.signal, atLeastMs).catch(() => {});
  }

  async #relist(): Promise<void> {
    const listed = new Set<string>();
    let resourceVersion: string | undefined;
    let next: string | undefined;
    do {
      const page = await this.#page(next);
      for (const object of page.items) {
        const key = objectKey(object);
        listed.add(key);
        this.#put(key, this.#trim(object));
      }
      resourceVersion = page.metadata.resourceVersion;
      next = page.metadata.continue;
    } while (next !== undefined && next !== '');
    this.#dropOthers(listed);
    this.#resourceVersion = resourceVersion;
  }

  async #page(next: string | undefined) {
    const { client, resource, namespace, labelSelector, fieldSelector, signal } = this.#options;
    const query = { namespace, labelSelector, fieldSelector, limit: PAGE_SIZE, continue: next };
    return await client.list<T>(resource, { ...query, signal });
  }

  #dropOthers(listed: ReadonlySet<string>): void {
    const gone = [...this.#objects.keys()].filter((key) => !listed.has(key));
    for (const key of gone) this.#drop(key);
  }

  async #watch(): Promise<void> {
    const { client, resource, namespace, labelSelector, fieldSelector, signal } = this.#options;
    const startedMs = performance.now();
    const timeoutSeconds =
      this.#options.watchSeconds ?? Math.round(WATCH_SECONDS_LEAST * (1 + Math.random()));
    const silenceMs = this.#hasBookmarks ? SILENCE_MS : timeoutSeconds * 1000 + END_GRACE_MS;
    // They may come no more, from another server behind the same address: the next watch finds out.
    this.#hasBookmarks = false;
    const events = client.watch<T>(resource, {
      namespace,
      labelSelector,
      fieldSelector,
      resourceVersion: this.#resourceVersion,
      signal,
      allowWatchBookmarks: true,
      timeoutSeconds,
      inactivityTimeoutMs: this.#options.inactivityTimeoutMs ?? silenceMs,
    });
    for await (const event of events) {
      if (event.type === 'BOOKMARK') this.#hasBookmarks = true;
      if (event.type === 'DELETED') this.#drop(objectKey(event.object));
      else if (event.type !== 'BOOKMARK') this.#put(objectKey(event.object), this.#trim(event.object));
      this.#resourceVersion = event.object.metadata?.resourceVersion ?? this.#resourceVersion;
      this.#backoff.reset();
    }
    if (performance.now() - startedMs < SHORT_WATCH_MS) await this.#backoff.wait(signal);
  }

  #trim(object: T): T {
    return this.#options.trim?.(object) ?? object;
  }

  #put(key: string, object: T): void {
    const known = this.#objects.get(key)?.metadata;
    if (known?.resourceVersion !== undefined && known.resourceVersion === object.metadata?.resourceVersion)
      return;
    this.#objects.set(key, object);
    this.#options.onChange(key);
  }

  #drop(key: string): void {
    if (this.#objects.delete(key)) this.#options.onChange(key);
  }
}

function isUnknownKind(error: unknown): boolean {
  return error instanceof ApiError && error.status === 404;
}

/** Too old (compacted), or newer than anything there (the server's data was put back to an earlier state). */
function isUnknownVersion(error: Error): boolean {
  if (!(error instanceof ApiError)) return false;
  return error.status === 410 || error.causes.some((cause) => cause.reason === 'ResourceVersionTooLarge');
}
