import { type Cidr, cidrContains, familyOf, parseCidr, parseIp } from '../../core/address.ts';
import type { StatusCause } from '../../kube/errors.ts';
import { ENDPOINT_SLICES, type V1Endpoint, type V1EndpointSlice } from '../../kube/types.ts';
import { duplicate, invalid, notSupported, required, tooMany } from '../registry/field-errors.ts';
import type { Kind } from '../registry/kind.ts';
import { immutableCauses } from '../registry/metadata.ts';
import { dnsLabelProblem, dnsSubdomainProblem } from '../registry/names.ts';
import { PROTOCOLS, portCauses } from './ports.ts';

const ADDRESS_TYPES = ['FQDN', 'IPv4', 'IPv6'];
const MOST_ENDPOINTS = 1000;
const MOST_ADDRESSES = 100;
const MOST_PORTS = 100;

/** Addresses that are no endpoint of a cluster: traffic to them would stay on the node that sends it. */
const SPECIAL: readonly (readonly [Cidr | undefined, string])[] = [
  [parseCidr('0.0.0.0/32'), 'may not be unspecified (0.0.0.0)'],
  [parseCidr('::/128'), 'may not be unspecified (::)'],
  [parseCidr('127.0.0.0/8'), 'may not be in the loopback range (127.0.0.0/8, ::1/128)'],
  [parseCidr('::1/128'), 'may not be in the loopback range (127.0.0.0/8, ::1/128)'],
  [parseCidr('169.254.0.0/16'), 'may not be in the link-local range (169.254.0.0/16, fe80::/10)'],
  [parseCidr('fe80::/10'), 'may not be in the link-local range (169.254.0.0/16, fe80::/10)'],
  [parseCidr('224.0.0.0/24'), 'may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)'],
  [parseCidr('ff02::/16'), 'may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)'],
];

export const endpointSliceKind: Kind<V1EndpointSlice> = {
  ...ENDPOINT_SLICES,
  kind: 'EndpointSlice',
  singular: 'endpointslice',
  shortNames: [],
  subresources: [],
  hasGeneration: true,
  shape: {
    addressType: 'string',
    endpoints: [
      {
        addresses: ['string'],
        conditions: { ready: 'boolean', serving: 'boolean', terminating: 'boolean' },
        hostname: 'string',
        nodeName: 'string',
        zone: 'string',
        targetRef: { kind: 'string', namespace: 'string', name: 'string', uid: 'string' },
      },
    ],
    ports: [{ name: 'string', protocol: 'string', port: 'integer', appProtocol: 'string' }],
  },
  nameProblem: dnsSubdomainProblem,
  setDefaults(slice) {
    slice.endpoints ??= [];
    for (const port of slice.ports ?? []) {
      port.name ??= '';
      port.protocol ??= 'TCP';
    }
  },
  validate: (slice, current) => [
    ...addressTypeCauses(slice, current),
    ...listCauses(slice.endpoints ?? [], 'endpoints', MOST_ENDPOINTS, (endpoint, path) =>
      endpointCauses(endpoint, path, slice.addressType),
    ),
    ...portListCauses(slice),
  ],
};

function addressTypeCauses(slice: V1EndpointSlice, current: V1EndpointSlice | undefined): StatusCause[] {
  if (current !== undefined) return immutableCauses('', slice, current, ['addressType']);
  if ((slice.addressType ?? '') === '') return [required('addressType')];
  return ADDRESS_TYPES.includes(slice.addressType)
    ? []
    : [notSupported('addressType', slice.addressType, ADDRESS_TYPES)];
}

function listCauses<T>(
  items: readonly T[],
  path: string,
  most: number,
  causesOf: (item: T, path: string) => StatusCause[],
): StatusCause[] {
  if (items.length > most) return [tooMany(path, items.length, most)];
  return items.flatMap((item, index) => causesOf(item, `${path}[${index}]`));
}

function endpointCauses(endpoint: V1Endpoint, path: string, addressType: string): StatusCause[] {
  const addresses = endpoint.addresses ?? [];
  const causes = listCauses(addresses, `${path}.addresses`, MOST_ADDRESSES, (address, at) =>
    addressCauses(address, at, addressType),
  );
  if (addresses.length === 0) causes.push(required(`${path}.addresses`, 'must contain at least 1 address'));
  const { hostname, nodeName } = endpoint;
  const hostnameProblem = hostname === undefined ? undefined : dnsLabelProblem(hostname);
  if (hostnameProblem !== undefined) causes.push(invalid(`${path}.hostname`, hostname, hostnameProblem));
  const nodeProblem = nodeName === undefined ? undefined : dnsSubdomainProblem(nodeName);
  if (nodeProblem !== undefined) causes.push(invalid(`${path}.nodeName`, nodeName, nodeProblem));
  return causes;
}

function addressCauses(address: string, path: string, addressType: string): StatusCause[] {
  if (addressType === 'FQDN') {
    const problem = dnsSubdomainProblem(address);
    return problem === undefined ? [] : [invalid(path, address, problem)];
  }
  if (!ADDRESS_TYPES.includes(addressType)) return [];
  const ip = parseIp(address);
  if (ip === undefined || `IPv${familyOf(ip)}` !== addressType) {
    return [invalid(path, address, `must be an ${addressType} address`)];
  }
  return SPECIAL.filter(([cidr]) => cidr !== undefined && cidrContains(cidr, ip)).map(([, problem]) =>
    invalid(path, address, problem),
  );
}

function portListCauses({ ports = [] }: V1EndpointSlice): StatusCause[] {
  const names = new Set<string>();
  return listCauses(ports, 'ports', MOST_PORTS, ({ name = '', protocol = '', port }, path) => {
    const causes = port === undefined ? [] : portCauses(`${path}.port`, port);
    const problem = name === '' ? undefined : dnsLabelProblem(name);
    if (problem !== undefined) causes.push(invalid(`${path}.name`, name, problem));
    if (names.has(name)) causes.push(duplicate(`${path}.name`, name));
    names.add(name);
    if (!PROTOCOLS.includes(protocol)) causes.push(notSupported(`${path}.protocol`, protocol, PROTOCOLS));
    return causes;
  });
}
