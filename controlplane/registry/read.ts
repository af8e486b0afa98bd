import { ApiError } from '../../kube/errors.ts';
import { type ListRange, type Page, type Storage, StorageError } from '../storage/storage.ts';
import { decodeContinue, encodeContinue } from './continue.ts';
import { asApiError, badRequest, expiredContinue, tooLargeVersion } from './failures.ts';
import type { Kind } from './kind.ts';
import { type Matcher, parseSelectors } from './selectors.ts';
import { Stored } from './stored.ts';
import { RegistryWatch } from './watch.ts';

/* Lists and watches of one kind. */

export interface Selection {
  readonly namespace?: string | undefined;
  readonly labelSelector?: string | undefined;
  readonly fieldSelector?: string | undefined;
  readonly resourceVersion?: string | undefined;
  readonly resourceVersionMatch?: string | undefined;
}

export interface ListQuery extends Selection {
  readonly limit?: number | undefined;
  readonly continue?: string | undefined;
}

export interface WatchQuery extends Selection {
  readonly sendInitialEvents?: boolean | undefined;
}

export interface ListResult {
  readonly items: readonly Stored[];
  readonly revision: number;
  readonly continue?: string;
  readonly remaining?: number;
}

/** `/registry/GROUP/PLURAL/NAMESPACE/NAME`, the core group being `core`. */
export function keyOf(kind: Kind, namespace: string | undefined, name: string): string {
  return `${prefixOf(kind, namespace)}${name}`;
}

export function prefixOf(kind: Kind, namespace?: string): string {
  const all = `/registry/${kind.group === '' ? 'core' : kind.group}/${kind.plural}/`;
  return kind.namespaced && namespace !== undefined ? `${all}${namespace}/` : all;
}

/** Pages of a list with selectors are read from the storage in pieces of at least this many. */
const LEAST_SCANNED = 500;

export async function readList(storage: Storage, kind: Kind, query: ListQuery): Promise<ListResult> {
  const matches = parseSelectors(kind, query.labelSelector, query.fieldSelector);
  const prefix = prefixOf(kind, query.namespace);
  const limit = query.limit === undefined || query.limit <= 0 ? Number.POSITIVE_INFINITY : query.limit;
  const scanned = matches === undefined ? limit : Math.max(limit, LEAST_SCANNED);
  let range: ListRange = {
    ...(await startOf(storage, query, prefix)),
    ...(Number.isFinite(limit) ? { limit: scanned } : {}),
  };
  const found: { readonly key: string; readonly stored: Stored }[] = [];
  let page: Page;
  do {
    page = await readPage(storage, prefix, range, query);
    range = { ...range, revision: page.revision, after: page.entries.at(-1)?.key ?? prefix };
    for (const { key, value, revision } of page.entries) {
      const stored = new Stored(value, revision);
      if (matches === undefined || matches(stored)) found.push({ key, stored });
    }
  } while (page.remaining > 0 && found.length < limit);
  const items = found.slice(0, limit).map(({ stored }) => stored);
  if (page.remaining === 0 && found.length <= limit) return { items, revision: page.revision };
  const last = found.length > limit ? found[limit - 1]?.key : range.after;
  return {
    items,
    revision: page.revision,
    continue: encodeContinue({ revision: page.revision, after: (last ?? prefix).slice(prefix.length) }),
    ...(matches === undefined ? { remaining: page.remaining } : {}),
  };
}

/** Where the first page begins, and in which state. Throws ApiError 400, 504. */
async function startOf(storage: Storage, query: ListQuery, prefix: string): Promise<ListRange> {
  const version = readVersion(query.resourceVersion);
  const match = query.resourceVersionMatch;
  if (match !== undefined && !['Exact', 'NotOlderThan'].includes(match)) {
    throw badRequest(`resourceVersionMatch: unsupported value ${JSON.stringify(match)}: Exact, NotOlderThan`);
  }
  if (query.continue !== undefined && query.continue !== '') {
    if (version !== undefined && version > 0)
      throw badRequest('specifying resource version is not allowed when using continue');
    const { revision, after } = decodeContinue(query.continue);
    return { ...(revision === undefined ? {} : { revision }), after: prefix + after };
  }
  if (match !== undefined && version === undefined)
    throw badRequest('resourceVersionMatch is forbidden unless resourceVersion is provided');
  const isExact = match === 'Exact' || (match === undefined && (query.limit ?? 0) > 0);
  await checkNotNewer(storage, version);
  return version !== undefined && version > 0 && isExact ? { revision: version } : {};
}

async function readPage(storage: Storage, prefix: string, range: ListRange, query: ListQuery): Promise<Page> {
  try {
    return await storage.list(prefix, range);
  } catch (error) {
    if (!(error instanceof StorageError) || error.code !== 'compacted') throw asApiError(error);
    const isContinued = query.continue !== undefined && range.after !== undefined;
    if (!isContinued) throw asApiError(error);
    throw expiredContinue(encodeContinue({ revision: undefined, after: range.after.slice(prefix.length) }));
  }
}

/** A watch from the asked version on, or of the whole state and then on. Throws ApiError 400, 410, 422, 504. */
export async function openWatch(storage: Storage, kind: Kind, query: WatchQuery): Promise<RegistryWatch> {
  const matches = parseSelectors(kind, query.labelSelector, query.fieldSelector);
  checkWatchQuery(query);
  const version = readVersion(query.resourceVersion);
  await checkNotNewer(storage, version);
  const hasVersion = version !== undefined && version > 0;
  const wantsState = query.sendInitialEvents ?? !hasVersion;
  const prefix = prefixOf(kind, query.namespace);
  try {
    if (wantsState) return await watchFromState(storage, prefix, matches);
    const from = hasVersion ? version : await storage.revision();
    return new RegistryWatch(storage.watch(prefix, from), matches, undefined);
  } catch (error) {
    throw asApiError(error);
  }
}

async function watchFromState(storage: Storage, prefix: string, matches: Matcher): Promise<RegistryWatch> {
  const { entries, revision } = await storage.list(prefix);
  const stored = entries.map((entry) => new Stored(entry.value, entry.revision));
  const seen = matches === undefined ? stored : stored.filter(matches);
  const events = seen.map((item) => ({ type: 'ADDED' as const, stored: item }));
  return new RegistryWatch(storage.watch(prefix, revision), matches, { events, revision, isInitial: true });
}

function checkWatchQuery({ sendInitialEvents, resourceVersionMatch: match }: WatchQuery): void {
  const refuse = (field: string, message: string) => {
    const text = `ListOptions.meta.k8s.io "" is invalid: ${field}: ${message}`;
    return new ApiError(422, 'Invalid', text, {
      group: 'meta.k8s.io',
      kind: 'ListOptions',
      causes: [{ field, message }],
    });
  };
  if (sendInitialEvents === undefined) {
    if (match === undefined) return;
    throw refuse(
      'resourceVersionMatch',
      'Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided',
    );
  }
  if (match === 'NotOlderThan') return;
  throw refuse(
    'resourceVersionMatch',
    'Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan',
  );
}

/** undefined: not given; 0: any. Throws ApiError 400. */
export function readVersion(text: string | undefined): number | undefined {
  if (text === undefined || text === '') return undefined;
  const version = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(version)) {
    throw badRequest(`resourceVersion: Invalid value: ${JSON.stringify(text)}: must be an unsigned integer`);
  }
  return version;
}

export async function checkNotNewer(storage: Storage, version: number | undefined): Promise<void> {
  if (version === undefined || version === 0) return;
  const newest = await storage.revision();
  if (version > newest) throw tooLargeVersion(version, newest);
}
