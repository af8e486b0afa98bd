import type { IncomingMessage } from 'node:http';
import { ApiError } from '../../kube/errors.ts';
import { badRequest } from '../registry/failures.ts';

/** As kube-apiserver: twice etcd's largest request. */
export const MOST_BODY_BYTES = 3 << 20;

/** No kind comes near; what goes deeper is meant to exhaust whoever walks through it. */
const MOST_DEPTH = 500;

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
  const value = parseJson(bytes.toString());
  checkFields(value, MOST_DEPTH);
  return value;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw badRequest(`the request body is not JSON: ${(error as Error).message}`);
  }
}

/** A field of that name would become the prototype of what it is copied to. */
const PROTOTYPE_FIELD = '__proto__';

function checkFields(value: unknown, levels: number): void {
  if (typeof value !== 'object' || value === null) return;
  if (levels === 0) throw badRequest(`the request body is nested more than ${MOST_DEPTH} levels deep`);
  if (Object.hasOwn(value, PROTOTYPE_FIELD)) {
    throw badRequest(`the request body has a field named "${PROTOTYPE_FIELD}", which cannot be stored`);
  }
  for (const part of Object.values(value)) checkFields(part, levels - 1);
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
