import { parseAllDocuments, type YAMLError } from 'yaml';
import { InputError, type Problem } from '../../core/errors.ts';
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

const API_VERSION = 'kubeproxy.config.k8s.io/v1alpha1';
const KIND = 'KubeProxyConfiguration';
const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
/** A file with more references to one place than this is no configuration but an attack on memory. */
const ALIASES_MAX = 100;
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

/** What is read from a file, and what the reader had to overlook. */
export interface ReadDocument {
  readonly document: KubeProxyConfiguration;
  readonly warnings: readonly string[];
}

/** What holds without a file. */
export function defaultDocument(): KubeProxyConfiguration {
  return decode({}).document;
}

/**
 * Reads YAML or JSON. Fields that are unknown or written twice are overlooked with a warning, as kube-proxy does for
 * v1alpha1. Throws InputError with every value that cannot be read.
 */
export function parseDocument(source: string, name: string): ReadDocument {
  const { value, warnings, repeated } = parseYaml(source, name);
  const { document, problems, unknown } = decode(value);
  const all = [...headProblems(value), ...problems];
  if (all.length > 0) throw new InputError(name, all);
  const overlooked = [...unknown, ...repeated];
  if (overlooked.length > 0) {
    const what = overlooked.map(({ path, message }) => `${path} ${message}`).join('; ');
    warnings.push(`${name} is read leniently: ${what}`);
  }
  return { document, warnings };
}

/** The whole document again as plain JSON, as `--write-config-to` and `/configz` show it. */
export function writeDocument(document: KubeProxyConfiguration): Record<string, unknown> {
  return shape.write(document) as Record<string, unknown>;
}

/** Without what cannot be: a file says which kind it is. */
function headProblems(value: unknown): Problem[] {
  const { apiVersion, kind } = (value ?? {}) as { apiVersion?: unknown; kind?: unknown };
  const problem = (path: string, wanted: string, found: unknown): Problem[] =>
    found === wanted
      ? []
      : [{ path, message: `is not "${wanted}": ${found === undefined ? 'missing' : JSON.stringify(found)}` }];
  return [...problem('apiVersion', API_VERSION, apiVersion), ...problem('kind', KIND, kind)];
}

function decode(value: unknown) {
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

/** YAML 1.1, which Kubernetes' tools read ("yes" is true); the first document of several, as they do. */
function parseYaml(source: string, name: string) {
  const [first, ...others] = refusing(name, () =>
    parseAllDocuments(source, { version: '1.1', merge: true, logLevel: 'silent' }),
  );
  const warnings: string[] = [];
  if (others.length > 0) warnings.push(`${name}: only the first of ${others.length + 1} documents counts`);
  if (first === undefined || !('toJS' in first)) return { value: {}, warnings, repeated: [] };
  const isRepeated = ({ code }: YAMLError) => code === 'DUPLICATE_KEY';
  const broken = first.errors.filter((error) => !isRepeated(error));
  if (broken.length > 0) throw new InputError(name, broken.map(problemOf));
  const repeated = first.errors.filter(isRepeated).map((error) => ({
    path: placeOf(error),
    message: 'says a field again',
  }));
  // As JSON, which knows no references, no dates and no numbers without a value.
  const value: unknown = refusing(name, () =>
    JSON.parse(JSON.stringify(first.toJS({ maxAliasCount: ALIASES_MAX }))),
  );
  return { value, warnings, repeated };
}

function placeOf({ linePos }: YAMLError): string {
  return `line ${linePos?.[0].line}, column ${linePos?.[0].col}`;
}

function problemOf(error: YAMLError): Problem {
  return { path: placeOf(error), message: error.message.split('\n')[0]?.replace(/ at line .*$/, '') ?? '' };
}

/** A text that is nested too deep, or refers to itself, throws all kinds of things. */
function refusing<T>(name: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new InputError(name, [{ path: '*', message: (error as Error).message.split('\n')[0] ?? '' }]);
  }
}
