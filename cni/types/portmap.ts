import {
  type Cidr,
  type Family,
  families,
  familyOf,
  type HostCidr,
  type Ip,
  ipFromBytes,
  ipOf,
  ipToBytes,
  networkOf,
  parseIp,
} from '../../core/address.ts';
import type { Problem } from '../../core/errors.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import { CniError, cniCode } from '../error.ts';
import { FieldReader, type Fields } from '../fields.ts';
import { hostPortRows } from '../iptables/hostport.ts';
import type { IptablesRow } from '../iptables/layout.ts';
import { cniSets, hostportMarkBit } from '../nft-layout.ts';
import type { Result } from '../result.ts';
import {
  describeHostPort,
  type HostPort,
  hostPortElement,
  overlap,
  type PortProtocol,
  sameHostPort,
} from './hostport.ts';
import { type PortConditions, parsePortConditions } from './port-conditions.ts';
import { addressElementsMax, guardElements } from './port-guards.ts';
import { scopeElements } from './scope.ts';

/** One published port, as the runtime gave it. */
export interface PortMapping {
  readonly hostPort: number;
  readonly containerPort: number;
  readonly protocol: PortProtocol;
  /** Only this address of the node. Undefined: any, of both families. */
  readonly hostIp?: Ip | undefined;
  /** Of the unspecified addresses 0.0.0.0 and ::, which stand for all of one family. */
  readonly family?: Family | undefined;
}

/** The keys of the portmap plugin; the same in a configuration of type fairlead. */
export interface PortmapConfig {
  readonly backend: 'nftables' | 'iptables';
  /** Whether the pod, its neighbours and the node's 127.0.0.1 reach the pod by its host port. */
  readonly snat: boolean;
  /** Whether the pod sees the node's address whoever calls. */
  readonly masqAll: boolean;
  readonly markMasqBit: number;
  /** iptables only: the chain that marks what is to be masqueraded, such as KUBE-MARK-MASQ. */
  readonly externalSetMarkChain?: string | undefined;
  /** Further words of every rule, in the language of the backend. */
  readonly conditions: Readonly<Record<Family, readonly string[]>>;
  /** nftables only: what they mean. */
  readonly guards: Readonly<Partial<Record<Family, PortConditions>>>;
  readonly mappings: readonly PortMapping[];
}

/** Reads a configuration of type portmap, `runtimeConfig.portMappings` included. */
export function parsePortmap(config: Fields): PortmapConfig | CniError {
  const problems: Problem[] = [];
  const reader = new FieldReader(config, problems);
  const externalSetMarkChain = reader.text('externalSetMarkChain');
  const markMasqBit = readMarkBit(reader, externalSetMarkChain);
  const conditions = { 4: readConditions(reader, 'conditionsV4'), 6: readConditions(reader, 'conditionsV6') };
  const backend = readBackend(reader, { externalSetMarkChain, markMasqBit, conditions });
  const fields = {
    snat: reader.flag('snat') ?? true,
    masqAll: reader.flag('masqAll') ?? false,
    markMasqBit,
    externalSetMarkChain,
    conditions,
    backend,
    guards: backend === 'nftables' ? readGuards(reader, conditions) : {},
    mappings: readMappings(reader.object('runtimeConfig')),
  };
  return problems.length === 0 ? fields : refuse(problems);
}

function refuse(problems: readonly Problem[]): CniError {
  const text = problems
    .map(({ path, message }) => (path === '' ? message : `${path}: ${message}`))
    .join('; ');
  return new CniError(cniCode.invalidConfig, `failed to parse config: ${text}`);
}

const markBitMost = 31;

