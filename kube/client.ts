import type { KubeConfig } from './config.ts';
import { ApiError, errorOfStatus } from './errors.ts';
import { Transport } from './transport.ts';
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
} from './types.ts';

/** The field by which the API server records who set a field. */
const FIELD_MANAGER = 'fairlead';

const PATCH_TYPES = {
  merge: 'application/merge-patch+json',
  strategic: 'application/strategic-merge-patch+json',
} as const;

/** A client of any Kubernetes API server. Holds kept-alive connections until disposed. */
export class KubeClient implements KubeApi, Disposable {
  readonly #transport: Transport;

  constructor(config: KubeConfig) {
    this.#transport = new Transport(config);
  }

  async get<T extends KubeObject>(
    resource: Resource,
    name: string,
    namespace?: string,
  ): Promise<T | undefined> {
    return await absentOn404(this.#transport.json<T>('GET', resourcePath(resource, namespace, name)));
  }

  async list<T extends KubeObject>(resource: Resource, options: ListOptions = {}): Promise<KubeList<T>> {
    const { namespace, signal, ...query } = options;
    const list = await this.#transport.json<KubeList<T>>('GET', resourcePath(resource, namespace), {
      query,
      signal,
    });
    return { items: list.items ?? [], metadata: list.metadata ?? {} };
  }

  async *watch<T extends KubeObject>(
    resource: Resource,
    options: WatchOptions = {},
  ): AsyncGenerator<WatchEvent<T>, void> {
    const { namespace, signal, inactivityTimeoutMs, ...rest } = options;
    const path = resourcePath(resource, namespace);
    const lines = this.#transport.lines(path, {
      query: { ...rest, watch: true },
      signal,
      inactivityTimeoutMs,
    });
    for await (const line of lines) {
      const event: { type: string; object: unknown } = JSON.parse(line);
      if (event.type === 'ERROR') throw errorOfStatus(event.object);
      yield event as WatchEvent<T>;
    }
  }

  async create<T extends KubeObject>(resource: Resource, object: T): Promise<T> {
    const path = resourcePath(resource, object.metadata?.namespace);
    return await this.#transport.json<T>('POST', path, {
      body: object,
      query: { fieldManager: FIELD_MANAGER },
    });
  }

  async update<T extends KubeObject>(resource: Resource, object: T, options: WriteOptions = {}): Promise<T> {
    const { namespace, name } = object.metadata ?? {};
    const path = resourcePath(resource, namespace, requiredName(name), options.subresource);
    const query = { fieldManager: FIELD_MANAGER };
    return await this.#transport.json<T>('PUT', path, { body: object, query, signal: options.signal });
  }

  async patch<T extends KubeObject>(
    resource: Resource,
    name: string,
    patch: object,
    options: PatchOptions = {},
  ): Promise<T> {
    const path = resourcePath(resource, options.namespace, name, options.subresource);
    return await this.#transport.json<T>('PATCH', path, {
      body: patch,
      contentType: PATCH_TYPES[options.type ?? 'merge'],
      query: { fieldManager: FIELD_MANAGER },
      signal: options.signal,
    });
  }

  async delete(resource: Resource, name: string, options: DeleteOptions = {}): Promise<boolean> {
    const { namespace, signal, ...body } = options;
    const path = resourcePath(resource, namespace, name);
    return (await absentOn404(this.#transport.json('DELETE', path, { body, signal }))) !== undefined;
  }

  [Symbol.dispose](): void {
    this.#transport[Symbol.dispose]();
  }
}

/** `/api/v1/namespaces/NS/services/NAME/status` and the like. Without a namespace, of all namespaces. */
export function resourcePath(
  resource: Resource,
  namespace?: string,
  name?: string,
  subresource?: string,
): string {
  const group = resource.group === '' ? '/api' : `/apis/${resource.group}`;
  const scope =
    resource.namespaced && namespace !== undefined ? `/namespaces/${encodeURIComponent(namespace)}` : '';
  const object = name === undefined ? '' : `/${encodeURIComponent(name)}`;
  const part = subresource === undefined ? '' : `/${subresource}`;
  return `${group}/${resource.version}${scope}/${resource.plural}${object}${part}`;
}

function requiredName(name: string | undefined): string {
  if (name === undefined || name === '') throw new TypeError('metadata.name: required');
  return name;
}

async function absentOn404<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return undefined;
    throw error;
  }
}
