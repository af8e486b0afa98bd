import fc from 'fast-check';
import type { V1EndpointSlice, V1Service } from '../../kube/types.ts';

// Objects that no API server would store: anything may stand in any field, beside what is right.

/** Words that mean something somewhere, so that nonsense gets far. */
const words = fc.constantFrom(
  'None',
  'Local',
  'Cluster',
  'ClientIP',
  'LoadBalancer',
  'ExternalName',
  'IPv4',
  'IPv6',
  'TCP',
  'SCTP',
  'VIP',
  'http',
  '10.97.0.1',
  '010.97.0.1',
  '::ffff:10.97.0.2',
  'fd00:97::1',
  '10.97.0.0/16',
  '0.0.0.0/0',
  '::/129',
  '{"10.97.0.1":-1}',
  '{',
  '__proto__',
);
const scalar = fc.oneof(
  words,
  fc.string({ maxLength: 8 }),
  fc.integer(),
  fc.double(),
  fc.boolean(),
  fc.constant(null),
);
const anything: fc.Arbitrary<unknown> = fc.oneof(
  { weight: 4, arbitrary: scalar },
  { weight: 2, arbitrary: fc.array(scalar, { maxLength: 3 }) },
  { weight: 1, arbitrary: fc.dictionary(words, scalar, { maxKeys: 3 }) },
  { weight: 1, arbitrary: fc.array(fc.dictionary(words, scalar, { maxKeys: 2 }), { maxLength: 2 }) },
);

/** Mostly what is right, sometimes nothing, sometimes anything. */
function field(right: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> {
  return fc.oneof(
    { weight: 30, arbitrary: right },
    { weight: 1, arbitrary: fc.constant(undefined) },
    { weight: 2, arbitrary: anything },
  );
}

function object(fields: Record<string, fc.Arbitrary<unknown>>): fc.Arbitrary<object> {
  return fc.record(Object.fromEntries(Object.entries(fields).map(([name, right]) => [name, field(right)])));
}

function list(item: fc.Arbitrary<unknown>): fc.Arbitrary<unknown[]> {
  return fc.array(field(item), { minLength: 1, maxLength: 3 });
}

const address = fc.constantFrom('10.97.0.1', '10.97.0.2', '10.97.0.3', 'fd00:97::1', 'fd00:97::2');
const network = fc.constantFrom('10.0.0.0/8', ' 192.0.2.0/24', 'fd00::/8', '0.0.0.0/0');
const number = fc.integer({ min: 1, max: 65_535 });
const protocol = fc.constantFrom('TCP', 'TCP', 'UDP', '');
const portName = fc.constantFrom('http', 'http', 'dns');
const ipFamily = fc.constantFrom('IPv4', 'IPv6');
const policy = fc.constantFrom('Cluster', 'Local');
const weights = fc
  .dictionary(address, fc.integer({ min: 0, max: 100 }), { maxKeys: 3 })
  .map((value) => JSON.stringify(value));

/** A Service with this name; everything else of it may be anything. */
export function nonsenseService(namespace: string, name: string): fc.Arbitrary<V1Service> {
  const metadata = object({
    labels: object({ app: fc.constant('x') }),
    annotations: object({
      'fairlead.dev/weights': weights,
      'fairlead.dev/load-balancing': fc.constantFrom('random', 'maglev'),
    }),
    creationTimestamp: fc.constant('2026-01-01T00:00:00Z'),
  });
  const spec = object({
    type: fc.constantFrom('ClusterIP', 'NodePort', 'LoadBalancer'),
    clusterIP: address,
    clusterIPs: fc.oneof(fc.constantFrom(['10.97.0.1', 'fd00:97::1'], ['10.97.0.2']), list(address)),
    ipFamilies: fc.oneof(fc.constantFrom([], ['IPv4'], ['IPv4', 'IPv6']), list(ipFamily)),
    ports: list(object({ name: portName, port: number, protocol, nodePort: number, targetPort: number })),
    externalIPs: list(address),
    loadBalancerSourceRanges: list(network),
    sessionAffinity: fc.constantFrom('None', 'ClientIP'),
    sessionAffinityConfig: object({
      clientIP: object({ timeoutSeconds: fc.integer({ min: 1, max: 86_400 }) }),
    }),
    internalTrafficPolicy: policy,
    externalTrafficPolicy: policy,
    healthCheckNodePort: number,
  });
  const ingress = object({ ip: address, ipMode: fc.constantFrom('VIP', 'Proxy'), hostname: fc.string() });
  const status = object({ loadBalancer: object({ ingress: list(ingress) }) });
  return fc
    .record({ metadata: field(metadata), spec: field(spec), status: field(status) })
    .map((given) => ({ ...given, metadata: named(given.metadata, namespace, name) }) as V1Service);
}

/** An EndpointSlice with this name that says it belongs to a service; everything else of it may be anything. */
export function nonsenseSlice(
  namespace: string,
  name: string,
  service: string,
): fc.Arbitrary<V1EndpointSlice> {
  const names = list(object({ name: fc.constantFrom('a', 'b', 'here') }));
  const endpoint = object({
    addresses: fc.oneof(fc.constantFrom(['10.97.0.1'], ['10.97.0.2'], ['fd00:97::1']), list(address)),
    nodeName: fc.constantFrom('here', 'there'),
    conditions: object({ ready: fc.boolean(), serving: fc.boolean(), terminating: fc.boolean() }),
    hints: object({ forZones: names, forNodes: names }),
  });
  const slice = object({
    addressType: fc.constantFrom('IPv4', 'IPv4', 'IPv6', 'FQDN'),
    ports: list(object({ name: portName, port: number, protocol })),
    endpoints: list(endpoint),
  });
  const labels = { labels: { 'kubernetes.io/service-name': service } };
  return fc
    .record({ slice, annotations: field(fc.dictionary(words, anything, { maxKeys: 2 })) })
    .map(({ slice: given, annotations }) => {
      const metadata = named({ annotations, ...labels }, namespace, name);
      return { ...given, metadata } as unknown as V1EndpointSlice;
    });
}

function named(metadata: unknown, namespace: string, name: string): object {
  const rest = typeof metadata === 'object' && metadata !== null ? metadata : {};
  return { ...rest, namespace, name };
}

/** A change of an object: of two Services over few addresses, so that they quarrel, and of slices that change hands. */
export const nonsenseStep = fc.oneof(
  // Whatever is nonsense of an object, it is kept under its own name: two of one name cannot be.
  fc.constantFrom('a', 'b').chain((name) =>
    fc.record({
      kind: fc.constant('service' as const),
      key: fc.constant(`bad/${name}`),
      object: fc.option(nonsenseService('bad', name)),
    }),
  ),
  fc.tuple(fc.constantFrom('1', '2'), fc.constantFrom('a', 'b')).chain(([name, service]) =>
    fc.record({
      kind: fc.constant('slice' as const),
      key: fc.constant(`bad/${name}`),
      object: fc.option(nonsenseSlice('bad', name, service)),
    }),
  ),
);
