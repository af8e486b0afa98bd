import { once } from 'node:events';
import http, { type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { type HostPort, renderHostPort } from '../config/addresses.ts';

/** Probes are few; what holds more connections than this open is no probe. */
const CONNECTIONS_MAX = 512;
/** A client that does not finish its question, or does not take its answer. */
const REQUEST_TIMEOUT_MS = 10_000;
const BIND_RETRY_MS = 5_000;

export interface Question {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
}

export interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export type Handler = (question: Question) => Answer | Promise<Answer>;

export function textAnswer(body: string, status = 200): Answer {
  return { status, type: 'text/plain; charset=utf-8', body };
}

export function jsonAnswer(value: unknown, status = 200, indent?: string): Answer {
  return { status, type: 'application/json', body: JSON.stringify(value, undefined, indent) };
}

/** Answers by path; others are not found. */
export function routesOf(routes: Readonly<Record<string, Handler>>): Handler {
  return (question) => {
    const handler = Object.hasOwn(routes, question.path) ? routes[question.path] : undefined;
    return handler?.(question) ?? textAnswer('404 page not found\n', 404);
  };
}

/** One server that listens. */
export interface Listening extends AsyncDisposable {
  /** As chosen by the kernel for port 0. */
  readonly port: number;
}

/** Listens in the process's network namespace. Rejects with Node's error when it cannot. */
export async function listenHttp(
  { host, port, ipv6Only = false }: HostPort & { readonly ipv6Only?: boolean },
  handler: Handler,
): Promise<Listening> {
  const server = http.createServer({ requestTimeout: REQUEST_TIMEOUT_MS }, async (request, response) => {
    request.resume();
    const path = request.url?.replace(/[?#].*$/s, '') ?? '/';
    const answer = await answerOf(handler, { path, headers: request.headers });
    response.writeHead(answer.status, {
      'Content-Type': answer.type,
      'X-Content-Type-Options': 'nosniff',
      'Content-Length': Buffer.byteLength(answer.body),
      ...answer.headers,
    });
    response.end(request.method === 'HEAD' ? undefined : answer.body);
  });
  server.maxConnections = CONNECTIONS_MAX;
  server.on('clientError', (_, socket) => socket.destroy());
  server.listen({ host, port, ipv6Only });
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    [Symbol.asyncDispose]: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function answerOf(handler: Handler, question: Question): Promise<Answer> {
  try {
    return await handler(question);
  } catch (error) {
    return textAnswer(`${(error as Error).message}\n`, 500);
  }
}

export interface HttpServiceOptions {
  /** For the log: "healthz". */
  readonly name: string;
  readonly at: HostPort;
  readonly handler: Handler;
  /** A failure to listen is told to `onFatal` and not tried again. */
  readonly isFatal: boolean;
  readonly onFatal: (error: Error) => void;
  readonly log: Logger;
  readonly retryMs?: number;
}

/** A server that listens as soon as it can, and until disposed. */
export class HttpService implements AsyncDisposable {
  readonly #stop = new AbortController();
  readonly #ended: Promise<void>;
  #listening: Listening | undefined;

  constructor(options: HttpServiceOptions) {
    this.#ended = this.#run(options);
  }

  /** Undefined: it does not listen. */
  get port(): number | undefined {
    return this.#listening?.port;
  }

  async #run({ name, at, handler, isFatal, onFatal, log, retryMs = BIND_RETRY_MS }: HttpServiceOptions) {
    const { signal } = this.#stop;
    const where = { server: name, address: renderHostPort(at) };
    for (let isFirst = true; !signal.aborted && this.#listening === undefined; isFirst = false) {
      try {
        this.#listening = await listenHttp(at, handler);
        log.info(where, 'listening');
      } catch (error) {
        const { message } = error as Error;
        if (isFatal) return onFatal(new Error(`${name}: cannot listen on ${where.address}: ${message}`));
        if (isFirst) log.error({ ...where, error: message }, 'cannot listen, trying again');
        await sleep(retryMs, undefined, { signal }).catch(() => {});
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#ended;
    await this.#listening?.[Symbol.asyncDispose]();
    this.#listening = undefined;
  }
}
