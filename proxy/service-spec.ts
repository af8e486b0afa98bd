import { type Cidr, type Family, families, familyOf, type Ip } from '../core/address.ts';
import type { V1Service, V1ServicePort } from '../kube/types.ts';
import { objectsOf, portOf, quoted, type Report, textsOf, wordOf } from './object-fields.ts';
import { notAProtocol, type Protocol, parseProtocol } from './protocol.ts';
import { parseCidrSloppy, parseIpSloppy } from './sloppy.ts';
import type { TrafficPolicy } from './view.ts';

/** What a Service says, checked and with its addresses normalised, before anything of the node or its endpoints. */
export interface ServiceSpec {
  /** `namespace/name`. */
  readonly name: string;
  readonly clusterIps: ReadonlyMap<Family, Ip>;
  readonly externalIps: readonly Ip[];
  /** Of load balancers that pass packets on with the address they were sent to. */
  readonly loadBalancerIps: readonly Ip[];
  readonly sourceRanges: SourceRanges;
  readonly ports: readonly PortSpec[];
  readonly internalPolicy: TrafficPolicy;
  /** "Cluster" where the Service cannot be reached from outside. */
  readonly externalPolicy: TrafficPolicy;
  readonly affinitySeconds: number | undefined;
  /** Where a load balancer asks whether this node has endpoints. */
  readonly healthCheckPort: number | undefined;
}

export interface SourceRanges {
  readonly cidrs: readonly Cidr[];
  /** Some were given that nobody can read: they must not mean "everybody". */
  readonly isDamaged: boolean;
}

export interface PortSpec {
  readonly name: string;
  readonly protocol: Protocol;
  readonly port: number;
  readonly nodePort: number | undefined;
}

const types = ['ClusterIP', 'NodePort', 'LoadBalancer', 'ExternalName'] as const;
const policies = ['Cluster', 'Local'] as const;
const affinities = ['None', 'ClientIP'] as const;
const ipModes = ['VIP', 'Proxy'] as const;

/** The API server's default. */
const AFFINITY_SECONDS = 10_800;
const MAX_AFFINITY_SECONDS = 86_400;

/** Undefined: the Service exists in DNS only (headless, or an external name), or has no address yet. */
export function parseServiceSpec(service: V1Service, report: Report): ServiceSpec | undefined {
  const { metadata, spec } = service;
  const type = wordOf(spec?.type, types, 'spec.type', report) ?? 'ClusterIP';
  if (!spec?.clusterIP || spec.clusterIP === 'None' || type === 'ExternalName') return undefined;
  const externalIps = externalIpsOf(service, report);
  const internal = wordOf(spec.internalTrafficPolicy, policies, 'spec.internalTrafficPolicy', report);
  const external = wordOf(spec.externalTrafficPolicy, policies, 'spec.externalTrafficPolicy', report);
  const isAccessible = type !== 'ClusterIP' || externalIps.length > 0;
  const isLocal = external === 'Local' && isAccessible;
  return {
    name: `${metadata?.namespace}/${metadata?.name}`,
    clusterIps: clusterIpsOf(service, report),
    externalIps,
    loadBalancerIps: loadBalancerIpsOf(service, report),
    sourceRanges: sourceRangesOf(service, report),
    ports: portsOf(service, report),
    internalPolicy: internal ?? 'Cluster',
    externalPolicy: isLocal ? 'Local' : 'Cluster',
    affinitySeconds: affinitySecondsOf(service, report),
    healthCheckPort: isLocal && type === 'LoadBalancer' ? healthCheckPortOf(service, report) : undefined,
  };
}

function clusterIpsOf({ spec }: V1Service, report: Report): Map<Family, Ip> {
  const found = new Map<Family, Ip>();
  const ipFamilies: readonly unknown[] = Array.isArray(spec?.ipFamilies) ? spec.ipFamilies : [];
  const given: readonly unknown[] = Array.isArray(spec?.clusterIPs) ? spec.clusterIPs : [];
  if (ipFamilies.length === 0) {
    const ip = addressOf(spec?.clusterIP, 'spec.clusterIP', report);
    if (ip !== undefined) found.set(familyOf(ip), ip);
    return found;
  }
  for (const [index, each] of ipFamilies.entries()) {
    if (each !== 'IPv4' && each !== 'IPv6')
      report(`spec.ipFamilies[${index}]`, `is neither IPv4 nor IPv6: ${quoted(each)}`);
  }
  for (const family of families) {
    const index = ipFamilies.indexOf(`IPv${family}`);
    const text = index < 0 ? undefined : (given[index] ?? (index === 0 ? spec?.clusterIP : undefined));
    if (text === undefined) continue;
    const ip = typeof text === 'string' ? parseIpSloppy(text) : undefined;
    if (ip !== undefined && familyOf(ip) === family) found.set(family, ip);
    else report(`spec.clusterIPs[${index}]`, `is no IPv${family} address: ${quoted(text)}`);
  }
  return found;
}

