import { methodNotAllowed } from '../registry/failures.ts';
import type { Kind } from '../registry/kind.ts';

/** What a URL path names among the resources. */
export interface Route {
  readonly kind: Kind;
  /** undefined: all namespaces, or a kind that lives in none. */
  readonly namespace: string | undefined;
  /** undefined: the collection. */
  readonly name: string | undefined;
  readonly subresource: string | undefined;
}

export type Verb = 'get' | 'list' | 'watch' | 'create' | 'update' | 'patch' | 'delete' | 'deletecollection';

/**
 * `/api/VERSION/…` and `/apis/GROUP/VERSION/…`, each followed by `[namespaces/NS/]PLURAL[/NAME[/SUBRESOURCE]]`.
 * undefined: no resource of ours.
 */
export function parseRoute(path: string, kinds: readonly Kind[]): Route | undefined {
  const [root, ...parts] = path.split('/').slice(1).map(decoded);
  if (parts.includes(undefined)) return undefined;
  const group = root === 'api' ? '' : root === 'apis' ? parts.shift() : undefined;
  const version = parts.shift();
  const find = (plural: string | undefined) =>
    kinds.find((kind) => kind.group === group && kind.version === version && kind.plural === plural);
  const inNamespace = parts[0] === 'namespaces' && parts.length >= 3 ? find(parts[2]) : undefined;
  const kind = inNamespace?.namespaced === true ? inNamespace : find(parts[0]);
  if (kind === undefined) return undefined;
  const [namespace, rest] = kind === inNamespace ? [parts[1], parts.slice(3)] : [undefined, parts.slice(1)];
  const [name, subresource, ...beyond] = rest;
  if (beyond.length > 0 || name === '' || subresource === '' || namespace === '') return undefined;
  // An object of a namespace has no address without it.
  if (kind.namespaced && namespace === undefined && name !== undefined) return undefined;
  const known: readonly string[] = kind.subresources;
  if (subresource !== undefined && !known.includes(subresource)) return undefined;
  return { kind, namespace, name, subresource };
}

/** Throws ApiError 405. */
export function verbOf(
  method: string | undefined,
  { kind, namespace, name, subresource }: Route,
  isWatch: boolean,
): Verb {
  const verb =
    VERBS[`${method} ${name === undefined ? 'collection' : subresource === undefined ? 'object' : 'part'}`];
  if (verb === undefined) throw methodNotAllowed();
  if (verb === 'create' && kind.namespaced && namespace === undefined) throw methodNotAllowed();
  if (verb === 'deletecollection' && kind.hasDeleteCollection === false) throw methodNotAllowed();
  return isWatch && (verb === 'list' || (verb === 'get' && subresource === undefined)) ? 'watch' : verb;
}

const VERBS: Readonly<Record<string, Verb>> = {
  'GET collection': 'list',
  'POST collection': 'create',
  'DELETE collection': 'deletecollection',
  'GET object': 'get',
  'PUT object': 'update',
  'PATCH object': 'patch',
  'DELETE object': 'delete',
  'GET part': 'get',
  'PUT part': 'update',
  'PATCH part': 'patch',
};

function decoded(part: string): string | undefined {
  try {
    return decodeURIComponent(part);
  } catch {
    return undefined;
  }
}
