import { ApiError, type StatusCause } from '../../kube/errors.ts';
import { StorageError } from '../storage/storage.ts';
import type { Kind } from './kind.ts';

/* The refusals of the API, in the words of kube-apiserver, which tools match on. */

function details(kind: Kind, name: string): { name: string; group?: string; kind: string } {
  return { name, ...(kind.group === '' ? {} : { group: kind.group }), kind: kind.plural };
}

/** `services` or `endpointslices.discovery.k8s.io`. */
function qualified(kind: Kind): string {
  return kind.group === '' ? kind.plural : `${kind.plural}.${kind.group}`;
}

export function notFound(kind: Kind, name: string): ApiError {
  return new ApiError(404, 'NotFound', `${qualified(kind)} "${name}" not found`, details(kind, name));
}

export function alreadyExists(kind: Kind, name: string): ApiError {
  return new ApiError(
    409,
    'AlreadyExists',
    `${qualified(kind)} "${name}" already exists`,
    details(kind, name),
  );
}

export function conflict(kind: Kind, name: string, why = MODIFIED): ApiError {
  const message = `Operation cannot be fulfilled on ${qualified(kind)} "${name}": ${why}`;
  return new ApiError(409, 'Conflict', message, details(kind, name));
}

const MODIFIED =
  'the object has been modified; please apply your changes to the latest version and try again';

/** Names every problem at once. */
export function invalidObject(kind: Kind, name: string, causes: readonly StatusCause[]): ApiError {
  const texts = causes.map(({ field, message }) => `${field}: ${message}`);
  const text = texts.length === 1 ? texts[0] : `[${texts.join(', ')}]`;
  const subject = kind.group === '' ? kind.kind : `${kind.kind}.${kind.group}`;
  return new ApiError(422, 'Invalid', `${subject} "${name}" is invalid: ${text}`, {
    ...details(kind, name),
    kind: kind.kind,
    causes,
  });
}

export function badRequest(message: string): ApiError {
  return new ApiError(400, 'BadRequest', message);
}

export function forbiddenRequest(
  kind: Kind,
  name: string,
  why: string,
  causes?: readonly StatusCause[],
): ApiError {
  const message = `${qualified(kind)} "${name}" is forbidden: ${why}`;
  return new ApiError(403, 'Forbidden', message, { ...details(kind, name), ...(causes && { causes }) });
}

export function methodNotAllowed(): ApiError {
  return new ApiError(
    405,
    'MethodNotAllowed',
    'the server does not allow this method on the requested resource',
    {},
  );
}

function expired(asked: number, oldest: number): ApiError {
  return new ApiError(410, 'Expired', `too old resource version: ${asked} (${oldest})`);
}

export function expiredContinue(next: string): ApiError {
  const message =
    'The provided continue parameter is too old to display a consistent list result. You can start a new list ' +
    'without the continue parameter, or use the continue token in this response to retrieve the remainder of ' +
    'the results. Continuing with the provided token results in an inconsistent list - objects that were ' +
    'created, modified, or deleted between the time the first chunk was returned and now may show up in the list.';
  return new ApiError(410, 'Expired', message, undefined, next);
}

export function tooLargeVersion(asked: number, newest: number): ApiError {
  const message = `Too large resource version: ${asked}, current: ${newest}`;
  return new ApiError(504, 'Timeout', message, {
    causes: [{ reason: 'ResourceVersionTooLarge', message: 'Too large resource version' }],
    retryAfterSeconds: 1,
  });
}

/** What a reader of the storage may fail with, as the API says it. */
export function asApiError(error: unknown): unknown {
  if (!(error instanceof StorageError)) return error;
  return error.code === 'compacted'
    ? expired(error.asked, error.bound)
    : tooLargeVersion(error.asked, error.bound);
}
