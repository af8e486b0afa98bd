import { badRequest } from '../registry/failures.ts';
import type { ListQuery } from '../registry/read.ts';
import type { WriteMode } from '../registry/registry.ts';

/* The parameters of a URL. All functions throw ApiError 400. */

export function selectionOf(query: URLSearchParams): Omit<ListQuery, 'namespace'> {
  const text = (name: string) => query.get(name) ?? undefined;
  return {
    labelSelector: text('labelSelector'),
    fieldSelector: text('fieldSelector'),
    resourceVersion: text('resourceVersion'),
    resourceVersionMatch: text('resourceVersionMatch') || undefined,
    limit: wholeOf(query, 'limit'),
    continue: text('continue'),
  };
}

/** Go's strconv.ParseBool; a parameter without value is true. */
export function flagOf(query: URLSearchParams, name: string): boolean | undefined {
  const text = query.get(name);
  if (text === null) return undefined;
  if (['', '1', 't', 'T', 'true', 'TRUE', 'True'].includes(text)) return true;
  if (['0', 'f', 'F', 'false', 'FALSE', 'False'].includes(text)) return false;
  throw badRequest(`${name}: Invalid value: ${JSON.stringify(text)}: must be true or false`);
}

export function wholeOf(query: URLSearchParams, name: string): number | undefined {
  const text = query.get(name);
  if (text === null || text === '') return undefined;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw badRequest(`${name}: Invalid value: ${JSON.stringify(text)}: must be a whole number`);
}

export function writeModeOf(query: URLSearchParams, inBody: unknown = undefined): WriteMode {
  const asked = [...query.getAll('dryRun'), ...(Array.isArray(inBody) ? inBody : [])];
  const wrong = asked.find((text) => text !== 'All' && text !== '');
  if (wrong !== undefined)
    throw badRequest(`dryRun: Unsupported value: ${JSON.stringify(wrong)}: supported values: "All"`);
  return { isDryRun: asked.includes('All') };
}
