import { once } from 'node:events';
import { mkdirSync, rmSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import type { ProxyReport } from './proxy-status.ts';
import { answerPage, type StatusPages } from './status-pages.ts';

/** What `fairlead node`, or `fairlead proxy` by itself, says of itself on its status socket. Times are ISO 8601. */
export interface NodeStatus {
  readonly name: string;
  readonly pid: number;
  readonly ready: boolean;
  readonly startedAt: string;
  /** Undefined: a proxy by itself. */
  readonly daemon?: object;
  /** Undefined: the node serves no Services. */
  readonly proxy?: ProxyReport;
}

/** Where they listen, in the runtime directory. */
export const statusSockets = { node: 'node.sock', proxy: 'proxy.sock' } as const;

const ASK_TIMEOUT_MS = 2000;

/** Serves the status as JSON on a unix socket that only root can open. */
export async function serveStatus(
  socketPath: string,
  status: () => NodeStatus,
  pages: StatusPages = {},
): Promise<AsyncDisposable> {
  mkdirSync(path.dirname(socketPath), { recursive: true, mode: 0o700 });
  rmSync(socketPath, { force: true });
  const server = http.createServer((request, response) => {
    if (answerPage(pages, request, response)) return;
    response.setHeader('content-type', 'application/json').end(JSON.stringify(status()));
  });
  const listening = once(server, 'listening');
  // The socket's file is made within the call, so nothing else is made with this mask.
  const umask = process.umask(0o177);
  server.listen(socketPath);
  process.umask(umask);
  await listening;
  return {
    [Symbol.asyncDispose]: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Asks a node's agent; undefined when none listens or it does not answer in time. */
export function askStatus(socketPath: string): Promise<NodeStatus | undefined> {
  return new Promise((resolve) => {
    const request = http.get({
      socketPath,
      path: '/',
      agent: false,
      signal: AbortSignal.timeout(ASK_TIMEOUT_MS),
    });
    request.on('error', () => resolve(undefined));
    request.on('response', async (response) => {
      let text = '';
      try {
        for await (const part of response.setEncoding('utf8')) text += part;
        resolve(JSON.parse(text) as NodeStatus);
      } catch {
        resolve(undefined); // it ended in the middle of its answer
      }
    });
  });
}
