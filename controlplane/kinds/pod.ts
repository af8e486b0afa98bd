import { isDeepStrictEqual } from 'node:util';
import type { StatusCause } from '../../kube/errors.ts';
import { PODS, type V1Pod } from '../../kube/types.ts';
import { duplicate, forbidden, invalid, notSupported, required } from '../registry/field-errors.ts';
import type { Kind } from '../registry/kind.ts';
import { dnsLabelProblem, dnsSubdomainProblem, portNameProblem } from '../registry/names.ts';
import { conditionsShape, type Shape } from '../registry/shape.ts';
import { PROTOCOLS, portCauses } from './ports.ts';

type PodSpec = NonNullable<V1Pod['spec']>;
type Container = PodSpec['containers'][number];

const GRACE_SECONDS = 30;
const RESTART_POLICIES = ['Always', 'OnFailure', 'Never'];

const containerShape: Shape = {
  name: 'string',
  image: 'string',
  ports: [
    { name: 'string', containerPort: 'integer', hostPort: 'integer', hostIP: 'string', protocol: 'string' },
  ],
  env: [{ name: 'string', value: 'string' }],
};

const containerMergeKeys = (list: string) => ({
  [`spec.${list}`]: 'name',
  [`spec.${list}.env`]: 'name',
  [`spec.${list}.ports`]: 'containerPort',
  [`spec.${list}.volumeMounts`]: 'mountPath',
  [`spec.${list}.volumeDevices`]: 'devicePath',
});

export const podKind: Kind<V1Pod> = {
  ...PODS,
  kind: 'Pod',
  singular: 'pod',
  shortNames: ['po'],
  categories: ['all'],
  subresources: ['status'],
  hasGeneration: true,
  shape: {
    spec: {
      nodeName: 'string',
      hostname: 'string',
      subdomain: 'string',
      hostNetwork: 'boolean',
      restartPolicy: 'string',
      schedulerName: 'string',
      serviceAccountName: 'string',
      terminationGracePeriodSeconds: 'integer',
      containers: [containerShape],
      initContainers: [containerShape],
    },
    status: {
      phase: 'string',
      podIP: 'string',
      podIPs: [{ ip: 'string' }],
      hostIP: 'string',
      conditions: conditionsShape,
    },
  },
  mergeKeys: {
    ...containerMergeKeys('containers'),
    ...containerMergeKeys('initContainers'),
    ...containerMergeKeys('ephemeralContainers'),
    'spec.volumes': 'name',
    'spec.imagePullSecrets': 'name',
    'spec.hostAliases': 'ip',
    'spec.topologySpreadConstraints': 'topologyKey',
    'spec.schedulingGates': 'name',
    'status.conditions': 'type',
    'status.podIPs': 'ip',
  },
  nameProblem: dnsSubdomainProblem,
  setDefaults(pod) {
    if (pod.spec !== undefined) setSpecDefaults(pod.spec);
    pod.status ??= {};
    pod.status.phase ??= 'Pending';
    const [first] = pod.status.podIPs ?? [];
    if (first?.ip !== undefined) pod.status.podIP = first.ip;
    else if (pod.status.podIP !== undefined) pod.status.podIPs = [{ ip: pod.status.podIP }];
  },
  validate: (pod, current) =>
    pod.spec === undefined
      ? [required('spec.containers')]
      : [
          ...specCauses(pod.spec),
          ...(current?.spec === undefined ? [] : changeCauses(pod.spec, current.spec)),
        ],
  fields: ({ spec, status }) => ({
    'spec.nodeName': spec?.nodeName ?? '',
    'spec.restartPolicy': spec?.restartPolicy ?? '',
    'spec.schedulerName': spec?.schedulerName ?? '',
    'spec.serviceAccountName': spec?.serviceAccountName ?? '',
    'spec.hostNetwork': String(spec?.hostNetwork ?? false),
    'status.phase': status?.phase ?? '',
    'status.podIP': status?.podIP ?? '',
    'status.nominatedNodeName': status?.nominatedNodeName ?? '',
  }),
  graceSeconds({ spec, status }) {
    const isOver = status?.phase === 'Succeeded' || status?.phase === 'Failed';
    if ((spec?.nodeName ?? '') === '' || isOver) return 0;
    return spec?.terminationGracePeriodSeconds ?? GRACE_SECONDS;
  },
};