function readMarkBit(reader: FieldReader, externalSetMarkChain: string | undefined): number {
  const bit = reader.integer('markMasqBit', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
  if (bit === undefined) return hostportMarkBit;
  if (externalSetMarkChain !== undefined) {
    reader.problem('', 'Cannot specify externalSetMarkChain and markMasqBit');
  } else if (bit < 0 || bit > markBitMost) {
    reader.problem('', `MasqMarkBit must be between 0 and 31, not ${bit}`);
  }
  return bit;
}

/** Those of iptables become words of a line of iptables-restore. */
function readConditions(reader: FieldReader, key: string): readonly string[] {
  const words = reader.texts(key).filter((word, index) => index > 0 || word !== '');
  const bad = isNftablesCondition(words)
    ? undefined
    : words.find((word) => !/^[ -~]+$/.test(word) || /["\\]/.test(word));
  if (bad !== undefined) reader.problem(key, `${JSON.stringify(bad)} cannot be part of a rule`);
  return words;
}

function readGuards(reader: FieldReader, conditions: PortmapConfig['conditions']): PortmapConfig['guards'] {
  const guards: Partial<Record<Family, PortConditions>> = {};
  for (const family of families) {
    if (!isNftablesCondition(conditions[family])) continue;
    const parsed = parsePortConditions(conditions[family], family);
    if (typeof parsed === 'string') reader.problem(`conditionsV${family}`, parsed);
    else guards[family] = parsed;
  }
  return guards;
}

type BackendOptions = Pick<PortmapConfig, 'externalSetMarkChain' | 'markMasqBit' | 'conditions'>;

/** nftables, unless something is asked for that only rules of iptables can do. */
function readBackend(reader: FieldReader, options: BackendOptions): PortmapConfig['backend'] {
  const named = reader.text('backend');
  if (named !== undefined && named !== 'iptables' && named !== 'nftables') {
    reader.problem('', `unrecognized backend ${JSON.stringify(named)}`);
    return 'nftables';
  }
  const forNftables = families.filter((family) => isNftablesCondition(options.conditions[family]));
  const forIptables = iptablesOptions(options);
  const isOtherBit = options.markMasqBit !== hostportMarkBit;
  const backend = named ?? (forIptables.length > 0 || isOtherBit ? 'iptables' : 'nftables');
  const wrong = backend === 'iptables' ? forNftables.map((family) => `conditionsV${family}`) : forIptables;
  const other = backend === 'iptables' ? 'nftables' : 'iptables';
  if (wrong.length > 0) {
    reader.problem(
      '',
      `${backend} backend was requested but configuration contains ${other}-specific options [${wrong.join(' ')}]`,
    );
  } else if (backend === 'nftables' && isOtherBit) {
    reader.problem('markMasqBit', `the nftables backend uses bit ${hostportMarkBit}`);
  }
  return backend;
}

function iptablesOptions({ externalSetMarkChain, conditions }: BackendOptions): string[] {
  const isOne = (words: readonly string[]) => words.length > 0 && !isNftablesCondition(words);
  return [
    ...(externalSetMarkChain === undefined ? [] : ['externalSetMarkChain']),
    ...families.filter((family) => isOne(conditions[family])).map((family) => `conditionsV${family}`),
  ];
}

/** What iptables takes begins with an option or a negation; nothing of nftables does. */
function isNftablesCondition([first]: readonly string[]): boolean {
  return first !== undefined && !/^[-!]/.test(first);
}

function readMappings(runtime: FieldReader): PortMapping[] {
  const mappings: PortMapping[] = [];
  runtime.list('portMappings').forEach((value, index) => {
    const entry = runtime.entry(`portMappings[${index}]`, value);
    const mapping = entry === undefined ? undefined : readMapping(entry);
    if (mapping !== undefined) mappings.push(mapping);
  });
  return mappings;
}

function readMapping(entry: FieldReader): PortMapping | undefined {
  const containerPort = readPort(entry, 'containerPort', 'container');
  const hostPort = readPort(entry, 'hostPort', 'host');
  const protocol = readProtocol(entry);
  const host = readHostIp(entry);
  if (containerPort === undefined || hostPort === undefined || protocol === undefined) return undefined;
  return { hostPort, containerPort, protocol, ...host };
}

const portMost = 65_535;

function readPort(entry: FieldReader, key: string, of: string): number | undefined {
  const port = entry.integer(key, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER) ?? 0;
  if (port >= 1 && port <= portMost) return port;
  return entry.problem(key, `Invalid ${of} port number: ${port}`);
}

/** In any case; absent: TCP. */
function readProtocol(entry: FieldReader): PortProtocol | undefined {
  const text = entry.text('protocol');
  if (text === undefined || text === '') return 'tcp';
  const lower = text.toLowerCase();
  if (lower === 'tcp' || lower === 'udp' || lower === 'sctp') return lower;
  return entry.problem('protocol', `must be tcp, udp or sctp, not ${JSON.stringify(text)}`);
}

function readHostIp(entry: FieldReader): Pick<PortMapping, 'hostIp' | 'family'> {
  const parsed = entry.parsed('hostIP', 'an IP address', parseIp);
  if (parsed === undefined) return {};
  const ip = unmapped(parsed);
  const family = familyOf(ip);
  return ip === '0.0.0.0' || ip === '::' ? { family } : { hostIp: ip, family };
}

/** `::ffff:192.0.2.1` is an IPv4 address. */
function unmapped(ip: Ip): Ip {
  return ip.startsWith('::ffff:') && ip.includes('.') ? ipFromBytes(ipToBytes(ip).subarray(12)) : ip;
}

/** One address of each family, with the prefix of its subnet. */
export type PodAddresses = Readonly<Partial<Record<Family, HostCidr>>>;

/** The first address of each family that is the container's interface's, or may be: some plugins do not say. */
export function podAddresses({ ips, interfaces }: Result, ifname: string): PodAddresses {
  const isPods = (index: number | undefined) => {
    const named = index === undefined ? undefined : interfaces[index];
    return named === undefined || (named.name === ifname && (named.sandbox ?? '') !== '');
  };
  const found: Partial<Record<Family, HostCidr>> = {};
  for (const { address, interface: index } of ips) if (isPods(index)) found[familyOf(address)] ??= address;
  return found;
}

/** Rows of the two backends; one of the lists is empty. */
export interface PortmapRows {
  /** Of the table in `nft-layout.ts`. */
  readonly elements: readonly NftElement[];
  readonly iptables: readonly IptablesRow[];
}

/**
 * The rows of an attachment with these addresses (of the result of the plugin before in the chain). A mapping without
 * an address of its family is none. Whether others have the host ports is for `hostPortConflict` to say.
 */
export function planPortmap(
  config: PortmapConfig,
  addresses: PodAddresses | undefined,
): PortmapRows | CniError {
  if (addresses === undefined) {
    return new CniError(cniCode.invalidConfig, 'must be called as chained plugin');
  }
  const all = planHostPorts(config, addresses);
  const hostPorts = all.filter((one, index) => all.findIndex((other) => sameHostPort(one, other)) === index);
  const twice = hostPorts.find((one, index) =>
    hostPorts.slice(0, index).some((other) => overlap(one, other)),
  );
  if (twice !== undefined) {
    const text = `hostPort ${describeHostPort(twice)} is mapped more than once`;
    return new CniError(cniCode.invalidConfig, text);
  }
  if (config.backend === 'iptables') {
    return {
      elements: [],
      iptables: hostPortRows(config, hostPorts, (family) => sourcesOf(config, addresses[family])),
    };
  }
  const elements = planElements(config, addresses, hostPorts);
  return elements instanceof CniError ? elements : { elements, iptables: [] };
}

function planHostPorts({ mappings }: PortmapConfig, addresses: PodAddresses): HostPort[] {
  return mappings.flatMap(({ family: only, hostIp, protocol, hostPort, containerPort }) =>
    families.flatMap((family): HostPort[] => {
      const address = addresses[family];
      if (address === undefined || (only ?? family) !== family) return [];
      return [{ family, hostIp, protocol, hostPort, pod: ipOf(address), containerPort }];
    }),
  );
}

function planElements(
  config: PortmapConfig,
  addresses: PodAddresses,
  hostPorts: readonly HostPort[],
): NftElement[] | CniError {
  const used = families.filter((family) => hostPorts.some((port) => port.family === family));
  const sources = used.flatMap((family) => sourceElements(config, addresses[family]));
  const guards = hostPorts.map((port) => {
    const conditions = config.guards[port.family];
    return conditions === undefined ? [] : guardElements(port, conditions);
  });
  const tooMany = hostPorts.find((_, index) => guards[index] === undefined);
  if (tooMany !== undefined) {
    const text = `conditionsV${tooMany.family}: more than ${addressElementsMax} pairs of addresses are meant`;
    return new CniError(cniCode.invalidConfig, text);
  }
  return [...hostPorts.map(hostPortElement), ...guards.flatMap((some) => some ?? []), ...sources];
}

/** Whose connections by a host port the pod sees as the node's: those whose answers would take another way. */
function sourcesOf({ snat, masqAll }: PortmapConfig, address: HostCidr | undefined): Cidr[] {
  if (!snat || address === undefined) return [];
  const isV4 = familyOf(address) === 4;
  if (masqAll) return [(isV4 ? '0.0.0.0/0' : '::/0') as Cidr];
  return isV4 ? [networkOf(address), '127.0.0.0/8' as Cidr] : [networkOf(address)];
}

function sourceElements(config: PortmapConfig, address: HostCidr | undefined): NftElement[] {
  const cidrs = sourcesOf(config, address);
  if (address === undefined || cidrs.length === 0) return [];
  const { hostportPods, hostportSources } = cniSets(familyOf(address));
  return scopeElements({ pods: hostportPods, ranges: hostportSources }, address, cidrs);
}

/** What makes the node's 127.0.0.1 work as a host port: `device` is the way to the pod. */
export function planLocalnet(
  { snat, mappings }: PortmapConfig,
  addresses: PodAddresses,
  device: string,
): { readonly key: string; readonly value: string }[] {
  const needed = snat && mappings.length > 0 && addresses[4] !== undefined;
  return needed ? [{ key: `net/ipv4/conf/${device}/route_localnet`, value: '1' }] : [];
}
