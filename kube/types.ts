import type * as client from '@kubernetes/client-node';

/** An API object as it comes over the wire: the official client's types, with times as RFC 3339 text. */
export type Wire<T> = T extends Date
  ? string
  : T extends readonly (infer Item)[]
    ? Wire<Item>[]
    : T extends object
      ? { [Key in keyof T]: Wire<T[Key]> }
      : T;

export type V1ObjectMeta = Wire<client.V1ObjectMeta>;
export type V1Namespace = Wire<client.V1Namespace>;
export type V1Node = Wire<client.V1Node>;
export type V1Pod = Wire<client.V1Pod>;
export type V1Service = Wire<client.V1Service>;
export type V1ServicePort = Wire<client.V1ServicePort>;
export type V1EndpointSlice = Wire<client.V1EndpointSlice>;
export type V1Endpoint = Wire<client.V1Endpoint>;
export type V1EndpointPort = Wire<client.DiscoveryV1EndpointPort>;
export type V1ServiceCIDR = Wire<client.V1ServiceCIDR>;
export type V1Lease = Wire<client.V1Lease>;
export type V1Event = Wire<client.CoreV1Event>;

/** What every stored object has. */
export interface KubeObject {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: V1ObjectMeta;
}

/** Addresses one kind in URLs. */
export interface Resource {
  /** "" for the core group. */
  readonly group: string;
  readonly version: string;
  readonly plural: string;
  readonly namespaced: boolean;
}

const core = (plural: string, namespaced: boolean): Resource => ({
  group: '',
  version: 'v1',
  plural,
  namespaced,
});

export const NAMESPACES: Resource = core('namespaces', false);
export const NODES: Resource = core('nodes', false);
export const PODS: Resource = core('pods', true);
export const SERVICES: Resource = core('services', true);
export const EVENTS: Resource = core('events', true);
export const ENDPOINT_SLICES: Resource = {
  group: 'discovery.k8s.io',
  version: 'v1',
  plural: 'endpointslices',
  namespaced: true,
};
/** Since Kubernetes 1.33; older servers answer 404. */
export const SERVICE_CIDRS: Resource = {
  group: 'networking.k8s.io',
  version: 'v1',
  plural: 'servicecidrs',
  namespaced: false,
};
export const LEASES: Resource = {
  group: 'coordination.k8s.io',
  version: 'v1',
  plural: 'leases',
  namespaced: true,
};

/** `namespace/name`, or `name` for what lives in no namespace: the key of informers' stores. */
export function objectKey(object: KubeObject): string {
  const { namespace, name } = object.metadata ?? {};
  return namespace === undefined || namespace === '' ? `${name}` : `${namespace}/${name}`;
}

/** One page of a list. */
export interface KubeList<T> {
  readonly items: T[];
  readonly metadata: {
    readonly resourceVersion?: string;
    readonly continue?: string;
    readonly remainingItemCount?: number;
  };
}

/** One line of a watch. The object of an ERROR is a metav1.Status. */
export interface WatchEvent<T> {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK';
  readonly object: T;
}

export interface ListOptions {
  readonly namespace?: string;
  readonly labelSelector?: string;
  readonly fieldSelector?: string;
  readonly resourceVersion?: string;
  readonly limit?: number;
  readonly continue?: string;
  readonly signal?: AbortSignal;
}

export interface WatchOptions {
  readonly namespace?: string;
  readonly labelSelector?: string;
  readonly fieldSelector?: string;
  readonly resourceVersion?: string;
  /** The server ends the watch after this long. */
  readonly timeoutSeconds?: number;
  readonly allowWatchBookmarks?: boolean;
  /** A connection on which nothing came for this long counts as dead. */
  readonly inactivityTimeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface WriteOptions {
  readonly subresource?: 'status' | 'finalize';
  readonly signal?: AbortSignal;
}

export interface PatchOptions extends WriteOptions {
  readonly namespace?: string;
  /** Default "merge" (RFC 7386). */
  readonly type?: 'merge' | 'strategic';
}

export interface DeleteOptions {
  readonly namespace?: string;
  readonly gracePeriodSeconds?: number;
  readonly preconditions?: { readonly uid?: string; readonly resourceVersion?: string };
  readonly signal?: AbortSignal;
}

/** What reads a kind as a list and the changes after it. */
export interface ListWatcher {
  list<T extends KubeObject>(resource: Resource, options?: ListOptions): Promise<KubeList<T>>;
  /** Ends when the server ends the watch; throws ApiError (410: the version is too old), or the signal's reason. */
  watch<T extends KubeObject>(resource: Resource, options?: WatchOptions): AsyncIterable<WatchEvent<T>>;
}

/** A Kubernetes API, over HTTP (KubeClient) or inside the process. Refusals are thrown as ApiError. */
export interface KubeApi extends ListWatcher {
  /** undefined when there is no such object. */
  get<T extends KubeObject>(resource: Resource, name: string, namespace?: string): Promise<T | undefined>;
  create<T extends KubeObject>(resource: Resource, object: T): Promise<T>;
  /** PUT. With a resourceVersion in the object, refused with 409 when the stored one is another. */
  update<T extends KubeObject>(resource: Resource, object: T, options?: WriteOptions): Promise<T>;
  patch<T extends KubeObject>(
    resource: Resource,
    name: string,
    patch: object,
    options?: PatchOptions,
  ): Promise<T>;
  /** false when there was nothing to delete. */
  delete(resource: Resource, name: string, options?: DeleteOptions): Promise<boolean>;
}
