import http from 'node:http';
import https from 'node:https';
import { linesOf } from '../kube/lines.ts';
import { StoreError } from './lease.ts';

const defaultRequestTimeoutMs = 5_000;
const tcpKeepaliveMs = 10_000;
/** etcd says something on an idle watch at least every ten minutes (progress_notify). */
const watchSilenceMs = 15 * 60_000;

export interface EtcdOptions {
  /** `http://127.0.0.1:2379`; tried in turn when one does not answer. */
  readonly endpoints: readonly string[];
  /** PEM texts. */
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly username?: string;
  readonly password?: string;
  /** After so long without an answer an endpoint is as one that cannot be reached. Default: 5 s. */
  readonly requestTimeoutMs?: number;
}

export interface EtcdEntry {
  readonly key: string;
  readonly value: string;
  readonly modRevision: number;
  readonly createRevision: number;
  /** The etcd lease that the key lives with; "0" for a key that stays. 64 bits, therefore text. */
  readonly etcdLease: string;
}

/** `watching`: the watch stands, at the store's present revision. `progress`: all up to here has been told. */
export type EtcdEvent =
  | { readonly kind: 'watching'; readonly revision: number }
  | { readonly kind: 'progress'; readonly revision: number }
  | { readonly kind: 'put'; readonly entry: EtcdEntry; readonly revision: number }
  | { readonly kind: 'delete'; readonly key: string; readonly revision: number };

/** The revision that a watch should begin at is compacted away: everything has to be read again. */
export class CompactedError extends Error {
  override readonly name = 'CompactedError';
}

/** Condition of a transaction: true when the key, or every key of the prefix, was last changed so. 0: is not there. */
export type EtcdCondition =
  | { readonly key: string; readonly modRevision: number }
  | { readonly prefix: string; readonly changedAtMost: number };

export type EtcdWrite =
  | { readonly put: string; readonly value: string; readonly etcdLease: string }
  | { readonly delete: string };

/**
 * etcd v3 through its JSON gateway: the gRPC API's messages as JSON over HTTP/1.1, byte strings in base64,
 * 64-bit numbers as text, absent for zero. Every failure is a {@link StoreError} that names the endpoint.
 */
export class EtcdClient implements Disposable {
  readonly #options: EtcdOptions;
  readonly #agents: { readonly http: http.Agent; readonly https: https.Agent };
  readonly #tls: Pick<EtcdOptions, 'ca' | 'cert' | 'key'>;
  #endpoint = 0;
  #token: string | undefined;

  constructor(options: EtcdOptions) {
    this.#options = options;
    const { ca, cert, key } = options;
    this.#tls = { ca, cert, key };
    const kept = { keepAlive: true, keepAliveMsecs: tcpKeepaliveMs };
    this.#agents = { http: new http.Agent(kept), https: new https.Agent(kept) };
  }

  /** All entries of a prefix, and the store's revision at that moment. */
  async range(prefix: string, signal: AbortSignal): Promise<{ entries: EtcdEntry[]; revision: number }> {
    const answer = await this.#ask('/kv/range', keyRange(prefix), signal);
    return { entries: (answer.kvs ?? []).map(entryOf), revision: revisionOf(answer) };
  }

  async get(key: string, signal: AbortSignal): Promise<string | undefined> {
    return (await this.entry(key, signal))?.value;
  }

  async entry(key: string, signal: AbortSignal): Promise<EtcdEntry | undefined> {
    const answer = await this.#ask('/kv/range', { key: encode(key) }, signal);
    return answer.kvs?.map(entryOf)[0];
  }

  /** How many entries a prefix has, and the store's revision at that moment. */
  async count(prefix: string, signal: AbortSignal): Promise<{ count: number; revision: number }> {
    const answer = await this.#ask('/kv/range', { ...keyRange(prefix), count_only: true }, signal);
    return { count: Number(answer.count ?? 0), revision: revisionOf(answer) };
  }

  /** The revision that an entry of the prefix was last changed at; 0 where there is none. The server reads them all. */
  async newest(prefix: string, signal: AbortSignal): Promise<number> {
    const order = { sort_target: 'MOD', sort_order: 'DESCEND', limit: '1', keys_only: true };
    const answer = await this.#ask('/kv/range', { ...keyRange(prefix), ...order }, signal);
    return Number(answer.kvs?.[0]?.mod_revision ?? 0);
  }