function setSpecDefaults(spec: PodSpec): void {
  spec.restartPolicy ??= 'Always';
  spec.dnsPolicy ??= 'ClusterFirst';
  spec.terminationGracePeriodSeconds ??= GRACE_SECONDS;
  spec.schedulerName ??= 'default-scheduler';
  spec.enableServiceLinks ??= true;
  spec.securityContext ??= {};
  spec.serviceAccountName ??= 'default';
  for (const container of [...(spec.containers ?? []), ...(spec.initContainers ?? [])]) {
    container.terminationMessagePath ??= '/dev/termination-log';
    container.terminationMessagePolicy ??= 'File';
    container.imagePullPolicy ??= pullPolicy(container.image ?? '');
    container.resources ??= {};
    for (const port of container.ports ?? []) {
      port.protocol ??= 'TCP';
      if (spec.hostNetwork === true) port.hostPort ??= port.containerPort;
    }
  }
}

/** An image without a tag, or with the tag "latest", may change under its name. */
function pullPolicy(image: string): string {
  const last = image.slice(image.lastIndexOf('/') + 1);
  if (last.includes('@')) return 'IfNotPresent';
  const tag = last.includes(':') ? last.slice(last.indexOf(':') + 1) : 'latest';
  return tag === 'latest' ? 'Always' : 'IfNotPresent';
}

function specCauses(spec: PodSpec): StatusCause[] {
  const containers = spec.containers ?? [];
  return [
    ...(containers.length === 0 ? [required('spec.containers')] : []),
    ...containerCauses(containers, 'spec.containers'),
    ...containerCauses(spec.initContainers ?? [], 'spec.initContainers'),
    ...(RESTART_POLICIES.includes(spec.restartPolicy ?? '')
      ? []
      : [notSupported('spec.restartPolicy', spec.restartPolicy, RESTART_POLICIES)]),
    ...labelCause('spec.hostname', spec.hostname),
    ...labelCause('spec.subdomain', spec.subdomain),
  ];
}

function labelCause(field: string, text: string | undefined): StatusCause[] {
  const problem = text === undefined || text === '' ? undefined : dnsLabelProblem(text);
  return problem === undefined ? [] : [invalid(field, text, problem)];
}

function containerCauses(containers: readonly Container[], path: string): StatusCause[] {
  const names = new Set<string>();
  return containers.flatMap((container, index) => {
    const at = `${path}[${index}]`;
    const causes: StatusCause[] = [];
    const name = container.name ?? '';
    if (name === '') causes.push(required(`${at}.name`));
    else causes.push(...labelCause(`${at}.name`, name));
    if (name !== '' && names.has(name)) causes.push(duplicate(`${at}.name`, name));
    names.add(name);
    if ((container.image ?? '') === '') causes.push(required(`${at}.image`));
    return [...causes, ...containerPortCauses(container, at)];
  });
}

function containerPortCauses({ ports = [] }: Container, path: string): StatusCause[] {
  const names = new Set<string>();
  return ports.flatMap(({ name, containerPort, protocol }, index) => {
    const at = `${path}.ports[${index}]`;
    const causes =
      containerPort === undefined
        ? [required(`${at}.containerPort`)]
        : portCauses(`${at}.containerPort`, containerPort);
    if (!PROTOCOLS.includes(protocol ?? '')) causes.push(notSupported(`${at}.protocol`, protocol, PROTOCOLS));
    if (name === undefined || name === '') return causes;
    const problem = portNameProblem(name);
    if (problem !== undefined) causes.push(invalid(`${at}.name`, name, problem));
    else if (names.has(name)) causes.push(duplicate(`${at}.name`, name));
    names.add(name);
    return causes;
  });
}

/** What runs is not changed, but for a few fields that are left out of the comparison here. */
function changeCauses(spec: PodSpec, current: PodSpec): StatusCause[] {
  const withoutImages = (containers: readonly Container[] = []) =>
    containers.map(({ image: _, ...rest }) => rest);
  const fixed = ({
    activeDeadlineSeconds: _,
    tolerations: __,
    terminationGracePeriodSeconds: ___,
    ...rest
  }: PodSpec) => ({
    ...rest,
    containers: withoutImages(rest.containers),
    initContainers: withoutImages(rest.initContainers),
  });
  if (isDeepStrictEqual(fixed(spec), fixed(current))) return [];
  return [
    forbidden(
      'spec',
      'pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,' +
        '`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),' +
        '`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)',
    ),
  ];
}
