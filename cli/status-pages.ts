import type { IncomingMessage, ServerResponse } from 'node:http';
import { InputError } from '../core/errors.ts';
import type { ServiceProxy } from '../proxy/proxy.ts';
import { answerTrace, notReady, parseTraceQuery } from '../proxy/trace-request.ts';

/** What a status socket answers besides the status, by path. */
export type StatusPages = Readonly<Record<string, (query: URLSearchParams) => Promise<object>>>;

const BAD_REQUEST = 400;
const FAILED = 500;

/** False: there is no such page. Errors are answered as `{"error": "…"}`. */
export function answerPage(pages: StatusPages, request: IncomingMessage, response: ServerResponse): boolean {
  const { pathname, searchParams } = new URL(request.url ?? '/', 'http://socket');
  const page = pages[pathname];
  if (page === undefined) return false;
  const send = (code: number, answer: object) =>
    response.writeHead(code, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
  void (async () => await page(searchParams))().then(
    (answer) => send(200, answer),
    (error: Error) => send(error instanceof InputError ? BAD_REQUEST : FAILED, { error: error.message }),
  );
  return true;
}

/** The page that `fairlead trace` asks; `namespaceFd` as for `answerTrace`. */
export function tracePages(proxy: () => ServiceProxy | undefined, namespaceFd?: number): StatusPages {
  return {
    '/trace': async (query) => {
      const running = proxy();
      if (running === undefined) throw notReady();
      return await answerTrace(running, parseTraceQuery(query), namespaceFd);
    },
  };
}