  /** Makes all writes if all conditions hold; false when one does not. */
  async transact(conditions: EtcdCondition[], writes: EtcdWrite[], signal: AbortSignal): Promise<boolean> {
    const body = { compare: conditions.map(compareOf), success: writes.map(requestOf) };
    return (await this.#ask('/kv/txn', body, signal)).succeeded === true;
  }

  /** A new etcd lease; returns its id. */
  async grant(ttlSeconds: number, signal: AbortSignal): Promise<string> {
    return (await this.#ask('/lease/grant', { TTL: String(ttlSeconds) }, signal)).ID ?? '0';
  }

  /** Gives an etcd lease its whole time again. Returns the seconds; 0 when it has run out. */
  async keepAlive(etcdLease: string, signal: AbortSignal): Promise<number> {
    const answer = await this.#ask('/lease/keepalive', { ID: etcdLease }, signal);
    return Number(answer.result?.TTL ?? 0);
  }

  /** Changes of a prefix from a revision on, in order. Throws CompactedError or StoreError; never just ends. */
  async *watch(prefix: string, fromRevision: number, signal: AbortSignal): AsyncGenerator<EtcdEvent, void> {
    const request = { ...keyRange(prefix), start_revision: String(fromRevision), progress_notify: true };
    const answer = await this.#try('/watch', { create_request: request }, signal, (stream) => stream);
    const timer = setTimeout(() => answer.destroy(new Error('silent for too long')), watchSilenceMs);
    try {
      for await (const line of linesOf(answer, () => timer.refresh())) yield* eventsOf(line);
      throw new Error('the server closed the connection');
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof CompactedError) throw error;
      this.#token = undefined; // etcd says "permission denied" to a watch with a token that it has forgotten
      throw new StoreError(`etcd watch: ${(error as Error).message}`);
    } finally {
      clearTimeout(timer);
      answer.destroy();
    }
  }

  async #ask(path: string, body: object, signal: AbortSignal): Promise<Answer> {
    return await this.#try(path, body, signal, async (answer) => JSON.parse(await readAll(answer)) as Answer);
  }

