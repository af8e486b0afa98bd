import { once } from 'node:events';
import type { Logger } from 'pino';
import { Informer } from '../../../kube/informer.ts';
import {
  ENDPOINT_SLICES,
  type KubeApi,
  type KubeObject,
  NODES,
  objectKey,
  PODS,
  type Resource,
  SERVICES,
  type V1EndpointSlice,
  type V1Node,
  type V1Pod,
  type V1Service,
} from '../../../kube/types.ts';
import { KeyIndex } from '../key-index.ts';
import { KeyLoop } from '../key-loop.ts';
import { MANAGED_BY_LABEL, MANAGED_BY_US, SERVICE_NAME_LABEL, ZONE_LABEL } from './labels.ts';
import { isReady, planGroups } from './plan-groups.ts';
import { planSlices, type SliceChanges } from './plan-slices.ts';

export interface EndpointSlicesOptions {
  readonly api: KubeApi;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/** How long to wait until a slice that was written is in the store; then go on, and see it later. */
const SEEN_TIMEOUT_MS = 1_000;

/** Keeps the EndpointSlices of every Service that has a selector equal to the pods that it selects. */
export async function runEndpointSlices(options: EndpointSlicesOptions): Promise<void> {
  const controller = new EndpointSlices(options);
  await controller.run();
}

class EndpointSlices {
  readonly #options: EndpointSlicesOptions;
  readonly #loop: KeyLoop;
  readonly #services: Informer<V1Service>;
  readonly #pods: Informer<V1Pod>;
  readonly #nodes: Informer<V1Node>;
  readonly #slices: Informer<V1EndpointSlice>;
  readonly #slicesByService = new KeyIndex();
  readonly #podsByNode = new KeyIndex();
  readonly #podsByNamespace = new KeyIndex();
  readonly #servicesByNamespace = new KeyIndex();
  readonly #selectors = new Map<string, Selector>();
  /** As they were when they were last told of: what changes is of interest to whom it was of interest before. */
  readonly #podsBefore = new Map<string, V1Pod>();
  readonly #zones = new Map<string, string>();
  readonly #seen = new EventTarget();

