import { familyOf } from '../../core/address.ts';
import type { Problem } from '../../core/errors.ts';
import { parseCidrSloppy, parseIpSloppy } from '../sloppy.ts';
import { parseHostPort } from './addresses.ts';
import type { KubeProxyConfiguration } from './document.ts';
import { renderDuration } from './duration.ts';

/* What kube-proxy refuses (pkg/proxy/apis/config/validation/validation.go), by the names that files have. */

export const modes = ['iptables', 'ipvs', 'nftables'] as const;
export type ProxyMode = (typeof modes)[number];

/** The section that a mode takes its periods and its masquerading from; without a mode it is that of iptables. */
export function modeOf({ mode }: KubeProxyConfiguration): ProxyMode {
  return modes.find((known) => known === mode) ?? 'iptables';
}

export const localModes = ['ClusterCIDR', 'NodeCIDR', 'BridgeInterface', 'InterfaceNamePrefix'] as const;

/** Everything that is wrong. */
export function validateDocument(document: KubeProxyConfiguration): Problem[] {
  return [
    ...modeProblems(document),
    ...periodProblems(document),
    ...addressProblems(document),
    ...detectLocalProblems(document),
    ...rangeProblems(document),
    ...conntrackProblems(document),
    ...(modeOf(document) === 'ipvs' ? ipvsProblems(document) : []),
  ];
}

function oneOf(path: string, value: string, known: readonly string[]): Problem[] {
  if (value === '' || known.includes(value)) return [];
  return [{ path, message: `is none of ${known.join(', ')}: "${value}"` }];
}

function modeProblems({ mode, detectLocalMode, logging }: KubeProxyConfiguration): Problem[] {
  return [
    ...oneOf('mode', mode, modes),
    ...oneOf('detectLocalMode', detectLocalMode, localModes),
    ...oneOf('logging.format', logging.format, ['text', 'json']),
  ];
}

function above(path: string, ms: number): Problem[] {
  return ms > 0 ? [] : [{ path, message: `must be greater than 0: "${renderDuration(ms)}"` }];
}

function notBelow(path: string, ms: number): Problem[] {
  return ms >= 0 ? [] : [{ path, message: `must not be negative: "${renderDuration(ms)}"` }];
}

function periodProblems(document: KubeProxyConfiguration): Problem[] {
  const mode = modeOf(document);
  const { syncPeriod, minSyncPeriod } = document[mode];
  const tooLong: Problem = {
    path: `${mode}.minSyncPeriod`,
    message: `must not be longer than ${mode}.syncPeriod, "${renderDuration(syncPeriod)}": "${renderDuration(minSyncPeriod)}"`,
  };
  return [
    ...above('configSyncPeriod', document.configSyncPeriod),
    ...above(`${mode}.syncPeriod`, syncPeriod),
    ...notBelow(`${mode}.minSyncPeriod`, minSyncPeriod),
    ...(minSyncPeriod > syncPeriod ? [tooLong] : []),
  ];
}

function addressProblems(document: KubeProxyConfiguration): Problem[] {
  const { bindAddress, healthzBindAddress, metricsBindAddress, nodePortAddresses } = document;
  const hostPort = (path: string, text: string): Problem[] =>
    text === '' || parseHostPort(text) !== undefined
      ? []
      : [{ path, message: `is not IP:port (a port is 1 to 65535): "${text}"` }];
  const bind = { path: 'bindAddress', message: `is not an IP address: "${bindAddress}"` };
  return [
    ...(parseIpSloppy(bindAddress) === undefined ? [bind] : []),
    ...hostPort('healthzBindAddress', healthzBindAddress),
    ...hostPort('metricsBindAddress', metricsBindAddress),
    ...nodePortAddresses.flatMap((text, index, { length }) => {
      const path = `nodePortAddresses[${index}]`;
      if (text === 'primary')
        return length === 1 ? [] : [{ path, message: '"primary" stands alone, without others' }];
      return cidrProblems(path, text);
    }),
  ];
}

function cidrProblems(path: string, text: string): Problem[] {
  if (parseCidrSloppy(text) !== undefined) return [];
  return [{ path, message: `is not a network such as 10.0.0.0/8 or fd00::/8: "${text}"` }];
}

function detectLocalProblems(document: KubeProxyConfiguration): Problem[] {
  const { detectLocalMode, detectLocal, clusterCIDR } = document;
  const empty = (path: string, name: string): Problem[] =>
    name === '' ? [{ path, message: `must not be empty where detectLocalMode is ${detectLocalMode}` }] : [];
  switch (detectLocalMode) {
    case 'BridgeInterface':
      return empty('detectLocal.bridgeInterface', detectLocal.bridgeInterface);
    case 'InterfaceNamePrefix':
      return empty('detectLocal.interfaceNamePrefix', detectLocal.interfaceNamePrefix);
    case 'NodeCIDR':
      return [];
    default:
      return clusterCIDR === '' ? [] : clusterCidrProblems(clusterCIDR);
  }
}

function clusterCidrProblems(text: string): Problem[] {
  const parts = text.split(',');
  const problems = parts.flatMap((part) => cidrProblems('clusterCIDR', part));
  const parsed = parts.map(parseCidrSloppy).filter((cidr) => cidr !== undefined);
  const isPair = parts.length <= 2 && new Set(parsed.map(familyOf)).size === parsed.length;
  if (!isPair)
    problems.push({ path: 'clusterCIDR', message: `is not one network, or one of each family: "${text}"` });
  return problems;
}

function rangeProblems(document: KubeProxyConfiguration): Problem[] {
  const within = (path: string, value: number, min: number, max: number): Problem[] =>
    value >= min && value <= max ? [] : [{ path, message: `must be ${min} to ${max}: ${value}` }];
  const int32 = 2 ** 31 - 1;
  const { clientConnection, conntrack, logging, showHiddenMetricsForVersion: version } = document;
  const isVersion = version === '' || /^\d+\.\d+$/.test(version);
  const wrongVersion = {
    path: 'showHiddenMetricsForVersion',
    message: `is not like "1.36": "${version}"`,
  };
  return [
    ...within('iptables.masqueradeBit', document.iptables.masqueradeBit, 0, 31),
    ...within('nftables.masqueradeBit', document.nftables.masqueradeBit, 0, 31),
    ...within('oomScoreAdj', document.oomScoreAdj, -1000, 1000),
    ...within('conntrack.maxPerCore', conntrack.maxPerCore, 0, int32),
    ...within('conntrack.min', conntrack.min, 0, int32),
    ...within('clientConnection.burst', clientConnection.burst, 0, int32),
    ...within('logging.verbosity', logging.verbosity, 0, int32),
    ...(isVersion ? [] : [wrongVersion]),
  ];
}

function conntrackProblems({ conntrack }: KubeProxyConfiguration): Problem[] {
  const timeouts = [
    'tcpEstablishedTimeout',
    'tcpCloseWaitTimeout',
    'udpTimeout',
    'udpStreamTimeout',
  ] as const;
  return timeouts.flatMap((name) => notBelow(`conntrack.${name}`, conntrack[name]));
}

function ipvsProblems({ ipvs }: KubeProxyConfiguration): Problem[] {
  const timeouts = ['tcpTimeout', 'tcpFinTimeout', 'udpTimeout'] as const;
  return [
    ...timeouts.flatMap((name) => notBelow(`ipvs.${name}`, ipvs[name])),
    ...ipvs.excludeCIDRs.flatMap((text, index) => cidrProblems(`ipvs.excludeCIDRs[${index}]`, text)),
  ];
}
