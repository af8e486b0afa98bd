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
  prefixLengthOf,
} from '../core/address.ts';
import { InputError, type Problem } from '../core/errors.ts';
import type { BackendConfig } from './backend/backend.ts';
import { parseBackend } from './backend/backends.ts';
import { JsonObject } from './json-object.ts';
import type { FamilyNetwork, PerFamily } from './lease.ts';

export type { FamilyNetwork } from './lease.ts';

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
  /** The usual subnet of a node; networks too small for four of them are cut in four. */
  subnetLength: Object.freeze({ 4: 24, 6: 64 }),
  /** A subnet holds a bridge, a tunnel end and at least one pod. */
  longestSubnet: Object.freeze({ 4: 30, 6: 126 }),
});

/** How a configuration is meant. */
export interface NetworkConfigUse {
  /**
   * By default true: this product gives nodes their subnets. With false Kubernetes does, and what the file says
   * about subnets is left out, as flannel does: clusters run with files that would not pass.
   */
  readonly givesSubnets?: boolean;
}

/** Reads a network configuration. Throws {@link InputError} with every problem in it. */
export function parseNetworkConfig(
  text: string,
  source = 'network configuration',
  { givesSubnets = true }: NetworkConfigUse = {},
): NetworkConfig {
  const problems: Problem[] = [];
  const root = new JsonObject(parseJson(text, source), '', problems);
  const networks = readNetworks(root, givesSubnets);
  const section = root.object('Backend');
  const backend = parseBackend(
    section,
    families.filter((family) => networks[family]),
  );
  root.boolean('EnableNFTables', true); // either way the rules are nftables here
  const ignored = [...root.unread(), ...section.unread()];
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

function readNetworks(root: JsonObject, givesSubnets: boolean): PerFamily<FamilyNetwork> {
  const enabled = {
    4: root.boolean('EnableIPv4', networkDefaults.enableIPv4),
    6: root.boolean('EnableIPv6', networkDefaults.enableIPv6),
  };
  if (!enabled[4] && !enabled[6])
    root.problem('EnableIPv4', 'is false, and so is EnableIPv6: no family is left');
  const read = givesSubnets ? readFamily : readWholeFamily;
  const found = families.map((family) => [family, read(root, family, enabled[family])] as const);
  return Object.fromEntries(found.filter(([, network]) => network !== undefined));
}

function readFamily(root: JsonObject, family: Family, enabled: boolean): FamilyNetwork | undefined {
  const keys = familyKeys[family];
  const network = root.cidr(keys.network, family);
  const length = root.integer(keys.length, 0, addressBits(family));
  const min = root.ip(keys.min, family);
  const max = root.ip(keys.max, family);
  if (!enabled) return undefined;
  if (network === undefined) return missing(root, family);
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

function missing(root: JsonObject, family: Family): undefined {
  const { network } = familyKeys[family];
  if (!root.has(network)) root.problem(network, `is missing, and IPv${family} is enabled`);
}

/** A network that somebody else cuts into subnets. */
function readWholeFamily(root: JsonObject, family: Family, enabled: boolean): FamilyNetwork | undefined {
  const keys = familyKeys[family];
  const network = root.cidr(keys.network, family);
  root.skip(keys.length, keys.min, keys.max);
  if (!enabled) return undefined;
  if (network === undefined) return missing(root, family);
  const ip = ipOf(network);
  return { network, subnetLength: prefixLengthOf(network), subnetMin: ip, subnetMax: ip };
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
