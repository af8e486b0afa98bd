import { type Family, familyOf, parseIp } from '../../core/address.ts';
import type { StatusCause } from '../../kube/errors.ts';
import { duplicate, forbidden, invalid, notSupported, tooMany } from '../registry/field-errors.ts';
import { hasClusterIp, hasSelector, isHeadless, NO_CLUSTER_IP, type ServiceSpec } from './model.ts';

const FAMILIES = ['IPv4', 'IPv6'];
const POLICIES = ['PreferDualStack', 'RequireDualStack', 'SingleStack'];

export function familyName(family: Family): string {
  return `IPv${family}`;
}

/** What can be told about addresses and families without knowing the cluster's ranges. */
export function familyCauses(spec: ServiceSpec, current: ServiceSpec | undefined): StatusCause[] {
  if (!hasClusterIp(spec)) return absentCauses(spec);
  const causes = [...clusterIpCauses(spec), ...ipFamilyCauses(spec)];
  return causes.length > 0 || current === undefined || !hasClusterIp(current)
    ? causes
    : [...causes, ...primaryCauses(spec, current)];
}

function absentCauses(spec: ServiceSpec): StatusCause[] {
  const isSet = (value: unknown) =>
    Array.isArray(value) ? value.length > 0 : value !== undefined && value !== '';
  return (['clusterIP', 'clusterIPs', 'ipFamilies', 'ipFamilyPolicy'] as const)
    .filter((field) => isSet(spec[field]))
    .map((field) => forbidden(`spec.${field}`, 'may not be set for ExternalName services'));
}

function clusterIpCauses({ clusterIP, clusterIPs = [], ipFamilies = [] }: ServiceSpec): StatusCause[] {
  const field = 'spec.clusterIPs';
  if (clusterIPs.length > 2) return [tooMany(field, clusterIPs.length, 2)];
  if (clusterIP !== undefined && clusterIPs.length > 0 && clusterIPs[0] !== clusterIP) {
    return [invalid(`${field}[0]`, clusterIPs[0], 'first value must match `clusterIP`')];
  }
  const given = clusterIPs.length > 0 ? clusterIPs : clusterIP === undefined ? [] : [clusterIP];
  if (given.includes(NO_CLUSTER_IP) && given.length > 1) {
    return [invalid(field, given, "'None' must be the first and only value")];
  }
  const families = given
    .map((text) => (text === NO_CLUSTER_IP ? undefined : parseIp(text)))
    .map((ip) => ip && familyOf(ip));
  if (families.length === 2 && families[0] === families[1] && families[0] !== undefined) {
    return [invalid(field, given, 'may specify no more than one IP for each IP family')];
  }
  return given.flatMap((text, index) => {
    if (text === NO_CLUSTER_IP) return [];
    const family = families[index];
    const path = `${field}[${index}]`;
    if (family === undefined) {
      return [invalid(path, text, 'must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)')];
    }
    const wanted = ipFamilies[index];
    if (wanted === undefined || wanted === familyName(family)) return [];
    return [invalid(path, text, `expected an ${wanted} value as indicated by \`ipFamilies[${index}]\``)];
  });
}

function ipFamilyCauses({
  ipFamilies = [],
  ipFamilyPolicy: policy,
  clusterIPs = [],
}: ServiceSpec): StatusCause[] {
  const causes = ipFamilies.flatMap((family, index) => {
    const path = `spec.ipFamilies[${index}]`;
    if (!FAMILIES.includes(family)) return [notSupported(path, family, FAMILIES)];
    return ipFamilies.indexOf(family) < index ? [duplicate(path, family)] : [];
  });
  if (policy !== undefined && !POLICIES.includes(policy)) {
    causes.push(notSupported('spec.ipFamilyPolicy', policy, POLICIES));
  }
  if (policy === 'SingleStack' && (ipFamilies.length > 1 || clusterIPs.length > 1)) {
    const field = ipFamilies.length > 1 ? 'ipFamilies' : 'clusterIPs';
    const detail = `must be RequireDualStack or PreferDualStack when multiple \`${field}\` are specified`;
    causes.push(invalid('spec.ipFamilyPolicy', policy, detail));
  }
  return causes;
}

/** The first address and the first family are what a service is known by. */
function primaryCauses(spec: ServiceSpec, current: ServiceSpec): StatusCause[] {
  const field = (name: 'clusterIPs' | 'ipFamilies') => {
    const before = current[name]?.[0];
    const value = spec[name]?.[0];
    const isChanged =
      before !== undefined && value !== before && (name === 'clusterIPs' || value !== undefined);
    return isChanged ? [invalid(`spec.${name}[0]`, value, 'may not change once set')] : [];
  };
  return [...field('clusterIPs'), ...field('ipFamilies')];
}

/**
 * In place: policy and families of a service that has or may have cluster IPs (kubernetes,
 * pkg/registry/core/service/storage/alloc.go, initIPFamilyFields).
 *
 * @param cluster the families that the cluster has service ranges for, the first one being the default
 */
export function resolveFamilies(spec: ServiceSpec, cluster: readonly Family[]): StatusCause[] {
  const names = cluster.map(familyName);
  const families = spec.ipFamilies ?? [];
  for (const text of (spec.clusterIPs ?? []).slice(families.length)) {
    const ip = parseIp(text);
    if (ip !== undefined) families.push(familyName(familyOf(ip)));
  }
  const isFree = isHeadless(spec) && !hasSelector(spec);
  const asksForTwo = families.length > 1 || isFree;
  spec.ipFamilyPolicy ??= asksForTwo ? 'RequireDualStack' : 'SingleStack';
  spec.ipFamilies = families;
  const causes = isFree ? [] : clusterCauses(spec, names);
  if (causes.length > 0) return causes;
  if (families.length === 0 && names[0] !== undefined) families.push(names[0]);
  const second = (isFree ? FAMILIES : names).find((name) => !families.includes(name));
  const wantsSecond = spec.ipFamilyPolicy !== 'SingleStack' && families.length === 1;
  if (wantsSecond && second !== undefined) families.push(second);
  return [];
}

function clusterCauses(
  { ipFamilyPolicy, ipFamilies = [] }: ServiceSpec,
  names: readonly string[],
): StatusCause[] {
  const isMissing = ipFamilyPolicy === 'RequireDualStack' && names.length < 2;
  return [
    ...(isMissing
      ? [
          invalid(
            'spec.ipFamilyPolicy',
            ipFamilyPolicy,
            'this cluster is not configured for dual-stack services',
          ),
        ]
      : []),
    ...ipFamilies.flatMap((family, index) =>
      names.includes(family)
        ? []
        : [invalid(`spec.ipFamilies[${index}]`, family, 'not configured on this cluster')],
    ),
  ];
}
