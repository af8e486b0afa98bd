import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { ApiError } from '../../kube/errors.ts';

/** Says nothing about any object, and must answer whoever supervises the process. */
const OPEN_PATHS: readonly string[] = ['/healthz', '/livez', '/readyz', '/version'];

/** Lets requests with the one token pass. */
export class TokenAccess {
  readonly #digest: Buffer;

  constructor(token: string) {
    this.#digest = digestOf(token);
  }

  /** Throws ApiError 401. */
  check(request: IncomingMessage, path: string): void {
    if (OPEN_PATHS.includes(path)) return;
    const match = /^Bearer +(.+)$/i.exec(request.headers.authorization ?? '');
    // Digests are of one length, so that neither content nor length of the token shows in the time taken.
    if (match !== null && timingSafeEqual(digestOf(match[1] ?? ''), this.#digest)) return;
    throw new ApiError(401, 'Unauthorized', 'Unauthorized');
  }
}

function digestOf(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
