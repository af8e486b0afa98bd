import { EventEmitter, on } from 'node:events';
import {
  type KubeList,
  type KubeObject,
  type ListOptions,
  type ListWatcher,
  objectKey,
  type Resource,
  type WatchEvent,
  type WatchOptions,
} from '../../kube/types.ts';

/** An API server inside the process, for what informers ask. `held` kinds do not answer lists until released. */
export class FakeApi implements ListWatcher {
  readonly #objects = new Map<string, Map<string, KubeObject>>();
  readonly #events = new EventEmitter();
  readonly #held = new Map<string, PromiseWithResolvers<void>>();
  /** What was asked for, by kind. */
  readonly selectors = new Map<
    string,
    { labelSelector: string | undefined; fieldSelector: string | undefined }
  >();
  #version = 1;

  hold({ plural }: Resource): void {
    this.#held.set(plural, Promise.withResolvers());
  }

  release({ plural }: Resource): void {
    this.#held.get(plural)?.resolve();
  }

  put(resource: Resource, ...objects: readonly KubeObject[]): void {
    for (const object of objects) {
      const there = this.#kind(resource);
      const key = objectKey(object);
      this.#version += 1;
      const stored = { ...object, metadata: { ...object.metadata, resourceVersion: `${this.#version}` } };
      const type = there.has(key) ? 'MODIFIED' : 'ADDED';
      there.set(key, stored);
      this.#events.emit(resource.plural, { type, object: stored });
    }
  }

  delete(resource: Resource, key: string): void {
    const object = this.#kind(resource).get(key);
    this.#kind(resource).delete(key);
    this.#version += 1;
    if (object !== undefined) this.#events.emit(resource.plural, { type: 'DELETED', object });
  }

  #kind({ plural }: Resource): Map<string, KubeObject> {
    const kind = this.#objects.get(plural) ?? new Map<string, KubeObject>();
    this.#objects.set(plural, kind);
    return kind;
  }

  async list<T extends KubeObject>(resource: Resource, options: ListOptions = {}): Promise<KubeList<T>> {
    const { labelSelector, fieldSelector } = options;
    this.selectors.set(resource.plural, { labelSelector, fieldSelector });
    await this.#held.get(resource.plural)?.promise;
    return {
      items: [...this.#kind(resource).values()] as T[],
      metadata: { resourceVersion: `${this.#version}` },
    };
  }

  async *watch<T extends KubeObject>(
    resource: Resource,
    { signal }: WatchOptions = {},
  ): AsyncGenerator<WatchEvent<T>, void> {
    for await (const [event] of on(this.#events, resource.plural, signal ? { signal } : {})) {
      yield event as WatchEvent<T>;
    }
  }
}
