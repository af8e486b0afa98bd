import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { ApiError } from '../../kube/errors.ts';
import type { Kind } from '../registry/kind.ts';
import { apiVersionOf } from '../registry/prepare.ts';
import type { RegistryBatch, RegistryWatch } from '../registry/watch.ts';
import { JSON_HEADERS, statusOf } from './answer.ts';

/** How many events are turned into one piece of text. */
const PIECE_EVENTS = 256;
/** A client that takes nothing for this long is let go; until then nothing more is read for it. */
const SLOW_CLIENT_MS = 30_000;
/** How long a watch lasts when the client does not say: 30 to 60 minutes, so that not all come back at once. */
const LEAST_DURATION_MS = 30 * 60_000;

export interface WatchStreamOptions {
  readonly kind: Kind;
  readonly bookmarks: boolean;
  /** The client asked for the state first and wants to be told where it ends. */
  readonly marksInitialEnd: boolean;
  readonly timeoutMs: number | undefined;
  readonly bookmarkIntervalMs: number;
  /** Ends the watch as if its time were over. */
  readonly signal: AbortSignal;
}

/** Sends a watch, one JSON object a line, until it ends, its time is over or the client has gone. */
export async function streamWatch(
  response: ServerResponse,
  watch: RegistryWatch,
  options: WatchStreamOptions,
): Promise<void> {
  response.writeHead(200, JSON_HEADERS);
  response.flushHeaders();
  // A watch may be silent; whether its client listens shows when there is something to say.
  response.setTimeout(0);
  let isOver = false;
  const durationMs = options.timeoutMs ?? LEAST_DURATION_MS * (1 + Math.random());
  const progress = setInterval(() => watch.requestProgress(), options.bookmarkIntervalMs);
  const end = setTimeout(() => {
    // A last bookmark, so that the client resumes from where all is seen.
    isOver = true;
    watch.requestProgress();
  }, durationMs);
  const stop = () => watch[Symbol.dispose]();
  response.once('close', stop);
  options.signal.addEventListener('abort', stop, { once: true });
  try {
    for await (const batch of watch) {
      await sendBatch(response, batch, options);
      if (isOver || response.destroyed) break;
    }
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    response.write(errorLine(error));
  } finally {
    options.signal.removeEventListener('abort', stop);
    clearInterval(progress);
    clearTimeout(end);
    stop();
    response.end();
  }
}

/** A version that is too old is told in the stream, as every watcher expects it. Other refusals are thrown on. */
export function refuseWatch(response: ServerResponse, error: unknown): void {
  if (!(error instanceof ApiError) || error.status !== 410) throw error;
  response.writeHead(200, JSON_HEADERS);
  response.end(errorLine(error));
}

function errorLine(error: ApiError): string {
  return `${JSON.stringify({ type: 'ERROR', object: statusOf(error) })}\n`;
}

async function sendBatch(
  response: ServerResponse,
  batch: RegistryBatch,
  options: WatchStreamOptions,
): Promise<void> {
  for (let start = 0; start < batch.events.length; start += PIECE_EVENTS) {
    const piece = batch.events.slice(start, start + PIECE_EVENTS);
    await send(
      response,
      piece.map(({ type, stored }) => `{"type":"${type}","object":${stored.json}}\n`).join(''),
    );
  }
  const isEnd = batch.isInitial === true && options.marksInitialEnd;
  const isProgress = batch.events.length === 0 && batch.isInitial !== true;
  if (options.bookmarks && (isEnd || isProgress))
    await send(response, bookmark(options.kind, batch.revision, isEnd));
}

function bookmark(kind: Kind, revision: number, isInitialEnd: boolean): string {
  const annotations = isInitialEnd ? { annotations: { 'k8s.io/initial-events-end': 'true' } } : {};
  const metadata = { resourceVersion: String(revision), ...annotations };
  const object = { kind: kind.kind, apiVersion: apiVersionOf(kind), metadata };
  return `${JSON.stringify({ type: 'BOOKMARK', object })}\n`;
}

/** Waits while the client is behind, and gives it up when it stays so. */
async function send(response: ServerResponse, text: string): Promise<void> {
  if (response.destroyed || response.write(text)) return;
  const signal = AbortSignal.timeout(SLOW_CLIENT_MS);
  const gone = new AbortController();
  const leave = () => gone.abort();
  response.once('close', leave);
  try {
    await once(response, 'drain', { signal: AbortSignal.any([signal, gone.signal]) });
  } catch {
    response.destroy();
  } finally {
    response.off('close', leave);
  }
}
