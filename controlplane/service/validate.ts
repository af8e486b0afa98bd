import { parseHostCidr, parseIp } from '../../core/address.ts';
import type { StatusCause } from '../../kube/errors.ts';
import type { V1Service } from '../../kube/types.ts';
import { PROTOCOLS, portCauses } from '../kinds/ports.ts';
import { duplicate, forbidden, invalid, notSupported, required } from '../registry/field-errors.ts';
import { labelCauses } from '../registry/metadata.ts';
import { dnsLabelProblem, dnsSubdomainProblem, portNameProblem } from '../registry/names.ts';
import { familyCauses } from './families.ts';
import {
  hasClusterIp,
  hasHealthCheckNodePort,
  isExternallyReached,
  isHeadless,
  mayHaveNodePorts,
  type ServicePort,
  type ServiceSpec,
} from './model.ts';

const TYPES = ['ClusterIP', 'ExternalName', 'LoadBalancer', 'NodePort'];
const AFFINITIES = ['ClientIP', 'None'];
const POLICIES = ['Cluster', 'Local'];
const MOST_AFFINITY_SECONDS = 86_400;

/** Everything about a service that can be told without knowing what others have been given. */
export function validateService(service: V1Service, current: V1Service | undefined): StatusCause[] {
  const { spec } = service;
  if (spec === undefined) return [required('spec.ports')];
  return [
    ...choice('spec.type', spec.type, TYPES),
    ...portListCauses(spec),
    ...affinityCauses(spec),
    ...policyCauses(spec),
    ...externalNameCauses(spec),
    ...addressCauses(spec),
    ...labelCauses(spec.selector ?? {}, 'spec.selector'),
    ...familyCauses(spec, current?.spec),
    ...healthPortCauses(spec),
  ];
}

function choice(field: string, value: string | undefined, values: readonly string[]): StatusCause[] {
  return value !== undefined && values.includes(value) ? [] : [notSupported(field, value, values)];
}

function portListCauses(spec: ServiceSpec): StatusCause[] {
  const ports = spec.ports ?? [];
  if (ports.length === 0 && hasClusterIp(spec) && !isHeadless(spec)) return [required('spec.ports')];
  const seen = { names: new Set<string>(), ports: new Set<string>(), nodePorts: new Set<string>() };
  return ports.flatMap((port, index) => {
    const path = `spec.ports[${index}]`;
    return [
      ...onePortCauses(port, path),
      ...portNameCauses(port, path, ports.length, seen.names),
      ...repeated(seen.ports, `${port.protocol} ${port.port}`, path, {
        port: port.port,
        protocol: port.protocol,
      }),
      ...nodePortCauses(spec, port, `${path}.nodePort`, seen.nodePorts),
    ];
  });
}

function onePortCauses({ port, protocol, targetPort }: ServicePort, path: string): StatusCause[] {
  const target = `${path}.targetPort`;
  const problem = typeof targetPort === 'string' ? portNameProblem(targetPort) : undefined;
  return [
    ...portCauses(`${path}.port`, port ?? 0),
    ...choice(`${path}.protocol`, protocol, PROTOCOLS),
    ...(typeof targetPort === 'number' ? portCauses(target, targetPort) : []),
    ...(problem === undefined ? [] : [invalid(target, targetPort, problem)]),
  ];
}

function portNameCauses(
  { name = '' }: ServicePort,
  path: string,
  count: number,
  seen: Set<string>,
): StatusCause[] {
  if (name === '') return count > 1 ? [required(`${path}.name`)] : [];
  const problem = dnsLabelProblem(name);
  if (problem !== undefined) return [invalid(`${path}.name`, name, problem)];
  return repeated(seen, name, `${path}.name`, name);
}

function nodePortCauses(
  spec: ServiceSpec,
  { nodePort, protocol }: ServicePort,
  path: string,
  seen: Set<string>,
): StatusCause[] {
  if (nodePort === undefined) return [];
  if (!mayHaveNodePorts(spec)) return [forbidden(path, `may not be used when \`type\` is '${spec.type}'`)];
  return repeated(seen, `${protocol} ${nodePort}`, path, nodePort);
}

function repeated(seen: Set<string>, key: string, field: string, value: unknown): StatusCause[] {
  if (seen.has(key)) return [duplicate(field, value)];
  seen.add(key);
  return [];
}

function affinityCauses(spec: ServiceSpec): StatusCause[] {
  const seconds = spec.sessionAffinityConfig?.clientIP?.timeoutSeconds;
  const isWrong = seconds !== undefined && (seconds <= 0 || seconds > MOST_AFFINITY_SECONDS);
  const field = 'spec.sessionAffinityConfig.clientIP.timeoutSeconds';
  return [
    ...choice('spec.sessionAffinity', spec.sessionAffinity, AFFINITIES),
    ...(isWrong
      ? [invalid(field, seconds, `must be greater than 0 and less than ${MOST_AFFINITY_SECONDS}`)]
      : []),
  ];
}

function policyCauses(spec: ServiceSpec): StatusCause[] {
  const { internalTrafficPolicy: inner, externalTrafficPolicy: outer } = spec;
  const field = 'spec.externalTrafficPolicy';
  return [
    ...(inner === undefined ? [] : choice('spec.internalTrafficPolicy', inner, POLICIES)),
    ...(outer === undefined || outer === '' ? [] : choice(field, outer, POLICIES)),
    ...(outer !== undefined && outer !== '' && !isExternallyReached(spec)
      ? [invalid(field, outer, 'may only be set for externally-accessible services')]
      : []),
  ];
}

function externalNameCauses(spec: ServiceSpec): StatusCause[] {
  if (spec.type !== 'ExternalName') return [];
  const name = (spec.externalName ?? '').replace(/\.$/, '');
  if (name === '') return [required('spec.externalName')];
  const problem = dnsSubdomainProblem(name);
  return problem === undefined ? [] : [invalid('spec.externalName', spec.externalName, problem)];
}

function addressCauses(spec: ServiceSpec): StatusCause[] {
  const ips = (spec.externalIPs ?? []).flatMap((text, index) =>
    parseIp(text) === undefined
      ? [
          invalid(
            `spec.externalIPs[${index}]`,
            text,
            'must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
          ),
        ]
      : [],
  );
  const ranges = (spec.loadBalancerSourceRanges ?? []).flatMap((text, index) =>
    parseHostCidr(text.trim()) === undefined
      ? [
          invalid(
            `spec.loadBalancerSourceRanges[${index}]`,
            text,
            'must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)',
          ),
        ]
      : [],
  );
  return [...ips, ...ranges];
}

function healthPortCauses(spec: ServiceSpec): StatusCause[] {
  const port = spec.healthCheckNodePort;
  const field = 'spec.healthCheckNodePort';
  if (port === undefined || port === 0) return [];
  return hasHealthCheckNodePort(spec)
    ? portCauses(field, port)
    : [
        invalid(
          field,
          port,
          "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
      ];
}
