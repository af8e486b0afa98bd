import type { Problem } from '../../core/errors.ts';
import {
  dictionary,
  duration,
  durationOrNanoseconds,
  type FieldValue,
  flag,
  integer,
  list,
  object,
  positive,
  quantity,
  real,
  text,
} from './fields.ts';

/*
 * KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1, as Kubernetes 1.36 has it: its fields and defaults
 * (staging/src/k8s.io/kube-proxy/config/v1alpha1/types.go, pkg/proxy/apis/config/v1alpha1/defaults.go).
 */

export const API_VERSION = 'kubeproxy.config.k8s.io/v1alpha1';
export const KIND = 'KubeProxyConfiguration';
const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
export const HEALTHZ_PORT = 10256;
export const METRICS_PORT = 10249;

const logOptions = object({ splitStream: flag(), infoBufferSize: quantity() });

const shape = object({
  apiVersion: text(API_VERSION),
  kind: text(KIND),
  featureGates: dictionary(flag()),
  clientConnection: object({
    kubeconfig: text(),
    acceptContentTypes: text(),
    contentType: text('application/vnd.kubernetes.protobuf'),
    qps: real(5),
    burst: positive(10),
  }),
  logging: object({
    format: text('text'),
    flushFrequency: durationOrNanoseconds(5 * SECOND_MS),
    verbosity: integer(),
    vmodule: list(object({ filePattern: text(), verbosity: integer() })),
    options: object({ text: logOptions, json: logOptions }),
  }),
  hostnameOverride: text(),
  bindAddress: text('0.0.0.0'),
  healthzBindAddress: text(),
  metricsBindAddress: text(),
  bindAddressHardFail: flag(),
  enableProfiling: flag(),
  showHiddenMetricsForVersion: text(),
  mode: text(),
  iptables: object({
    masqueradeBit: integer(14),
    masqueradeAll: flag(),
    localhostNodePorts: flag(true),
    syncPeriod: duration(30 * SECOND_MS),
    minSyncPeriod: duration(SECOND_MS),
  }),
  ipvs: object({
    syncPeriod: duration(30 * SECOND_MS),
    minSyncPeriod: duration(),
    scheduler: text(),
    excludeCIDRs: list(text()),
    strictARP: flag(),
    tcpTimeout: duration(),
    tcpFinTimeout: duration(),
    udpTimeout: duration(),
  }),
  nftables: object({
    masqueradeBit: integer(14),
    masqueradeAll: flag(),
    syncPeriod: duration(30 * SECOND_MS),
    minSyncPeriod: duration(SECOND_MS),
  }),
  winkernel: object({
    networkName: text(),
    sourceVip: text(),
    enableDSR: flag(),
    rootHnsEndpointName: text(),
    forwardHealthCheckVip: flag(),
  }),
  detectLocalMode: text(),
  detectLocal: object({ bridgeInterface: text(), interfaceNamePrefix: text() }),
  clusterCIDR: text(),
  nodePortAddresses: list(text()),
  oomScoreAdj: integer(-999),
  conntrack: object({
    maxPerCore: integer(32 * 1024),
    min: integer(128 * 1024),
    tcpEstablishedTimeout: duration(24 * HOUR_MS, { zeroCounts: true }),
    tcpCloseWaitTimeout: duration(HOUR_MS, { zeroCounts: true }),
    tcpBeLiberal: flag(),
    udpTimeout: duration(),
    udpStreamTimeout: duration(),
  }),
  configSyncPeriod: duration(15 * MINUTE_MS),
  portRange: text(),
  windowsRunAsService: flag(),
});

/** Everything a file says, with defaults for what it does not. Durations are milliseconds. */
export type KubeProxyConfiguration = FieldValue<typeof shape>;

/** What holds without a file. */
export function defaultDocument(): KubeProxyConfiguration {
  return decode({}).document;
}

/** The whole document again as plain JSON, as `--write-config-to` and `/configz` show it. */
export function writeDocument(document: KubeProxyConfiguration): Record<string, unknown> {
  return shape.write(document) as Record<string, unknown>;
}

/** Reads plain JSON. Says what cannot be used, and which fields nobody knows. */
export function decode(value: unknown) {
  const problems: Problem[] = [];
  const unknown: Problem[] = [];
  const document = shape.read(value, { path: '', problems, unknown });
  const isV6 = document.bindAddress.includes(':');
  document.healthzBindAddress = withPort(
    document.healthzBindAddress || (isV6 ? '::' : '0.0.0.0'),
    HEALTHZ_PORT,
  );
  document.metricsBindAddress = withPort(
    document.metricsBindAddress || (isV6 ? '::1' : '127.0.0.1'),
    METRICS_PORT,
  );
  return { document, problems, unknown };
}

/** Adds the port to an address without one; what is neither is left for the validation. */
export function withPort(address: string, port: number): string {
  if (/^[\d.]+$/.test(address)) return `${address}:${port}`;
  return /^[\da-fA-F:.]*:[\da-fA-F:.]*:[\da-fA-F:.]*$/.test(address) ? `[${address}]:${port}` : address;
}