  constructor(options: EndpointSlicesOptions) {
    this.#options = options;
    this.#loop = new KeyLoop({
      signal: options.signal,
      work: (key) => this.#settle(key),
      onError: (service, error) =>
        options.log.warn({ service, error: error.message }, 'endpoints not written'),
    });
    this.#services = this.#informer(SERVICES, (key) => this.#serviceChanged(key));
    this.#pods = this.#informer(PODS, (key) => this.#podChanged(key));
    this.#nodes = this.#informer(NODES, (key) => this.#nodeChanged(key));
    this.#slices = this.#informer(
      ENDPOINT_SLICES,
      (key) => this.#sliceChanged(key),
      `${MANAGED_BY_LABEL}=${MANAGED_BY_US}`,
    );
  }

  async run(): Promise<void> {
    const informers = [this.#services, this.#pods, this.#nodes, this.#slices];
    await Promise.all(informers.map(({ synced }) => synced)).then(
      () => this.#loop.open(),
      () => {},
    );
    await Promise.all(informers.map(({ closed }) => closed));
    await this.#loop.idle();
  }

  #informer<T extends KubeObject>(
    resource: Resource,
    onChange: (key: string) => void,
    labelSelector?: string,
  ): Informer<T> {
    const { api, log, signal } = this.#options;
    const onError = (error: Error) =>
      log.warn({ resource: resource.plural, error: error.message }, 'cannot watch');
    return new Informer<T>({ client: api, resource, signal, onChange, onError, labelSelector });
  }

  #serviceChanged(key: string): void {
    const service = this.#services.store.get(key);
    this.#servicesByNamespace.set(key, service === undefined ? [] : [namespaceOf(key)]);
    if (service === undefined) this.#selectors.delete(key);
    else this.#selectors.set(key, Object.entries(service.spec?.selector ?? {}));
    this.#loop.mark(key);
  }

  #podChanged(key: string): void {
    const before = this.#podsBefore.get(key);
    const pod = this.#pods.store.get(key);
    const nodeName = pod?.spec?.nodeName;
    this.#podsByNode.set(key, nodeName === undefined ? [] : [nodeName]);
    this.#podsByNamespace.set(key, pod === undefined ? [] : [namespaceOf(key)]);
    if (pod === undefined) this.#podsBefore.delete(key);
    else this.#podsBefore.set(key, pod);
    for (const service of this.#servicesByNamespace.keysOf(namespaceOf(key))) {
      const selector = this.#selectors.get(service);
      if (selects(selector, before) || selects(selector, pod)) this.#loop.mark(service);
    }
  }

  /** Of a node only its zone is told. */
  #nodeChanged(name: string): void {
    const zone = this.#nodes.store.get(name)?.metadata?.labels?.[ZONE_LABEL];
    if (this.#zones.get(name) === zone) return;
    if (zone === undefined) this.#zones.delete(name);
    else this.#zones.set(name, zone);
    for (const key of this.#podsByNode.keysOf(name)) this.#podChanged(key);
  }

  #sliceChanged(key: string): void {
    const { namespace, labels } = this.#slices.store.get(key)?.metadata ?? {};
    const name = labels?.[SERVICE_NAME_LABEL];
    const services = this.#slicesByService.set(key, name === undefined ? [] : [`${namespace}/${name}`]);
    for (const service of services) this.#loop.mark(service);
    this.#seen.dispatchEvent(new Event(key));
  }

  #podsOf(serviceKey: string): V1Pod[] {
    const selector = this.#selectors.get(serviceKey);
    const pods = this.#podsByNamespace
      .keysOf(namespaceOf(serviceKey))
      .flatMap((key) => this.#pods.store.get(key) ?? []);
    return pods.filter((pod) => selects(selector, pod));
  }

  async #settle(key: string): Promise<void> {
    const service = this.#services.store.get(key);
    const existing = this.#slicesByService
      .keysOf(key)
      .flatMap((slice) => this.#slices.store.get(slice) ?? []);
    if (service !== undefined && service.spec?.type !== 'ExternalName') {
      // Slices of a service without selector are its maker's.
      if (hasSelector(service)) await this.#write(this.#plan(service, this.#podsOf(key), existing));
    } else await this.#write({ create: [], update: [], delete: existing });
  }

  #plan(service: V1Service, pods: readonly V1Pod[], existing: readonly V1EndpointSlice[]): SliceChanges {
    const groups = planGroups(service, pods, (name) => this.#nodes.store.get(name));
    return planSlices(service, groups, existing, triggerTime(service, pods));
  }

  /** New and changed slices before removals: no endpoint is ever missing between. */
  async #write(changes: SliceChanges): Promise<void> {
    const { api } = this.#options;
    for (const slice of changes.create) await this.#untilSeen(await api.create(ENDPOINT_SLICES, slice));
    for (const slice of changes.update) await this.#untilSeen(await api.update(ENDPOINT_SLICES, slice));
    for (const { metadata } of changes.delete) {
      const { name = '', namespace } = metadata ?? {};
      await api.delete(ENDPOINT_SLICES, name, { namespace });
      await this.#untilGone(`${namespace}/${name}`);
    }
  }

  /** The next plan must not be made without what this one wrote. */
  async #untilSeen(written: V1EndpointSlice): Promise<void> {
    const key = objectKey(written);
    const version = Number(written.metadata?.resourceVersion);
    await this.#until(key, () => Number(this.#slices.store.get(key)?.metadata?.resourceVersion) >= version);
  }

  async #untilGone(key: string): Promise<void> {
    await this.#until(key, () => !this.#slices.store.has(key));
  }

  async #until(key: string, isDone: () => boolean): Promise<void> {
    const signal = AbortSignal.any([AbortSignal.timeout(SEEN_TIMEOUT_MS), this.#options.signal]);
    while (!isDone() && !signal.aborted) await once(this.#seen, key, { signal }).catch(() => {});
  }
}

/** Labels that a pod must have; a service without any selects nothing. */
type Selector = readonly (readonly [name: string, value: string])[];

function selects(selector: Selector = [], pod: V1Pod | undefined): boolean {
  const labels = pod?.metadata?.labels;
  return (
    labels !== undefined && selector.length > 0 && selector.every(([name, value]) => labels[name] === value)
  );
}

function namespaceOf(key: string): string {
  return key.slice(0, key.indexOf('/'));
}

function hasSelector({ spec }: V1Service): boolean {
  return Object.keys(spec?.selector ?? {}).length > 0;
}

/** The newest time at which something became so that the slices are about. */
function triggerTime({ metadata }: V1Service, pods: readonly V1Pod[]): string | undefined {
  const times = pods.map((pod) => {
    const ready = pod.status?.conditions?.find(({ type }) => type === 'Ready');
    return (isReady(pod) ? ready?.lastTransitionTime : pod.metadata?.deletionTimestamp) ?? '';
  });
  return [metadata?.creationTimestamp ?? '', ...times].sort().at(-1) || undefined;
}
