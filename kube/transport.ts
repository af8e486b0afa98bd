import http from 'node:http';
import https from 'node:https';
import type { KubeConfig } from './config.ts';
import { errorOfStatus } from './errors.ts';
import { linesOf } from './lines.ts';

const REQUEST_TIMEOUT_MS = 30_000;
/** Largest answer that is read whole; lists come in pages well below it. */
const MAX_ANSWER_BYTES = 256 << 20;
/** After this long without traffic the kernel asks whether the other side of a connection still lives. */
const TCP_KEEPALIVE_MS = 10_000;
const USER_AGENT = 'fairlead';

interface Ask {
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>>;
  readonly body?: object | undefined;
  readonly contentType?: string;
  readonly signal?: AbortSignal | undefined;
  readonly inactivityTimeoutMs?: number | undefined;
}

/** HTTP to one API server over kept-alive connections. */
export class Transport implements Disposable {
  readonly #config: KubeConfig;
  readonly #base: URL;
  readonly #agent: http.Agent;

  constructor(config: KubeConfig) {
    this.#config = config;
    this.#base = new URL(config.server);
    const secure = this.#base.protocol === 'https:';
    if (!secure && this.#base.protocol !== 'http:')
      throw new TypeError(`server: ${config.server}: not http(s)`);
    const options = { keepAlive: true, keepAliveMsecs: TCP_KEEPALIVE_MS };
    this.#agent = secure ? new https.Agent({ ...options, ...tlsOptions(config) }) : new http.Agent(options);
  }

  /** One request and its whole JSON answer. Throws ApiError when refused. */
  async json<T>(method: string, path: string, ask: Ask = {}): Promise<T> {
    const signal = anySignal(ask.signal, AbortSignal.timeout(REQUEST_TIMEOUT_MS));
    const answer = await this.#open(method, path, ask, signal);
    const text = await readAll(answer);
    if (!isSuccess(answer)) throw refusal(answer, text);
    return JSON.parse(text) as T;
  }

  /** The lines of a streamed answer as they come. Ends when the server ends it; silence for too long throws. */
  async *lines(path: string, ask: Ask): AsyncGenerator<string, void> {
    using silence = new Silence(ask.inactivityTimeoutMs);
    let answer: http.IncomingMessage | undefined;
    try {
      answer = await this.#open('GET', path, ask, anySignal(ask.signal, silence.signal));
      silence.heard();
      if (!isSuccess(answer)) throw refusal(answer, await readAll(answer));
      for await (const line of linesOf(answer, () => silence.heard())) yield line;
    } catch (error) {
      ask.signal?.throwIfAborted();
      silence.signal.throwIfAborted();
      throw error;
    } finally {
      answer?.destroy();
    }
  }

  async #open(method: string, path: string, ask: Ask, signal: AbortSignal | undefined) {
    const authorization = (await this.#config.authorization?.()) ?? bearer(this.#config.token);
    const body = ask.body === undefined ? undefined : Buffer.from(JSON.stringify(ask.body));
    const options: https.RequestOptions = {
      method,
      agent: this.#agent,
      signal,
      headers: {
        accept: 'application/json',
        'user-agent': USER_AGENT,
        ...(authorization === undefined ? {} : { authorization }),
        ...(body === undefined
          ? {}
          : { 'content-type': ask.contentType ?? 'application/json', 'content-length': body.length }),
      },
    };
    return await this.#send(this.#url(path, ask.query), options, body);
  }

  async #send(
    url: URL,
    options: https.RequestOptions,
    body: Buffer | undefined,
  ): Promise<http.IncomingMessage> {
    const { promise, resolve, reject } = Promise.withResolvers<http.IncomingMessage>();
    const request = (url.protocol === 'https:' ? https : http).request(url, options);
    request.on('response', resolve);
    request.on('error', (error: NodeJS.ErrnoException) => {
      // The server may close an idle connection in the moment in which we use it again; a read may go again.
      if (request.reusedSocket && options.method === 'GET' && error.code === 'ECONNRESET') {
        this.#send(url, options, body).then(resolve, reject);
      } else reject(error);
    });
    request.end(body);
    return await promise;
  }

  #url(path: string, query: Ask['query'] = {}): URL {
    const url = new URL(this.#base);
    url.pathname = `${url.pathname.replace(/\/$/, '')}${path}`;
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) url.searchParams.set(name, String(value));
    }
    return url;
  }

  [Symbol.dispose](): void {
    this.#agent.destroy();
  }
}

/** Aborts its signal when nothing was heard for `timeoutMs`; the beginning of an answer is not waited for as long. */
class Silence implements Disposable {
  readonly #controller = new AbortController();
  readonly #timeoutMs: number;
  #timer: NodeJS.Timeout | undefined;
  #isBegun = false;

  constructor(timeoutMs = Number.POSITIVE_INFINITY) {
    this.#timeoutMs = timeoutMs;
    this.#wait(Math.min(timeoutMs, REQUEST_TIMEOUT_MS));
  }

  #wait(timeoutMs: number): void {
    if (!Number.isFinite(timeoutMs)) return;
    const error = new Error(`nothing came for ${timeoutMs} ms`);
    this.#timer = setTimeout(() => this.#controller.abort(error), timeoutMs);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  heard(): void {
    if (this.#isBegun) {
      this.#timer?.refresh();
      return;
    }
    this.#isBegun = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#wait(this.#timeoutMs);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

function tlsOptions(config: KubeConfig): https.AgentOptions {
  return {
    ca: config.ca,
    cert: config.cert,
    key: config.key,
    servername: config.serverName,
    rejectUnauthorized: config.insecureSkipTlsVerify !== true,
  };
}

function bearer(token: string | undefined): string | undefined {
  return token === undefined ? undefined : `Bearer ${token}`;
}

function anySignal(...signals: (AbortSignal | undefined)[]): AbortSignal {
  return AbortSignal.any(signals.filter((signal) => signal !== undefined));
}

function isSuccess(answer: http.IncomingMessage): boolean {
  return answer.statusCode !== undefined && answer.statusCode >= 200 && answer.statusCode < 300;
}

function refusal(answer: http.IncomingMessage, text: string): Error {
  const seconds = Number(answer.headers['retry-after']);
  return errorOfStatus(
    parsedOrEmpty(text),
    answer.statusCode,
    Number.isFinite(seconds) ? seconds : undefined,
  );
}

function parsedOrEmpty(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return { message: text.slice(0, 200) };
  }
}

async function readAll(answer: http.IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MAX_ANSWER_BYTES) throw new Error(`the answer is larger than ${MAX_ANSWER_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}
