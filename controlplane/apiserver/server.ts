import http from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Logger } from 'pino';
import { ApiError } from '../../kube/errors.ts';
import type { Registry } from '../registry/registry.ts';
import type { TokenAccess } from './access.ts';
import { checkAcceptsJson, sendError, sendJson, sendText } from './answer.ts';
import { discoveryDocuments } from './discovery.ts';
import { Resources } from './resources.ts';
import { parseRoute } from './route.ts';

const MOST_CONNECTIONS = 8_192;
const HEADERS_TIMEOUT_MS = 10_000;
const REQUEST_TIMEOUT_MS = 60_000;
const KEEP_ALIVE_MS = 75_000;
/** An answer that the client does not take for this long is given up, with the memory that it holds. */
const SILENCE_MS = 60_000;
/** How long requests that have begun may go on when the server closes. */
const CLOSE_MS = 2_000;
const SWEEP_MS = 10;

/** Where to listen: an address, or a socket that listens already (in another network namespace, say). */
export type Listener = { readonly host: string; readonly port: number } | { readonly fd: number };

export interface ApiServerOptions {
  readonly registry: Registry;
  readonly access: TokenAccess;
  readonly log: Logger;
  readonly bookmarkIntervalMs: number;
}

/** HTTP over the registry. */
export class ApiServer implements AsyncDisposable {
  readonly #options: ApiServerOptions;
  readonly #resources: Resources;
  readonly #documents: ReadonlyMap<string, object>;
  readonly #servers: http.Server[] = [];
  readonly #closing = new AbortController();

  constructor(options: ApiServerOptions) {
    this.#options = options;
    this.#resources = new Resources({ ...options, signal: this.#closing.signal });
    this.#documents = discoveryDocuments(options.registry.kinds);
  }

  /** The URL under which this listener is reached. */
  async listen(listener: Listener): Promise<string> {
    const server = http.createServer((request, response) => void this.#serve(request, response));
    server.maxConnections = MOST_CONNECTIONS;
    server.headersTimeout = HEADERS_TIMEOUT_MS;
    server.requestTimeout = REQUEST_TIMEOUT_MS;
    server.keepAliveTimeout = KEEP_ALIVE_MS;
    server.timeout = SILENCE_MS;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once('error', reject);
    server.listen(listener, resolve);
    await promise;
    server.off('error', reject);
    server.on('error', (error) => this.#options.log.error({ error: error.message }, 'listener failed'));
    this.#servers.push(server);
    return urlOf(server.address());
  }

  async #serve(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    response.on('error', () => {});
    try {
      await this.#answer(request, response);
    } catch (error) {
      this.#refuse(request, response, error);
    }
  }

  async #answer(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'http://server');
    const path = url.pathname.length > 1 ? url.pathname.replace(/\/$/, '') : url.pathname;
    this.#options.access.check(request, path);
    if (['/healthz', '/livez', '/readyz'].includes(path)) return sendText(response, 200, 'ok');
    checkAcceptsJson(request);
    const document = this.#documents.get(path);
    if (document !== undefined && request.method === 'GET')
      return sendJson(response, 200, JSON.stringify(document));
    const route = parseRoute(path, this.#options.registry.kinds);
    if (route === undefined)
      throw new ApiError(404, 'NotFound', 'the server could not find the requested resource', {});
    await this.#resources.serve({ request, response, query: url.searchParams, route });
  }

  #refuse(request: http.IncomingMessage, response: http.ServerResponse, error: unknown): void {
    const isKnown = error instanceof ApiError;
    if (!isKnown && !request.destroyed) {
      this.#options.log.error({ method: request.method, url: request.url, err: error }, 'request failed');
    }
    if (response.headersSent) {
      response.destroy();
      return;
    }
    // What is left of a body that was refused is not worth reading.
    if (!request.complete) response.setHeader('connection', 'close');
    sendError(response, isKnown ? error : new ApiError(500, 'InternalError', 'Internal error occurred'));
  }

  /** Ends all watches with it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    const closed = this.#servers.map(
      (server) => new Promise<void>((resolve) => server.close(() => resolve())),
    );
    // A kept connection becomes idle when its last answer, a watch say, has ended.
    const sweep = setInterval(() => {
      for (const server of this.#servers) server.closeIdleConnections();
    }, SWEEP_MS);
    const cut = setTimeout(() => {
      for (const server of this.#servers) server.closeAllConnections();
    }, CLOSE_MS);
    await Promise.all(closed);
    clearInterval(sweep);
    clearTimeout(cut);
  }
}

function urlOf(address: AddressInfo | string | null): string {
  if (address === null || typeof address === 'string') return `unix:${address}`;
  const host = address.family === 'IPv6' ? `[${address.address}]` : address.address;
  return `http://${host}:${address.port}`;
}
