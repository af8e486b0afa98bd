import { ApiError } from '../../kube/errors.ts';
import type {
  DeleteOptions,
  KubeApi,
  KubeList,
  KubeObject,
  ListOptions,
  PatchOptions,
  Resource,
  WatchEvent,
  WatchOptions,
  WriteOptions,
} from '../../kube/types.ts';
import type { Kind } from './kind.ts';
import { mergePatch, strategicMergePatch } from './patch.ts';
import type { ObjectPath, Registry } from './registry.ts';
import type { ApiObject, JsonObject } from './stored.ts';

/** The API inside its own process, for controllers: as over HTTP, without it. */
export class LocalClient implements KubeApi {
  readonly #registry: Registry;

  constructor(registry: Registry) {
    this.#registry = registry;
  }

  async get<T extends KubeObject>(
    resource: Resource,
    name: string,
    namespace?: string,
  ): Promise<T | undefined> {
    try {
      return objectOf<T>(await this.#registry.get({ kind: this.#kindOf(resource), namespace, name }));
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }

  async list<T extends KubeObject>(resource: Resource, options: ListOptions = {}): Promise<KubeList<T>> {
    const { items, revision, remaining, ...rest } = await this.#registry.list(
      this.#kindOf(resource),
      options,
    );
    const metadata = {
      resourceVersion: String(revision),
      continue: rest.continue,
      remainingItemCount: remaining,
    };
    return { items: items.map(objectOf<T>), metadata };
  }

  async *watch<T extends KubeObject>(
    resource: Resource,
    options: WatchOptions = {},
  ): AsyncGenerator<WatchEvent<T>, void> {
    using watch = await this.#registry.watch(this.#kindOf(resource), options);
    const stop = () => watch[Symbol.dispose]();
    options.signal?.throwIfAborted();
    options.signal?.addEventListener('abort', stop, { once: true });
    try {
      for await (const { events } of watch) {
        for (const { type, stored } of events) yield { type, object: objectOf<T>(stored) };
      }
      options.signal?.throwIfAborted();
    } finally {
      options.signal?.removeEventListener('abort', stop);
    }
  }

  async create<T extends KubeObject>(resource: Resource, object: T): Promise<T> {
    return objectOf<T>(
      await this.#registry.create(this.#kindOf(resource), object.metadata?.namespace, object),
    );
  }

  async update<T extends KubeObject>(resource: Resource, object: T, options: WriteOptions = {}): Promise<T> {
    const { namespace, name = '' } = object.metadata ?? {};
    const path: ObjectPath = {
      kind: this.#kindOf(resource),
      namespace,
      name,
      subresource: options.subresource,
    };
    return objectOf<T>(await this.#registry.update(path, object));
  }

  async patch<T extends KubeObject>(
    resource: Resource,
    name: string,
    patch: object,
    options: PatchOptions = {},
  ): Promise<T> {
    const kind = this.#kindOf(resource);
    const { namespace, subresource } = options;
    const change = (current: ApiObject) =>
      options.type === 'strategic'
        ? strategicMergePatch(current, patch as JsonObject, kind.mergeKeys ?? {})
        : mergePatch(current, patch);
    return objectOf<T>(await this.#registry.modify({ kind, namespace, name, subresource }, change));
  }

  async delete(resource: Resource, name: string, options: DeleteOptions = {}): Promise<boolean> {
    try {
      await this.#registry.delete(
        { kind: this.#kindOf(resource), namespace: options.namespace, name },
        options,
      );
      return true;
    } catch (error) {
      if (isNotFound(error)) return false;
      throw error;
    }
  }

  #kindOf({ group, plural }: Resource): Kind {
    const kind = this.#registry.kinds.find((other) => other.group === group && other.plural === plural);
    if (kind === undefined) throw new TypeError(`${plural}.${group}: no such kind`);
    return kind;
  }
}

/** The text of the resource says which type is asked for; the registry does not know it. */
function objectOf<T>(stored: { readonly object: ApiObject }): T {
  return stored.object as T;
}

function isNotFound(error: unknown): boolean {
  return error instanceof ApiError && error.status === 404;
}