  /** Tries each endpoint once, beginning with the one that answered last. */
  async #try<T>(
    path: string,
    body: object,
    signal: AbortSignal,
    read: (answer: http.IncomingMessage) => T | Promise<T>,
  ): Promise<T> {
    const { endpoints, requestTimeoutMs = defaultRequestTimeoutMs } = this.#options;
    const failures: string[] = [];
    const first = this.#endpoint;
    for (let tried = 0; tried < endpoints.length; tried += 1) {
      const place = (first + tried) % endpoints.length;
      const endpoint = endpoints[place] ?? '';
      using deadline = new Deadline(requestTimeoutMs, signal);
      try {
        const answer = await this.#authorized(endpoint, path, body, deadline.signal);
        this.#endpoint = place;
        return await read(answer);
      } catch (error) {
        signal.throwIfAborted();
        if (deadline.expired) this.#closeIdle();
        failures.push(
          `${endpoint}: ${deadline.expired ? `no answer in ${requestTimeoutMs} ms` : textOf(error)}`,
        );
      }
    }
    throw new StoreError(`etcd ${path}: ${failures.join('; ')}`);
  }

  /** Logs in where a user name is given; once more when the token is no longer known. */
  async #authorized(
    endpoint: string,
    path: string,
    body: object,
    signal: AbortSignal,
  ): Promise<http.IncomingMessage> {
    if (this.#options.username === undefined) return await this.#post(endpoint, path, body, signal);
    if (this.#token === undefined) await this.#authenticate(endpoint, signal);
    try {
      return await this.#post(endpoint, path, body, signal);
    } catch (error) {
      if (!textOf(error).includes('invalid auth token')) throw error;
      await this.#authenticate(endpoint, signal);
      return await this.#post(endpoint, path, body, signal);
    }
  }

  async #authenticate(endpoint: string, signal: AbortSignal): Promise<void> {
    const { username, password } = this.#options;
    this.#token = undefined;
    const answer = await this.#post(endpoint, '/auth/authenticate', { name: username, password }, signal);
    this.#token = (JSON.parse(await readAll(answer)) as { token: string }).token;
  }

  async #post(
    endpoint: string,
    path: string,
    body: object,
    signal: AbortSignal,
  ): Promise<http.IncomingMessage> {
    const url = new URL(`${endpoint.replace(/\/$/, '')}/v3${path}`);
    const secure = url.protocol === 'https:';
    const { promise, resolve, reject } = Promise.withResolvers<http.IncomingMessage>();
    const request = (secure ? https : http).request(url, {
      method: 'POST',
      // A watch has a connection for itself.
      agent: path === '/watch' ? false : this.#agents[secure ? 'https' : 'http'],
      ...(secure ? this.#tls : {}),
      signal,
      headers: {
        'content-type': 'application/json',
        // A member that is cut off from the others refuses instead of answering with old state.
        'grpc-metadata-hasleader': 'true',
        ...(this.#token === undefined ? {} : { authorization: this.#token }),
      },
    });
    request.on('response', resolve);
    request.on('error', reject);
    request.end(JSON.stringify(body));
    const answer = await promise;
    answer.socket.setKeepAlive(true, tcpKeepaliveMs);
    if (answer.statusCode === 200) return answer;
    throw new Error(refusalOf(await readAll(answer), answer.statusCode));
  }

  /**
   * Connections from an address that this machine has no longer answer nothing, one as little as the other. Those that
   * an answer is awaited on are left: their requests have a deadline each.
   */
  #closeIdle(): void {
    for (const agent of Object.values(this.#agents)) {
      for (const socket of Object.values(agent.freeSockets).flat()) socket?.destroy();
    }
  }

  [Symbol.dispose](): void {
    for (const agent of Object.values(this.#agents)) agent.destroy();
  }
}

/** Aborts when the time is over or when the outer signal does. */
class Deadline implements Disposable {
  readonly #controller = new AbortController();
  readonly #timer: NodeJS.Timeout;
  readonly signal: AbortSignal;
  expired = false;

  constructor(timeoutMs: number, outer: AbortSignal) {
    this.signal = AbortSignal.any([outer, this.#controller.signal]);
    this.#timer = setTimeout(() => {
      this.expired = true;
      this.#controller.abort();
    }, timeoutMs);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

interface RawEntry {
  readonly key?: string;
  readonly value?: string;
  readonly mod_revision?: string;
  readonly create_revision?: string;
  readonly lease?: string;
}

interface Answer {
  readonly header?: { readonly revision?: string };
  readonly kvs?: readonly RawEntry[];
  readonly count?: string;
  readonly succeeded?: boolean;
  readonly ID?: string;
  readonly result?: { readonly TTL?: string };
}

interface WatchLine {
  readonly result?: {
    readonly header?: { readonly revision?: string };
    readonly created?: boolean;
    readonly canceled?: boolean;
    readonly cancel_reason?: string;
    readonly compact_revision?: string;
    readonly events?: readonly { readonly type?: string; readonly kv?: RawEntry }[];
  };
  readonly error?: { readonly message?: string };
}

function encode(text: string): string {
  return Buffer.from(text).toString('base64');
}

function decode(text: string | undefined): string {
  return Buffer.from(text ?? '', 'base64').toString();
}

/** Every key that begins with the prefix: up to the prefix with its last byte one higher. */
function keyRange(prefix: string): { key: string; range_end: string } {
  const end = Buffer.from(prefix);
  end[end.length - 1] = (end.at(-1) ?? 0) + 1;
  return { key: encode(prefix), range_end: end.toString('base64') };
}

function entryOf({ key, value, mod_revision, create_revision, lease }: RawEntry): EtcdEntry {
  return {
    key: decode(key),
    value: decode(value),
    modRevision: Number(mod_revision ?? 0),
    createRevision: Number(create_revision ?? 0),
    etcdLease: lease ?? '0',
  };
}

function* eventsOf(line: string): Generator<EtcdEvent, void> {
  const { result, error } = JSON.parse(line) as WatchLine;
  if (error) throw new Error(error.message);
  if (result?.compact_revision) throw new CompactedError(`compacted at ${result.compact_revision}`);
  if (result?.canceled) throw new Error(`canceled: ${result.cancel_reason ?? 'no reason given'}`);
  const revision = revisionOf(result);
  if (result?.created) yield { kind: 'watching', revision };
  else if (result?.events === undefined) yield { kind: 'progress', revision };
  for (const event of result?.events ?? []) yield eventOf(event);
}

/** The header's revision is the store's, which may be ahead of the event's. */
function eventOf({ type, kv = {} }: { type?: string; kv?: RawEntry }): EtcdEvent {
  const entry = entryOf(kv);
  if (type === 'DELETE') return { kind: 'delete', key: entry.key, revision: entry.modRevision };
  return { kind: 'put', entry, revision: entry.modRevision };
}

function compareOf(condition: EtcdCondition): object {
  if ('prefix' in condition) {
    const bound = String(condition.changedAtMost + 1);
    return { ...keyRange(condition.prefix), target: 'MOD', result: 'LESS', mod_revision: bound };
  }
  const { key, modRevision } = condition;
  return { key: encode(key), target: 'MOD', result: 'EQUAL', mod_revision: String(modRevision) };
}

function requestOf(write: EtcdWrite): object {
  if ('delete' in write) return { request_delete_range: { key: encode(write.delete) } };
  const { put, value, etcdLease } = write;
  return { request_put: { key: encode(put), value: encode(value), lease: etcdLease } };
}

function revisionOf(answer: { header?: { revision?: string } } | undefined): number {
  return Number(answer?.header?.revision ?? 0);
}

/** The gateway appends its trailers to the JSON text of an error. */
function refusalOf(text: string, status: number | undefined): string {
  return /"message":"((?:[^"\\]|\\.)*)"/.exec(text)?.[1] ?? `HTTP status ${status}`;
}

function textOf(error: unknown): string {
  const { message, code } = error as NodeJS.ErrnoException;
  return message || code || String(error); // an AggregateError of connect has no message
}

async function readAll(answer: http.IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of answer as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}
