import { badRequest } from './failures.ts';

/** Where a list in pages goes on. */
export interface ContinuePoint {
  /** The state that all pages show; undefined: whatever is newest, after the first state had expired. */
  readonly revision: number | undefined;
  /** The key of the last object of the page before, below the listed prefix. */
  readonly after: string;
}

const FORMAT = 'meta.k8s.io/v1';
const NEWEST = -1;

/** The token is for us alone; its form is that of kube-apiserver. */
export function encodeContinue({ revision, after }: ContinuePoint): string {
  return Buffer.from(JSON.stringify({ v: FORMAT, rv: revision ?? NEWEST, start: after })).toString(
    'base64url',
  );
}

export function decodeContinue(token: string): ContinuePoint {
  try {
    const { v, rv, start } = JSON.parse(Buffer.from(token, 'base64url').toString());
    if (v === FORMAT && Number.isSafeInteger(rv) && typeof start === 'string' && (rv > 0 || rv === NEWEST)) {
      return { revision: rv === NEWEST ? undefined : rv, after: start };
    }
  } catch {
    // Not ours: said below.
  }
  throw badRequest(`continue key is not valid: ${JSON.stringify(token)}`);
}
