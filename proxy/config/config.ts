import { type Cidr, familyOf, type Ip } from '../../core/address.ts';
import { InputError } from '../../core/errors.ts';
import type { DetectLocal, ProxyPolicy } from '../policy.ts';
import { parseCidrSloppy, parseIpSloppy } from '../sloppy.ts';
import { type HostPort, parseHostPort } from './addresses.ts';
import { defaultDocument, type KubeProxyConfiguration } from './document.ts';
import { applyFlags, type FlagTexts, ignoredBesideFile } from './flags.ts';
import { parseDocument } from './read.ts';
import { modeOf, type ProxyMode, validateDocument } from './validate.ts';

/** What a service proxy is told by its file or its flags. Durations are milliseconds. */
export interface ProxyConfig {
  /** Undefined: none was given, and the default backend does what kube-proxy's default would. */
  readonly mode: ProxyMode | undefined;
  readonly policy: ProxyPolicy;
  /** Pods are told by the `podCIDRs` of our own Node: they take the place of `policy.detectLocal`. */
  readonly detectsNodeCidrs: boolean;
  /** The node's name, trimmed and in lower case, where it is not the machine's. */
  readonly hostnameOverride: string | undefined;
  /** Stands in for the node's own primary address unless it is `0.0.0.0` or `::`. Nothing is bound to it. */
  readonly bindAddress: Ip;
  /** Undefined: no such server. */
  readonly healthz: HostPort | undefined;
  readonly metrics: HostPort | undefined;
  readonly bindAddressHardFail: boolean;
  readonly syncPeriodMs: number;
  readonly minSyncPeriodMs: number;
  readonly configSyncPeriodMs: number;
  readonly conntrack: ConntrackSettings;
  /** −1000 to 1000; see proc(5). */
  readonly oomScoreAdj: number;
  readonly clientConnection: ClientConnection;
  readonly ipvs: IpvsSettings;
  readonly featureGates: Readonly<Record<string, boolean>>;
  /** As klog counts: 0 little, 4 debugging, 6 and more everything. */
  readonly verbosity: number;
}

/** Zero leaves a setting as it is. */
export interface ConntrackSettings {
  readonly maxPerCore: number;
  readonly min: number;
  readonly tcpEstablishedTimeoutMs: number;
  readonly tcpCloseWaitTimeoutMs: number;
  readonly tcpBeLiberal: boolean;
  readonly udpTimeoutMs: number;
  readonly udpStreamTimeoutMs: number;
}

export interface ClientConnection {
  /** Path of a kubeconfig; undefined: the pod's own service account. */
  readonly kubeconfig: string | undefined;
  /** Wins over the kubeconfig's server. */
  readonly master: string | undefined;
  readonly qps: number;
  readonly burst: number;
}

/** Zero timeouts leave the kernel's. */
export interface IpvsSettings {
  readonly scheduler: string;
  readonly excludeCidrs: readonly Cidr[];
  readonly strictArp: boolean;
  readonly tcpTimeoutMs: number;
  readonly tcpFinTimeoutMs: number;
  readonly udpTimeoutMs: number;
}

export interface ReadConfiguration {
  readonly config: ProxyConfig;
  /** With flags and defaults, as `--write-config-to` and `/configz` show it. */
  readonly document: KubeProxyConfiguration;
  /** For the log: what was overlooked, ignored or will go away. */
  readonly warnings: readonly string[];
}

/**
 * A KubeProxyConfiguration, in YAML or JSON, and kube-proxy's flags as one configuration. With a file only few flags
 * count, as upstream. `text` undefined: there is no file. Throws InputError with every problem.
 */
export function parseProxyConfiguration(
  text: string | undefined,
  { flags = new Map(), name = 'configuration' }: { flags?: FlagTexts; name?: string } = {},
): ReadConfiguration {
  const read = text === undefined ? { document: defaultDocument(), warnings: [] } : parseDocument(text, name);
  const hasFile = text !== undefined;
  const { document, master, problems, warnings } = applyFlags(read.document, flags, { hasFile });
  // A value that was refused has left its default behind: there is nothing more to find at its place.
  const all = [...problems, ...validateDocument(document)];
  if (all.length > 0) throw new InputError(hasFile ? name : 'options', all);
  const ignored = hasFile ? ignoredBesideFile(flags) : [];
  const note =
    ignored.length > 0
      ? [`${ignored.map((flag) => `--${flag}`).join(', ')} do not count beside --config`]
      : [];
  return {
    config: proxyConfigOf(document, master),
    document,
    warnings: [...read.warnings, ...warnings, ...note, ...modeWarnings(document)],
  };
}

/** Things that are accepted and have no effect. */
function modeWarnings({ featureGates, enableProfiling }: KubeProxyConfiguration): string[] {
  const foreign = Object.keys(featureGates).filter((name) => !knownGates.has(name));
  return [
    ...(foreign.length > 0 ? [`featureGates: ${foreign.join(', ')} mean nothing here`] : []),
    ...(enableProfiling ? ['enableProfiling means nothing here: there are no pprof handlers'] : []),
  ];
}

