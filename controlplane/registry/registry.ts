import type { DeleteOptions, KubeObject } from '../../kube/types.ts';
import type { Storage } from '../storage/storage.ts';
import {
  alreadyExists,
  badRequest,
  conflict,
  forbiddenRequest,
  invalidObject,
  notFound,
} from './failures.ts';
import type { Admission, Kind } from './kind.ts';
import { Lanes } from './lanes.ts';
import {
  isDeletionComplete,
  prepareCreate,
  prepareDelete,
  prepareUpdate,
  type Target,
  withGeneration,
} from './prepare.ts';
import {
  checkNotNewer,
  keyOf,
  type ListQuery,
  type ListResult,
  openWatch,
  readList,
  readVersion,
  type Selection,
  type WatchQuery,
} from './read.ts';
import { type ApiObject, encodeObject, Stored } from './stored.ts';
import type { RegistryWatch } from './watch.ts';

/** How often a change is made again because another one came between. */
const MOST_ATTEMPTS = 16;
/** How often a generated name is drawn again because there is one already. */
const MOST_NAMES = 8;

export interface RegistryOptions {
  readonly storage: Storage;
  readonly kinds: readonly Kind[];
  /** By plural name. */
  readonly admissions?: ReadonlyMap<string, Admission>;
  readonly nowMs?: () => number;
}

/** One object in a request. */
export interface ObjectPath {
  readonly kind: Kind;
  readonly namespace: string | undefined;
  readonly name: string;
  readonly subresource?: string | undefined;
}

export interface WriteMode {
  /** Everything but the write. */
  readonly isDryRun?: boolean;
}

export interface Deleted {
  /** The object as it was, or as it stays for now. */
  readonly stored: Stored;
  readonly isGone: boolean;
}

/** All kinds of objects over one storage: what the API does, without HTTP. Refusals are thrown as ApiError. */
export class Registry {
  readonly kinds: readonly Kind[];
  readonly #storage: Storage;
  readonly #admissions: ReadonlyMap<string, Admission>;
  readonly #nowMs: () => number;
  readonly #lanes = new Lanes();

  private constructor(options: RegistryOptions) {
    this.kinds = options.kinds;
    this.#storage = options.storage;
    this.#admissions = options.admissions ?? new Map();
    this.#nowMs = options.nowMs ?? Date.now;
  }

  /** Tells the admissions of everything that is stored. */
  static async open(options: RegistryOptions): Promise<Registry> {
    const registry = new Registry(options);
    for (const kind of options.kinds) {
      const admission = registry.#admissions.get(kind.plural);
      if (admission === undefined) continue;
      const { items } = await registry.list(kind, {});
      for (const item of items) admission.written(item.object, undefined);
    }
    return registry;
  }