function addressOf(value: unknown, path: string, report: Report): Ip | undefined {
  const ip = typeof value === 'string' ? parseIpSloppy(value) : undefined;
  if (ip === undefined) report(path, `is no address: ${quoted(value)}`);
  return ip;
}

/** Whoever could claim these would cut this node off from itself. */
function openAddressOf(value: unknown, path: string, report: Report): Ip | undefined {
  const ip = addressOf(value, path, report);
  if (ip === undefined || !/^(0\.0\.0\.0|::|::1|127\..*)$/.test(ip)) return ip;
  report(path, `cannot be served, it means this machine: ${quoted(value)}`);
  return undefined;
}

function externalIpsOf({ spec }: V1Service, report: Report): Ip[] {
  const path = 'spec.externalIPs';
  const ips = textsOf(spec?.externalIPs, path, report).flatMap((text, index) => {
    return (text === undefined ? undefined : openAddressOf(text, `${path}[${index}]`, report)) ?? [];
  });
  return [...new Set(ips)];
}

/** Without a mode, as before there were modes, the load balancer leaves the address as it is. */
function loadBalancerIpsOf({ status }: V1Service, report: Report): Ip[] {
  const path = 'status.loadBalancer.ingress';
  const ips = objectsOf(status?.loadBalancer?.ingress, path, report).flatMap((ingress, index) => {
    if (!ingress?.ip) return [];
    const mode = wordOf(ingress.ipMode, ipModes, `${path}[${index}].ipMode`, report);
    const isOurs = mode === 'VIP' || ingress.ipMode === undefined || ingress.ipMode === null;
    return (isOurs ? openAddressOf(ingress.ip, `${path}[${index}].ip`, report) : undefined) ?? [];
  });
  return [...new Set(ips)];
}

function sourceRangesOf({ spec }: V1Service, report: Report): SourceRanges {
  const path = 'spec.loadBalancerSourceRanges';
  const given = spec?.loadBalancerSourceRanges;
  const texts = textsOf(given, path, report);
  const cidrs = texts.map((text, index) => {
    const cidr = text === undefined ? undefined : parseCidrSloppy(text.trim());
    if (text !== undefined && cidr === undefined)
      report(`${path}[${index}]`, `is no network: ${quoted(text)}`);
    return cidr;
  });
  const known = cidrs.filter((cidr) => cidr !== undefined);
  const isList = given === undefined || given === null || Array.isArray(given);
  return { cidrs: known, isDamaged: known.length < texts.length || !isList };
}

function portsOf({ spec }: V1Service, report: Report): PortSpec[] {
  const found: PortSpec[] = [];
  for (const [index, given] of objectsOf(spec?.ports, 'spec.ports', report).entries()) {
    const path = `spec.ports[${index}]`;
    const port = given && portSpecOf(given, path, report);
    if (port === undefined) continue;
    const twin = found.find((other) => areTwins(port, other));
    if (twin === undefined) found.push(port);
    else report(path, `is there already, as ${quoted(twin.name)}`);
  }
  return found;
}

/** Two ports that one connection could mean, or one slice. */
function areTwins(a: PortSpec, b: PortSpec): boolean {
  if (a.protocol !== b.protocol) return false;
  return a.name === b.name || a.port === b.port || (a.nodePort !== undefined && a.nodePort === b.nodePort);
}

function portSpecOf(given: V1ServicePort, path: string, report: Report): PortSpec | undefined {
  const protocol = parseProtocol(given.protocol);
  if (protocol === undefined) report(`${path}.protocol`, notAProtocol(given.protocol));
  const name: unknown = given.name ?? '';
  if (typeof name !== 'string') report(`${path}.name`, `is no text: ${quoted(name)}`);
  const port = portOf(given.port, `${path}.port`, report);
  if (!given.port) report(`${path}.port`, 'is missing');
  if (protocol === undefined || typeof name !== 'string' || port === undefined) return undefined;
  return { name, protocol, port, nodePort: portOf(given.nodePort, `${path}.nodePort`, report) };
}

function affinitySecondsOf({ spec }: V1Service, report: Report): number | undefined {
  const affinity = wordOf(spec?.sessionAffinity, affinities, 'spec.sessionAffinity', report);
  if (affinity !== 'ClientIP') return undefined;
  const seconds: unknown = spec?.sessionAffinityConfig?.clientIP?.timeoutSeconds ?? AFFINITY_SECONDS;
  if (Number.isInteger(seconds) && (seconds as number) > 0 && (seconds as number) <= MAX_AFFINITY_SECONDS)
    return seconds as number;
  const message = `is no number of seconds up to ${MAX_AFFINITY_SECONDS}: ${quoted(seconds)}`;
  report('spec.sessionAffinityConfig.clientIP.timeoutSeconds', message);
  return AFFINITY_SECONDS;
}

function healthCheckPortOf({ spec }: V1Service, report: Report): number | undefined {
  const path = 'spec.healthCheckNodePort';
  if (!spec?.healthCheckNodePort) report(path, 'is missing: load balancers cannot ask for this node');
  return portOf(spec?.healthCheckNodePort, path, report);
}
