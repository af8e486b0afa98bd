import type { V1EndpointSlice, V1Service } from '../../kube/types.ts';

export const ENDPOINTS_EACH = 10;
export const SERVICE_PORT = 80;
export const TARGET_PORT = 8080;
/** Where the endpoints are; the services' own addresses lie outside of it. */
export const POD_NETWORK = '10.128.0.0/9';
export const SERVICE_NETWORK = '10.96.0.0/12';

const FIRST_SERVICE = 10 * 2 ** 24 + 96 * 2 ** 16 + 1;
const FIRST_ENDPOINT = 10 * 2 ** 24 + 128 * 2 ** 16 + 1;
/** Prime, so that the services that change lie all over the tables. */
const STRIDE = 7919;

/** One Service as all sides of the comparison get it: TCP, one port, some endpoints on other nodes. */
export interface PlainService {
  readonly name: string;
  readonly clusterIp: string;
  readonly endpoints: readonly string[];
}

/** Numbered Services with their endpoints: the same for everybody who makes one of the same size. */
export class World {
  readonly size: number;
  readonly #endpoints: number[][];
  #nextAddress = FIRST_ENDPOINT;
  #turn = 0;

  constructor(size: number) {
    this.size = size;
    this.#endpoints = Array.from({ length: size }, () =>
      Array.from({ length: ENDPOINTS_EACH }, () => this.#nextAddress++),
    );
  }

  service(number: number): PlainService {
    const endpoints = (this.#endpoints[number] ?? []).map(addressText);
    return { name: `service-${number}`, clusterIp: addressText(FIRST_SERVICE + number), endpoints };
  }

  *services(): Generator<PlainService> {
    for (let number = 0; number < this.size; number += 1) yield this.service(number);
  }

  /** The next service, whose first endpoint has another address now. */
  replaceEndpoint(): { readonly before: PlainService; readonly after: PlainService } {
    this.#turn = (this.#turn + STRIDE) % this.size;
    const before = this.service(this.#turn);
    const endpoints = this.#endpoints[this.#turn];
    if (endpoints !== undefined) endpoints[0] = this.#nextAddress++;
    return { before, after: this.service(this.#turn) };
  }

  /** A service beyond those of the world, which stay as they are. */
  extraService(index: number): PlainService {
    const endpoints = Array.from({ length: ENDPOINTS_EACH }, () => addressText(this.#nextAddress++));
    return { name: `extra-${index}`, clusterIp: addressText(FIRST_SERVICE + this.size + index), endpoints };
  }
}

function addressText(address: number): string {
  return [24, 16, 8, 0].map((bits) => Math.floor(address / 2 ** bits) % 256).join('.');
}

/** As an API server has it, with the fields that nobody needs. */
export function serviceObject({ name, clusterIp }: PlainService, version: number): V1Service {
  const spec = {
    clusterIP: clusterIp,
    clusterIPs: [clusterIp],
    internalTrafficPolicy: 'Cluster',
    ipFamilies: ['IPv4'],
    ipFamilyPolicy: 'SingleStack',
    ports: [{ name: 'http', port: SERVICE_PORT, protocol: 'TCP', targetPort: TARGET_PORT }],
    selector: { app: name },
    sessionAffinity: 'None',
    type: 'ClusterIP',
  };
  const metadata = { ...metadataOf(name, name, version), labels: { app: name } };
  return { apiVersion: 'v1', kind: 'Service', metadata, spec, status: { loadBalancer: {} } } as V1Service;
}

export function sliceObject({ name, endpoints }: PlainService, version: number): V1EndpointSlice {
  const labels = {
    app: name,
    'endpointslice.kubernetes.io/managed-by': 'endpointslice-controller.k8s.io',
    'kubernetes.io/service-name': name,
  };
  const owner = { apiVersion: 'v1', kind: 'Service', name, uid: uidOf(name), controller: true };
  const metadata = { ...metadataOf(`${name}-slice`, name, version), labels, ownerReferences: [owner] };
  return {
    addressType: 'IPv4',
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata,
    ports: [{ name: 'http', port: TARGET_PORT, protocol: 'TCP' }],
    endpoints: endpoints.map((address, index) => ({
      addresses: [address],
      conditions: { ready: true, serving: true, terminating: false },
      nodeName: `node-${index}`,
      targetRef: {
        kind: 'Pod',
        name: `${name}-${index}`,
        namespace: 'default',
        uid: uidOf(`${name}-${index}`),
      },
      zone: 'zone-1',
    })),
  } as V1EndpointSlice;
}

function metadataOf(name: string, owner: string, version: number) {
  const fieldsV1 = {
    'f:metadata': { 'f:labels': { '.': {}, 'f:app': {} } },
    'f:spec': { 'f:ports': { '.': {}, [`k:{"port":${SERVICE_PORT}}`]: { '.': {}, 'f:port': {} } } },
  };
  return {
    creationTimestamp: '2026-01-01T00:00:00Z',
    generateName: `${owner}-`,
    managedFields: [
      {
        apiVersion: 'v1',
        fieldsType: 'FieldsV1',
        fieldsV1,
        manager: 'controller',
        operation: 'Update',
        time: '2026-01-01T00:00:00Z',
      },
    ],
    name,
    namespace: 'default',
    resourceVersion: `${version}`,
    uid: uidOf(name),
  };
}

/** As long as a real one. */
function uidOf(name: string): string {
  return `${name}-00000000-0000-0000-0000-000000000000`.slice(0, 36);
}