/** Of kube-proxy's feature gates those that change what we do. */
const knownGates = new Set(['AllowServiceExternalIPs']);

function proxyConfigOf(document: KubeProxyConfiguration, master: string | undefined): ProxyConfig {
  const section = document[modeOf(document)];
  const { conntrack, ipvs, clientConnection } = document;
  return {
    mode: document.mode === '' ? undefined : modeOf(document),
    policy: policyOf(document),
    detectsNodeCidrs: document.detectLocalMode === 'NodeCIDR',
    hostnameOverride: document.hostnameOverride.trim().toLowerCase() || undefined,
    bindAddress: parsed(parseIpSloppy, document.bindAddress),
    healthz: parseHostPort(document.healthzBindAddress),
    metrics: parseHostPort(document.metricsBindAddress),
    bindAddressHardFail: document.bindAddressHardFail,
    syncPeriodMs: section.syncPeriod,
    minSyncPeriodMs: section.minSyncPeriod,
    configSyncPeriodMs: document.configSyncPeriod,
    conntrack: {
      maxPerCore: conntrack.maxPerCore,
      min: conntrack.min,
      tcpEstablishedTimeoutMs: conntrack.tcpEstablishedTimeout,
      tcpCloseWaitTimeoutMs: conntrack.tcpCloseWaitTimeout,
      tcpBeLiberal: conntrack.tcpBeLiberal,
      udpTimeoutMs: conntrack.udpTimeout,
      udpStreamTimeoutMs: conntrack.udpStreamTimeout,
    },
    oomScoreAdj: document.oomScoreAdj,
    clientConnection: {
      kubeconfig: clientConnection.kubeconfig || undefined,
      master,
      qps: clientConnection.qps,
      burst: clientConnection.burst,
    },
    ipvs: {
      scheduler: ipvs.scheduler || 'rr',
      excludeCidrs: ipvs.excludeCIDRs.flatMap((text) => parseCidrSloppy(text) ?? []),
      strictArp: ipvs.strictARP,
      tcpTimeoutMs: ipvs.tcpTimeout,
      tcpFinTimeoutMs: ipvs.tcpFinTimeout,
      udpTimeoutMs: ipvs.udpTimeout,
    },
    featureGates: document.featureGates,
    verbosity: document.logging.verbosity,
  };
}

function policyOf(document: KubeProxyConfiguration): ProxyPolicy {
  const mode = modeOf(document);
  // IPVS has its masquerading from the section of iptables, and so has no mode at all.
  const { masqueradeAll, masqueradeBit } = mode === 'nftables' ? document.nftables : document.iptables;
  return {
    masqueradeAll,
    masqueradeBit,
    detectLocal: detectLocalOf(document),
    nodePortAddresses: nodePortAddressesOf(document, mode),
    localhostNodePorts: document.iptables.localhostNodePorts,
  };
}

function nodePortAddressesOf(
  { nodePortAddresses: texts }: KubeProxyConfiguration,
  mode: ProxyMode,
): ProxyPolicy['nodePortAddresses'] {
  if (texts[0] === 'primary' || (texts.length === 0 && mode === 'nftables')) return 'primary';
  return texts.flatMap((text) => parseCidrSloppy(text) ?? []);
}

/** ClusterCIDR without a network, and NodeCIDR until the Node is known, tell nothing. */
function detectLocalOf({ detectLocalMode, detectLocal, clusterCIDR }: KubeProxyConfiguration): DetectLocal {
  if (detectLocalMode === 'BridgeInterface') return { mode: 'bridge', name: detectLocal.bridgeInterface };
  if (detectLocalMode === 'InterfaceNamePrefix')
    return { mode: 'interfacePrefix', prefix: detectLocal.interfaceNamePrefix };
  if (detectLocalMode === 'NodeCIDR' || clusterCIDR === '') return { mode: 'none' };
  return detectCidrs(clusterCIDR.split(','));
}

/** The first network of each family counts, as upstream; none tells nothing. For `podCIDRs` of a Node as well. */
export function detectCidrs(texts: readonly string[]): DetectLocal {
  const all = texts.flatMap((text) => parseCidrSloppy(text.trim()) ?? []);
  const cidrs = all.filter(
    (cidr, index) => all.findIndex((other) => familyOf(other) === familyOf(cidr)) === index,
  );
  return cidrs.length === 0 ? { mode: 'none' } : { mode: 'cidrs', cidrs };
}

/** After the validation there is nothing left that cannot be read. */
function parsed<T>(parse: (text: string) => T | undefined, text: string): T {
  const value = parse(text);
  if (value === undefined) throw new TypeError(`"${text}" was not validated`);
  return value;
}
