import { setImmediate as turn } from 'node:timers/promises';
import {
  ENDPOINT_SLICES,
  type KubeList,
  type KubeObject,
  type ListOptions,
  type ListWatcher,
  NODES,
  type Resource,
  SERVICE_CIDRS,
  SERVICES,
  type WatchEvent,
  type WatchOptions,
} from '../../kube/types.ts';
import { type PlainService, SERVICE_NETWORK, serviceObject, sliceObject, type World } from './world.ts';

export const NODE_NAME = 'bench';

type Event = WatchEvent<KubeObject>;

/**
 * An API server inside the process, as far as informers look. It keeps no objects: they are made for each page, and
 * parsed from JSON like those that come over the wire, so that what the process holds is the proxy's.
 */
export class WorldApi implements ListWatcher {
  readonly #world: World;
  readonly #watches = new Map<string, EventQueue>();
  readonly #watchedAtMs = new Map<string, number>();
  #version = 1;

  constructor(world: World) {
    this.#world = world;
  }

  /** When the stores of Services and EndpointSlices were complete: an informer goes on to watch at once. */
  get syncedAtMs(): number {
    const times = [SERVICES, ENDPOINT_SLICES].map(
      ({ plural }) => this.#watchedAtMs.get(plural) ?? Number.NaN,
    );
    return Math.max(...times);
  }

  async list<T extends KubeObject>(resource: Resource, options: ListOptions = {}): Promise<KubeList<T>> {
    const from = Number(options.continue ?? 0);
    const to = from + (options.limit ?? Number.POSITIVE_INFINITY);
    const items = this.#page(resource, from, to);
    const next = items.length > 0 && to < this.#world.size ? { continue: `${to}` } : {};
    await turn(); // nothing comes over a wire without one
    const text = JSON.stringify({ items, metadata: { resourceVersion: '1', ...next } });
    return JSON.parse(text) as KubeList<T>;
  }

  #page(resource: Resource, from: number, to: number): readonly KubeObject[] {
    if (resource === NODES) return from === 0 ? [node] : [];
    if (resource === SERVICE_CIDRS) return from === 0 ? [serviceCidr] : [];
    const objectOf = resource === SERVICES ? serviceObject : sliceObject;
    const objects: KubeObject[] = [];
    for (let number = from; number < Math.min(to, this.#world.size); number += 1) {
      objects.push(objectOf(this.#world.service(number), 1));
    }
    return objects;
  }

  watch<T extends KubeObject>(
    resource: Resource,
    { signal }: WatchOptions = {},
  ): AsyncIterable<WatchEvent<T>> {
    const queue = new EventQueue(signal);
    this.#watches.set(resource.plural, queue);
    if (!this.#watchedAtMs.has(resource.plural)) this.#watchedAtMs.set(resource.plural, performance.now());
    return queue as AsyncIterable<WatchEvent<KubeObject>> as AsyncIterable<WatchEvent<T>>;
  }

  /** The events of one change, ready to be told: making them is no work of the proxy's. */
  prepare(type: Event['type'], service: PlainService, kinds: readonly Resource[]): () => void {
    const told = kinds.map((kind) => {
      this.#version += 1;
      const object = (kind === SERVICES ? serviceObject : sliceObject)(service, this.#version);
      return { kind, event: JSON.parse(JSON.stringify({ type, object })) as Event };
    });
    return () => {
      for (const { kind, event } of told) this.#watches.get(kind.plural)?.push(event);
    };
  }
}

const node: KubeObject = {
  metadata: { name: NODE_NAME, resourceVersion: '1' },
  status: { addresses: [{ type: 'InternalIP', address: '192.0.2.1' }] },
} as KubeObject;

const serviceCidr: KubeObject = {
  metadata: { name: 'kubernetes', resourceVersion: '1' },
  spec: { cidrs: [SERVICE_NETWORK] },
} as KubeObject;

/** One watch: what is pushed comes out, until the signal. */
class EventQueue implements AsyncIterable<Event> {
  readonly #events: Event[] = [];
  readonly #signal: AbortSignal | undefined;
  #wake: () => void = () => {};

  constructor(signal: AbortSignal | undefined) {
    this.#signal = signal;
    signal?.addEventListener('abort', () => this.#wake(), { once: true });
  }

  push(event: Event): void {
    this.#events.push(event);
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Event, void> {
    while (this.#signal?.aborted !== true) {
      const event = this.#events.shift();
      if (event !== undefined) yield event;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}
