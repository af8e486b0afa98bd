import {
  addressBits,
  type Cidr,
  cidrContains,
  type Family,
  families,
  familyOf,
  hostCidr,
  type Ip,
  ipFromBigInt,
  ipOf,
  ipToBigInt,
  networkOf,
  parseHostCidr,
  parseIp,
  prefixLengthOf,
} from '../core/address.ts';
import { InputError, type Problem } from '../core/errors.ts';
import type { PerFamily } from './lease.ts';

/** The cluster's pod network of one family and how it is cut into one subnet a node. */
export interface FamilyNetwork {
  readonly network: Cidr;
  readonly subnetLength: number;
  /** First addresses of the first and the last subnet that may be given to a node. */
  readonly subnetMin: Ip;
  readonly subnetMax: Ip;
}

export interface VxlanConfig {
  readonly type: 'vxlan';
  readonly vni: number;
  /** UDP port. */
  readonly port: number;
  /** MTU of the underlay, where it is not the interface's own. */
  readonly mtuBytes?: number;
  readonly learning: boolean;
  /** Peers in the same layer-2 network are reached without the tunnel. */
  readonly directRouting: boolean;
}

export interface HostGwConfig {
  readonly type: 'host-gw';
}

export type BackendConfig = VxlanConfig | HostGwConfig;

/** What all nodes agree on: flannel's net-conf.json, or the value of its `<prefix>/config` in etcd. */
export interface NetworkConfig {
  readonly networks: PerFamily<FamilyNetwork>;
  readonly backend: BackendConfig;
  /** Keys that mean nothing here; flannel lets them pass, so they are only worth a line in the log. */
  readonly ignored: readonly string[];
}

/** Values for what a configuration does not say. flannel's own. */
export const networkDefaults = Object.freeze({
  enableIPv4: true,
  enableIPv6: false,
  backendType: 'udp',
  vni: 1,
  /** The Linux kernel's own default; IANA's is 4789. */
  vxlanPort: 8472,
  learning: false,
  directRouting: false,
  gbp: false,
  /** The usual subnet of a node; networks too small for four of them are cut in four. */
  subnetLength: Object.freeze({ 4: 24, 6: 64 }),
  /** What IPv4 and IPv6 demand of every link (68, 1280), and the tunnel's headers (50, 70). */
  leastMtuBytes: Object.freeze({ 4: 118, 6: 1350 }),
  /** A subnet holds a bridge, a tunnel end and at least one pod. */
  longestSubnet: Object.freeze({ 4: 30, 6: 126 }),
});

/** Reads a network configuration. Throws {@link InputError} with every problem in it. */
export function parseNetworkConfig(text: string, source = 'network configuration'): NetworkConfig {
  const problems: Problem[] = [];
  const root = new JsonObject(parseJson(text, source), '', problems);
  const networks = readNetworks(root);
  const backend = readBackend(root.object('Backend'), networks[6] ? 6 : 4);
  root.boolean('EnableNFTables', true); // either way the rules are nftables here
  const ignored = root.unread();
  if (problems.length > 0 || backend === undefined) throw new InputError(source, problems);
  return { networks, backend, ignored };
}

function parseJson(text: string, source: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new InputError(source, [{ path: '(text)', message: `is not JSON: ${(error as Error).message}` }]);
  }
}

const familyKeys = {
  4: { network: 'Network', length: 'SubnetLen', min: 'SubnetMin', max: 'SubnetMax' },
  6: { network: 'IPv6Network', length: 'IPv6SubnetLen', min: 'IPv6SubnetMin', max: 'IPv6SubnetMax' },
} as const;

function readNetworks(root: JsonObject): PerFamily<FamilyNetwork> {
  const enabled = {
    4: root.boolean('EnableIPv4', networkDefaults.enableIPv4),
    6: root.boolean('EnableIPv6', networkDefaults.enableIPv6),
  };
  if (!enabled[4] && !enabled[6])
    root.problem('EnableIPv4', 'is false, and so is EnableIPv6: no family is left');
  const found = families.map((family) => [family, readFamily(root, family, enabled[family])] as const);
  return Object.fromEntries(found.filter(([, network]) => network !== undefined));
}

function readFamily(root: JsonObject, family: Family, enabled: boolean): FamilyNetwork | undefined {
  const keys = familyKeys[family];
  const network = root.cidr(keys.network, family);
  const length = root.integer(keys.length, 0, addressBits(family));
  const min = root.ip(keys.min, family);
  const max = root.ip(keys.max, family);
  if (!enabled) return undefined;
  if (network === undefined) {
    if (!root.has(keys.network)) root.problem(keys.network, `is missing, and IPv${family} is enabled`);
    return undefined;
  }
  const subnetLength = subnetLengthOf(root, network, length);
  if (subnetLength === undefined) return undefined;
  const step = 1n << BigInt(addressBits(family) - subnetLength);
  const first = ipToBigInt(ipOf(network));
  const size = 1n << BigInt(addressBits(family) - prefixLengthOf(network));
  const subnetMin = min ?? ipFromBigInt(first + step, family);
  const subnetMax = max ?? ipFromBigInt(first + size - step, family);
  checkBound(root, keys.min, subnetMin, network, subnetLength);
  checkBound(root, keys.max, subnetMax, network, subnetLength);
  if (ipToBigInt(subnetMin) > ipToBigInt(subnetMax)) {
    root.problem(keys.min, `${subnetMin} lies behind ${keys.max} ${subnetMax}`);
  }
  return { network, subnetLength, subnetMin, subnetMax };
}

