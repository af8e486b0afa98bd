import type { IncomingMessage } from 'node:http';
import { ApiError } from '../../kube/errors.ts';
import { badRequest } from '../registry/failures.ts';

/** As kube-apiserver: twice etcd's largest request. */
export const MOST_BODY_BYTES = 3 << 20;

const JSON_TYPE = 'application/json';

/** The media type without parameters. A body without one counts as JSON, as old kubectl sends it. */
export function contentTypeOf(request: IncomingMessage): string {
  const header = request.headers['content-type'] ?? '';
  const type = header.split(';')[0]?.trim().toLowerCase() ?? '';
  return type === '' ? JSON_TYPE : type;
}

/** The whole JSON body; undefined when there is none. Throws ApiError 400, 413, 415. */
export async function readBody(
  request: IncomingMessage,
  types: readonly string[] = [JSON_TYPE],
): Promise<unknown> {
  const bytes = await readBytes(request);
  if (bytes.length === 0) return undefined;
  const type = contentTypeOf(request);
  if (!types.includes(type)) {
    const message = `the body of the request was in an unknown format - accepted media types include: ${types.join(', ')}`;
    throw new ApiError(415, 'UnsupportedMediaType', message);
  }
  try {
    return JSON.parse(bytes.toString());
  } catch (error) {
    throw badRequest(`the request body is not JSON: ${(error as Error).message}`);
  }
}

async function readBytes(request: IncomingMessage): Promise<Buffer> {
  const tooLarge = new ApiError(
    413,
    'RequestEntityTooLarge',
    `Request entity too large: limit is ${MOST_BODY_BYTES}`,
  );
  if (Number(request.headers['content-length'] ?? 0) > MOST_BODY_BYTES) throw tooLarge;
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MOST_BODY_BYTES) throw tooLarge;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
