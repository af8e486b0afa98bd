import type { IncomingMessage, ServerResponse } from 'node:http';
import { ApiError } from '../../kube/errors.ts';

export const JSON_HEADERS = {
  'content-type': 'application/json',
  'cache-control': 'no-cache, private',
} as const;

export function sendJson(response: ServerResponse, code: number, text: string): void {
  const bytes = Buffer.from(`${text}\n`);
  response.writeHead(code, { ...JSON_HEADERS, 'content-length': bytes.length });
  response.end(bytes);
}

export function sendText(response: ServerResponse, code: number, text: string): void {
  response.writeHead(code, { 'content-type': 'text/plain; charset=utf-8' });
  response.end(text);
}

/** A refusal as metav1.Status. */
export function sendError(response: ServerResponse, error: ApiError): void {
  const seconds = error.details?.retryAfterSeconds;
  if (seconds !== undefined) response.setHeader('retry-after', String(seconds));
  sendJson(response, error.status, JSON.stringify(statusOf(error)));
}

export function statusOf(error: ApiError): object {
  return {
    kind: 'Status',
    apiVersion: 'v1',
    metadata: error.continue === undefined ? {} : { continue: error.continue },
    status: 'Failure',
    message: error.message,
    ...(error.reason === '' ? {} : { reason: error.reason }),
    ...(error.details === undefined ? {} : { details: error.details }),
    code: error.status,
  };
}

/** Whether plain JSON is among what the client takes. Throws ApiError 406. */
export function checkAcceptsJson(request: IncomingMessage): void {
  const accepted = (request.headers.accept ?? '*/*').split(',').map((range) => range.trim().toLowerCase());
  const isPlain = (range: string) => {
    const [type = '', ...parameters] = range.split(';').map((part) => part.trim());
    return (
      ['application/json', 'application/*', '*/*', ''].includes(type) &&
      !parameters.some((text) => text.startsWith('as='))
    );
  };
  if (accepted.some(isPlain)) return;
  throw new ApiError(406, 'NotAcceptable', 'only the following media types are accepted: application/json');
}