  async get({ kind, namespace, name }: ObjectPath, resourceVersion?: string): Promise<Stored> {
    await checkNotNewer(this.#storage, readVersion(resourceVersion));
    const entry = await this.#storage.get(keyOf(kind, namespace, name));
    if (entry === undefined) throw notFound(kind, name);
    return new Stored(entry.value, entry.revision);
  }

  async list(kind: Kind, query: ListQuery): Promise<ListResult> {
    return await readList(this.#storage, kind, query);
  }

  async watch(kind: Kind, query: WatchQuery): Promise<RegistryWatch> {
    return await openWatch(this.#storage, kind, query);
  }

  async create(
    kind: Kind,
    namespace: string | undefined,
    body: unknown,
    mode: WriteMode = {},
  ): Promise<Stored> {
    const target: Target = { kind, namespace, name: undefined, nowMs: this.#nowMs() };
    for (let attempt = 1; ; attempt += 1) {
      const object = prepareCreate(body, target);
      await this.#checkNamespace(kind, object);
      const stored = await this.#lane(kind, () => this.#insert(kind, object, mode));
      if (stored !== undefined) return stored;
      const { name = '', generateName = '' } = object.metadata;
      if (generateName === '' || attempt === MOST_NAMES) throw alreadyExists(kind, name);
    }
  }

  async update(path: ObjectPath, body: unknown, mode: WriteMode = {}): Promise<Stored> {
    return await this.modify(path, () => body, mode);
  }

  /**
   * Replaces an object by what `change` makes of it, again when another write came between; an object with
   * another resourceVersion than the stored one is refused with 409. What changes nothing is not written.
   */
  async modify(
    path: ObjectPath,
    change: (current: ApiObject) => unknown,
    mode: WriteMode = {},
  ): Promise<Stored> {
    const target: Target = { ...path, nowMs: this.#nowMs() };
    for (let attempt = 0; attempt < MOST_ATTEMPTS; attempt += 1) {
      const current = await this.get(path);
      const object = prepareUpdate(change(current.copy()), current.object, target);
      const stored = await this.#lane(path.kind, () => this.#replace(path, object, current, mode));
      if (stored !== undefined) return stored;
    }
    throw conflict(path.kind, path.name);
  }

  async delete(path: ObjectPath, options: DeleteOptions = {}, mode: WriteMode = {}): Promise<Deleted> {
    const { kind, name } = path;
    if (kind.undeletable?.includes(name))
      throw forbiddenRequest(kind, name, `this ${kind.singular} may not be deleted`);
    const target: Target = { ...path, nowMs: this.#nowMs() };
    for (let attempt = 0; attempt < MOST_ATTEMPTS; attempt += 1) {
      const current = await this.get(path);
      const object = prepareDelete(current.object, target, options);
      const deleted = await this.#lane(kind, () => this.#deleteOrMark(path, object, current, mode));
      if (deleted !== undefined) return deleted;
    }
    throw conflict(kind, name);
  }

  /** Deletes one by one what the selection holds; the answer is what it held. */
  async deleteCollection(
    kind: Kind,
    selection: Selection,
    options: DeleteOptions,
    mode: WriteMode = {},
  ): Promise<ListResult> {
    const list = await this.list(kind, selection);
    for (const { object } of list.items) {
      const { namespace, name = '' } = object.metadata;
      if (kind.undeletable?.includes(name)) continue;
      await this.delete({ kind, namespace, name }, options, mode).catch((error) => {
        if (error.status !== 404) throw error;
      });
    }
    return list;
  }

  async #insert(kind: Kind, object: ApiObject, mode: WriteMode): Promise<Stored | undefined> {
    const { namespace, name = '' } = object.metadata;
    const key = keyOf(kind, namespace, name);
    if ((await this.#storage.get(key)) !== undefined) return undefined;
    this.#admit(kind, object, undefined);
    const text = encodeObject(object);
    const revision = mode.isDryRun === true ? 0 : await this.#storage.create(key, text);
    if (revision === undefined) return undefined;
    if (mode.isDryRun !== true) this.#written(kind, object, undefined);
    return new Stored(text, revision);
  }

  async #replace(
    path: ObjectPath,
    object: ApiObject,
    current: Stored,
    mode: WriteMode,
  ): Promise<Stored | undefined> {
    const { kind } = path;
    if (path.subresource === undefined) this.#admit(kind, object, current.object);
    const text = encodeObject(withGeneration(kind, object, current.object));
    if (current.holds(text)) return current;
    if (mode.isDryRun === true) return new Stored(text, current.revision);
    if (isDeletionComplete(kind, object)) return (await this.#remove(path, current))?.stored;
    const revision = await this.#storage.update(this.#keyOf(path), text, current.revision);
    if (revision === undefined) return undefined;
    this.#written(kind, object, current.object);
    return new Stored(text, revision);
  }

  async #deleteOrMark(
    path: ObjectPath,
    object: ApiObject | undefined,
    current: Stored,
    mode: WriteMode,
  ): Promise<Deleted | undefined> {
    if (mode.isDryRun === true || object === current.object)
      return { stored: current, isGone: object === undefined };
    if (object === undefined) return await this.#remove(path, current);
    const text = encodeObject(object);
    const revision = await this.#storage.update(this.#keyOf(path), text, current.revision);
    return revision === undefined ? undefined : { stored: new Stored(text, revision), isGone: false };
  }

  async #remove(path: ObjectPath, current: Stored): Promise<Deleted | undefined> {
    const revision = await this.#storage.delete(this.#keyOf(path), current.revision);
    if (revision === undefined) return undefined;
    this.#written(path.kind, undefined, current.object);
    return { stored: current.at(revision), isGone: true };
  }

  #keyOf({ kind, namespace, name }: ObjectPath): string {
    return keyOf(kind, namespace, name);
  }

  #admit(kind: Kind, object: ApiObject, current: ApiObject | undefined): void {
    const causes = this.#admissions.get(kind.plural)?.admit(object, current) ?? [];
    if (causes.length > 0) throw invalidObject(kind, object.metadata.name ?? '', causes);
  }

  #written(kind: Kind, object: KubeObject | undefined, previous: KubeObject | undefined): void {
    this.#admissions.get(kind.plural)?.written(object, previous);
  }

  /** Kinds with an admission are written one object at a time, so that nothing is given out twice. */
  async #lane<T>(kind: Kind, task: () => Promise<T>): Promise<T> {
    return this.#admissions.has(kind.plural) ? await this.#lanes.run(kind.plural, task) : await task();
  }

  /** Nothing is made in a namespace that is not there or about to go. */
  async #checkNamespace(kind: Kind, { metadata }: ApiObject): Promise<void> {
    if (!kind.namespaced) return;
    const { namespace = '', name = '' } = metadata;
    const namespaces = this.kinds.find(({ group, plural }) => group === '' && plural === 'namespaces');
    if (namespace === '' || namespaces === undefined)
      throw badRequest('an empty namespace may not be set during creation');
    const stored = await this.get({ kind: namespaces, namespace: undefined, name: namespace });
    if (stored.object.metadata.deletionTimestamp === undefined) return;
    const why = `unable to create new content in namespace ${namespace} because it is being terminated`;
    throw forbiddenRequest(kind, name, why, [
      {
        reason: 'NamespaceTerminating',
        message: `namespace ${namespace} is being terminated`,
        field: 'metadata.namespace',
      },
    ]);
  }
}