function subnetLengthOf(root: JsonObject, network: Cidr, wanted: number | undefined): number | undefined {
  const family = familyOf(network);
  const keys = familyKeys[family];
  const longest = networkDefaults.longestSubnet[family];
  const shortest = prefixLengthOf(network) + 2;
  if (shortest > longest) {
    return root.problem(keys.network, `${network} is too small: it must hold four subnets of /${longest}`);
  }
  if (wanted === undefined || wanted === 0) return Math.max(networkDefaults.subnetLength[family], shortest);
  if (wanted > longest) return root.problem(keys.length, `${wanted} is longer than /${longest}`);
  if (wanted < shortest) {
    return root.problem(
      keys.length,
      `${wanted}: ${network} must hold at least four subnets, so /${shortest} or longer`,
    );
  }
  return wanted;
}

function checkBound(root: JsonObject, key: string, ip: Ip, network: Cidr, subnetLength: number): void {
  if (!cidrContains(network, ip)) root.problem(key, `${ip} is not inside ${network}`);
  else if (ipOf(networkOf(hostCidr(ip, subnetLength))) !== ip) {
    root.problem(key, `${ip} is not on a boundary of /${subnetLength}`);
  }
}

function readBackend(backend: JsonObject, family: Family): BackendConfig | undefined {
  const type = backend.string('Type') ?? networkDefaults.backendType;
  if (type.toLowerCase() === 'host-gw') return { type: 'host-gw' };
  if (type.toLowerCase() === 'vxlan') return readVxlan(backend, family);
  const absent = backend.has('Type') ? '' : ' (the meaning of no Backend.Type)';
  return backend.problem(
    'Type',
    `${JSON.stringify(type)}${absent} is not supported; use "vxlan" or "host-gw"`,
  );
}

function readVxlan(backend: JsonObject, family: Family): VxlanConfig {
  const vni = backend.integer('VNI', 1, 2 ** 24 - 1) ?? networkDefaults.vni;
  const port = backend.integer('Port', 0, 65535) || networkDefaults.vxlanPort;
  const mtuBytes = backend.integer('MTU', 0, 65535) || undefined;
  const least = networkDefaults.leastMtuBytes[family];
  if (mtuBytes !== undefined && mtuBytes < least) backend.problem('MTU', `${mtuBytes} is less than ${least}`);
  if (backend.boolean('GBP', networkDefaults.gbp)) backend.problem('GBP', 'true is not supported');
  return {
    type: 'vxlan',
    vni,
    port,
    ...(mtuBytes === undefined ? {} : { mtuBytes }),
    learning: backend.boolean('Learning', networkDefaults.learning),
    directRouting: backend.boolean('DirectRouting', networkDefaults.directRouting),
  };
}

/** A JSON object whose keys are read in either case, as Go's encoding/json does. Null counts as absent. */
class JsonObject {
  readonly #values = new Map<string, { key: string; value: unknown }>();
  readonly #read = new Set<string>();
  readonly #path: string;
  readonly #problems: Problem[];

  constructor(value: unknown, path: string, problems: Problem[]) {
    this.#path = path;
    this.#problems = problems;
    if (value === undefined) return;
    if (value === null || typeof value !== 'object' || Array.isArray(value)) {
      problems.push({ path: path || '(text)', message: `is not an object: ${JSON.stringify(value)}` });
      return;
    }
    for (const [key, part] of Object.entries(value)) {
      const twin = this.#values.get(key.toLowerCase());
      if (twin) this.problem(key, `is given twice, also as ${twin.key}`);
      if (part !== null) this.#values.set(key.toLowerCase(), { key, value: part });
    }
  }

  problem(key: string, message: string): undefined {
    this.#problems.push({ path: this.#path ? `${this.#path}.${key}` : key, message });
    return undefined;
  }

  has(key: string): boolean {
    return this.#values.has(key.toLowerCase());
  }

  unread(): string[] {
    return [...this.#values].filter(([lower]) => !this.#read.has(lower)).map(([, { key }]) => key);
  }

  #take(key: string): unknown {
    this.#read.add(key.toLowerCase());
    return this.#values.get(key.toLowerCase())?.value;
  }

  object(key: string): JsonObject {
    return new JsonObject(this.#take(key), key, this.#problems);
  }

  boolean(key: string, absent: boolean): boolean {
    const value = this.#take(key) ?? absent;
    if (typeof value === 'boolean') return value;
    this.problem(key, `is not true or false: ${JSON.stringify(value)}`);
    return absent;
  }

  string(key: string): string | undefined {
    const value = this.#take(key);
    if (value === undefined || typeof value === 'string') return value;
    return this.problem(key, `is not a string: ${JSON.stringify(value)}`);
  }

  integer(key: string, min: number, max: number): number | undefined {
    const value = this.#take(key);
    if (value === undefined) return undefined;
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value;
    return this.problem(key, `is not a whole number from ${min} to ${max}: ${JSON.stringify(value)}`);
  }

  /** Host bits are cleared, as flannel does. */
  cidr(key: string, family: Family): Cidr | undefined {
    const text = this.string(key);
    if (text === undefined) return undefined;
    const parsed = parseHostCidr(text);
    if (parsed !== undefined && familyOf(parsed) === family) return networkOf(parsed);
    return this.problem(key, `is not an IPv${family} network: ${JSON.stringify(text)}`);
  }

  ip(key: string, family: Family): Ip | undefined {
    const text = this.string(key);
    if (text === undefined) return undefined;
    const parsed = parseIp(text);
    if (parsed !== undefined && familyOf(parsed) === family) return parsed;
    return this.problem(key, `is not an IPv${family} address: ${JSON.stringify(text)}`);
  }
}
