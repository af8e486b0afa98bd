import type { V1Endpoint, V1EndpointSlice, V1ObjectMeta, V1Service } from '../kube/types.ts';

/*
 * API objects without what nobody here reads, which is most of them: ten thousand Services and their slices would
 * otherwise take twice the memory. What stays is as it came, also where it is nonsense that will be reported.
 */

export function trimService(service: V1Service): V1Service {
  const { metadata } = service;
  return isObject(metadata) ? { ...service, metadata: trimMetadata(metadata) } : service;
}

export function trimSlice(slice: V1EndpointSlice): V1EndpointSlice {
  const { metadata, endpoints } = slice;
  return {
    ...slice,
    ...(isObject(metadata) && { metadata: trimMetadata(metadata) }),
    ...(Array.isArray(endpoints) && { endpoints: endpoints.map(trimEndpoint) }),
  };
}

function trimMetadata({
  managedFields,
  ownerReferences,
  generateName,
  uid,
  ...metadata
}: V1ObjectMeta): V1ObjectMeta {
  return metadata;
}

function trimEndpoint(endpoint: V1Endpoint): V1Endpoint {
  if (!isObject(endpoint)) return endpoint;
  const { targetRef, deprecatedTopology, hostname, zone, ...rest } = endpoint;
  const { conditions } = rest;
  return isUsual(conditions) ? { ...rest, conditions: usual } : rest;
}

/** What almost all endpoints have: one object for all of them. */
const usual: V1Endpoint['conditions'] = Object.freeze({ ready: true, serving: true, terminating: false });

function isUsual(conditions: V1Endpoint['conditions']): boolean {
  if (!isObject(conditions)) return false;
  return conditions.ready === true && conditions.serving === true && conditions.terminating === false;
}

function isObject<T>(value: T): value is T & object {
  return typeof value === 'object' && value !== null;
}
