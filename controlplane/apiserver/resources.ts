import type { IncomingMessage, ServerResponse } from 'node:http';
import type { DeleteOptions } from '../../kube/types.ts';
import { badRequest } from '../registry/failures.ts';
import { mergePatch, strategicMergePatch } from '../registry/patch.ts';
import { apiVersionOf } from '../registry/prepare.ts';
import type { ListResult } from '../registry/read.ts';
import type { ObjectPath, Registry } from '../registry/registry.ts';
import { isPlainObject, shapeProblems } from '../registry/shape.ts';
import type { ApiObject } from '../registry/stored.ts';
import { sendJson } from './answer.ts';
import { contentTypeOf, readBody } from './body.ts';
import { flagOf, selectionOf, wholeOf, writeModeOf } from './query.ts';
import { type Route, type Verb, verbOf } from './route.ts';
import { refuseWatch, streamWatch } from './watch-stream.ts';

const MERGE_PATCH = 'application/merge-patch+json';
const STRATEGIC_PATCH = 'application/strategic-merge-patch+json';

/** One request for a resource. */
interface Call {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly query: URLSearchParams;
  readonly route: Route;
}

export interface ResourcesOptions {
  readonly registry: Registry;
  readonly bookmarkIntervalMs: number;
  /** Ends all watches. */
  readonly signal: AbortSignal;
}

/** The resources of the registry over HTTP. Refusals are thrown as ApiError. */
export class Resources {
  readonly #registry: Registry;
  readonly #options: ResourcesOptions;
  readonly #verbs: Readonly<Record<Verb, (call: Call) => Promise<void>>> = {
    get: (call) => this.#get(call),
    list: (call) => this.#list(call),
    watch: (call) => this.#watch(call),
    create: (call) => this.#create(call),
    update: (call) => this.#update(call),
    patch: (call) => this.#patch(call),
    delete: (call) => this.#delete(call),
    deletecollection: (call) => this.#deleteCollection(call),
  };

  constructor(options: ResourcesOptions) {
    this.#options = options;
    this.#registry = options.registry;
  }

  async serve(call: Call): Promise<void> {
    const isWatch = flagOf(call.query, 'watch') ?? false;
    await this.#verbs[verbOf(call.request.method, call.route, isWatch)](call);
  }

  async #get({ response, query, route }: Call): Promise<void> {
    const stored = await this.#registry.get(pathOf(route), query.get('resourceVersion') ?? undefined);
    sendJson(response, 200, stored.json);
  }

  async #list({ response, query, route }: Call): Promise<void> {
    const { kind, namespace } = route;
    sendList(response, route, await this.#registry.list(kind, { namespace, ...selectionOf(query) }));
  }

  async #watch({ response, query, route }: Call): Promise<void> {
    const { kind, namespace, name } = route;
    const selection = selectionOf(query);
    const one = name === undefined ? {} : { fieldSelector: `metadata.name=${name}` };
    const sendInitialEvents = flagOf(query, 'sendInitialEvents');
    const timeoutSeconds = wholeOf(query, 'timeoutSeconds') ?? 0;
    const options = {
      kind,
      bookmarks: flagOf(query, 'allowWatchBookmarks') ?? false,
      marksInitialEnd: sendInitialEvents === true,
      timeoutMs: timeoutSeconds === 0 ? undefined : timeoutSeconds * 1000,
      bookmarkIntervalMs: this.#options.bookmarkIntervalMs,
      signal: this.#options.signal,
    };
    const watch = await this.#registry
      .watch(kind, { namespace, ...selection, ...one, sendInitialEvents })
      .catch((error) => refuseWatch(response, error));
    if (watch !== undefined) await streamWatch(response, watch, options);
  }

  async #create({ request, response, query, route }: Call): Promise<void> {
    const body = await readBody(request);
    const stored = await this.#registry.create(route.kind, route.namespace, body, writeModeOf(query));
    sendJson(response, 201, stored.json);
  }

  async #update({ request, response, query, route }: Call): Promise<void> {
    const body = await readBody(request);
    const stored = await this.#registry.update(pathOf(route), body, writeModeOf(query));
    sendJson(response, 200, stored.json);
  }

  async #patch({ request, response, query, route }: Call): Promise<void> {
    const type = contentTypeOf(request);
    const patch = await readBody(request, [MERGE_PATCH, STRATEGIC_PATCH]);
    if (!isPlainObject(patch)) throw badRequest('the patch is not an object');
    const mergeKeys = route.kind.mergeKeys ?? {};
    const change = (current: ApiObject) =>
      type === STRATEGIC_PATCH ? strategicMergePatch(current, patch, mergeKeys) : mergePatch(current, patch);
    const stored = await this.#registry.modify(pathOf(route), change, writeModeOf(query));
    sendJson(response, 200, stored.json);
  }

  async #delete({ request, response, query, route }: Call): Promise<void> {
    const body = await readBody(request);
    const mode = writeModeOf(query, isPlainObject(body) ? body.dryRun : undefined);
    const { stored, isGone } = await this.#registry.delete(pathOf(route), deleteOptionsOf(body, query), mode);
    if (!isGone) return sendJson(response, 200, stored.json);
    const { name, uid } = stored.object.metadata;
    const group = route.kind.group === '' ? {} : { group: route.kind.group };
    const details = { name, ...group, kind: route.kind.plural, uid };
    sendJson(
      response,
      200,
      JSON.stringify({ kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Success', details }),
    );
  }

  async #deleteCollection({ request, response, query, route }: Call): Promise<void> {
    const { kind, namespace } = route;
    const body = await readBody(request);
    const mode = writeModeOf(query, isPlainObject(body) ? body.dryRun : undefined);
    const selection = { namespace, ...selectionOf(query) };
    const list = await this.#registry.deleteCollection(kind, selection, deleteOptionsOf(body, query), mode);
    sendList(response, route, list);
  }
}

function pathOf({ kind, namespace, name = '', subresource }: Route): ObjectPath {
  return { kind, namespace, name, subresource };
}

function sendList(response: ServerResponse, { kind }: Route, list: ListResult): void {
  const metadata = JSON.stringify({
    resourceVersion: String(list.revision),
    continue: list.continue,
    remainingItemCount: list.remaining,
  });
  const head = `{"kind":"${kind.kind}List","apiVersion":"${apiVersionOf(kind)}","metadata":${metadata}`;
  sendJson(response, 200, `${head},"items":[${list.items.map(({ json }) => json).join(',')}]}`);
}

/** From the body, or from the URL where there is none. Throws ApiError 400. */
function deleteOptionsOf(body: unknown, query: URLSearchParams): DeleteOptions {
  if (body === undefined) {
    const gracePeriodSeconds = wholeOf(query, 'gracePeriodSeconds');
    return gracePeriodSeconds === undefined ? {} : { gracePeriodSeconds };
  }
  const shape = {
    gracePeriodSeconds: 'integer',
    preconditions: { uid: 'string', resourceVersion: 'string' },
    propagationPolicy: 'string',
  } as const;
  const problems = shapeProblems(body, shape);
  if (problems.length > 0) throw badRequest(`DeleteOptions: ${problems.join('; ')}`);
  return body as DeleteOptions;
}
