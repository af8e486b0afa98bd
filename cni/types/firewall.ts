import { addressBits, type Cidr, familyOf, type HostCidr, ipOf, singleCidr } from '../../core/address.ts';
import type { Problem } from '../../core/errors.ts';
import { interfaceName, nftRange } from '../../kernel/netlink/nftables/keys.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import { CniError, cniCode } from '../error.ts';
import { FieldReader, type Fields } from '../fields.ts';
import type { FirewalldRow } from '../firewalld/table.ts';
import type { IptablesRow } from '../iptables/layout.ts';
import { bridgeSets } from '../nft-bridge-layout.ts';
import { cniSets } from '../nft-layout.ts';
import type { Result } from '../result.ts';

export type IngressPolicy = 'open' | 'same-bridge' | 'isolated';

export type FirewallBackend = 'iptables' | 'firewalld' | 'nftables';

/** The keys of the firewall plugin. */
export interface FirewallConfig {
  /** Undefined: firewalld where it runs, else iptables. */
  readonly backend?: FirewallBackend | undefined;
  /** That the addresses are sources of. firewalld only. */
  readonly zone: string;
  /** Whose rules in it come before ours. iptables only. */
  readonly adminChain: string;
  readonly ingressPolicy: IngressPolicy;
}

const adminChainUsual = 'CNI-ADMIN';
const zoneUsual = 'trusted';
/** Of iptables. */
const chainNameBytesMax = 28;

/**
 * Reads a configuration of type firewall. The default is never nftables, as with the reference plugin: only rules beside
 * those that drop can accept what these would drop.
 */
export function parseFirewall(config: Fields): FirewallConfig | CniError {
  const problems: Problem[] = [];
  const reader = new FieldReader(config, problems);
  const adminChain = reader.text('iptablesAdminChainName') || adminChainUsual;
  if (!/^[^\s"\\!-][^\s"\\]*$/.test(adminChain) || adminChain.length > chainNameBytesMax) {
    reader.problem('iptablesAdminChainName', `${JSON.stringify(adminChain)} is no name of a chain`);
  }
  const zone = reader.text('firewalldZone') || zoneUsual;
  if (!/^[^\p{Cc}\p{Cs}]+$/u.test(zone)) {
    reader.problem('firewalldZone', `${JSON.stringify(zone)} is no name of a zone`);
  }
  const backend = readBackend(reader);
  const ingressPolicy = readPolicy(reader);
  if (problems.length === 0) return { backend, zone, adminChain, ingressPolicy };
  const text = problems
    .map(({ path, message }) => (path === '' ? message : `${path}: ${message}`))
    .join('; ');
  return new CniError(cniCode.invalidConfig, `failed to load netconf: ${text}`);
}

const backends: ReadonlySet<string> = new Set<FirewallBackend>(['iptables', 'firewalld', 'nftables']);

function readBackend(reader: FieldReader): FirewallConfig['backend'] {
  const backend = reader.text('backend') || undefined;
  if (backend === undefined || backends.has(backend)) return backend as FirewallBackend | undefined;
  const text = `${JSON.stringify(backend)} is not supported; iptables, firewalld or nftables`;
  return reader.problem('backend', text);
}

function readPolicy(reader: FieldReader): IngressPolicy {
  const policy = reader.text('ingressPolicy') || 'open';
  if (policy === 'open' || policy === 'same-bridge' || policy === 'isolated') return policy;
  reader.problem('', `unknown ingress policy: ${JSON.stringify(policy)}`);
  return 'open';
}

export interface FirewallRows {
  /** Of the table in `nft-layout.ts`. */
  readonly elements: readonly NftElement[];
  /** Of the table in `nft-bridge-layout.ts`. */
  readonly bridgeElements: readonly NftElement[];
  readonly iptables: readonly IptablesRow[];
  readonly firewalld: readonly FirewalldRow[];
}

/**
 * The rows of an attachment, given the result of the plugin before in the chain. Policies are kept by nftables
 * whatever the backend: dropping needs no place in the order of rules.
 */
export function planFirewall(
  config: FirewallConfig,
  previous: Result | undefined,
  hasFirewalld = false,
): FirewallRows | CniError {
  if (previous === undefined) {
    return new CniError(cniCode.invalidConfig, 'missing prevResult from earlier plugin');
  }
  const addresses = previous.ips.map(({ address }) => address);
  const policy = planPolicy(config, previous, addresses);
  if (policy instanceof CniError) return policy;
  const { zone, backend = hasFirewalld ? 'firewalld' : 'iptables' } = config;
  const accepted = addresses.map((address) => ({
    set: cniSets(familyOf(address)).accept,
    key: hexOfIp(address),
  }));
  return {
    elements: backend === 'nftables' ? [...accepted, ...policy.elements] : policy.elements,
    bridgeElements: policy.bridgeElements,
    iptables: backend === 'iptables' ? addresses.flatMap((address) => acceptRows(config, address)) : [],
    firewalld:
      backend === 'firewalld'
        ? addresses.map((address) => ({ zone, source: singleCidr(ipOf(address)) }))
        : [],
  };
}

function hexOfIp(address: HostCidr): string {
  return nftRange(`${ipOf(address)}/${addressBits(familyOf(address))}` as Cidr).key;
}

function planPolicy(
  { ingressPolicy }: FirewallConfig,
  { interfaces: [first] }: Result,
  addresses: readonly HostCidr[],
): Pick<FirewallRows, 'elements' | 'bridgeElements'> | CniError {
  if (ingressPolicy === 'open') return { elements: [], bridgeElements: [] };
  if (first === undefined) {
    const text = `interface needs to be set for ingress policy "${ingressPolicy}", make sure to chain "firewall" plugin with "bridge"`;
    return new CniError(cniCode.invalidConfig, text);
  }
  if (first.name === '') return new CniError(cniCode.invalidConfig, 'got empty bridge name');
  const bridge = interfaceName(first.name).padEnd(ifnameDigits, '0');
  return {
    elements: addresses.flatMap((address) => {
      const { policed, bridgeOf } = cniSets(familyOf(address));
      const key = hexOfIp(address);
      return [
        { set: bridgeOf, key: key + bridge },
        { set: policed, key },
      ];
    }),
    bridgeElements: ingressPolicy === 'isolated' ? addresses.map(isolatedElement) : [],
  };
}

const ifnameDigits = 32;

function isolatedElement(address: HostCidr): NftElement {
  return { set: bridgeSets.isolated[familyOf(address)], key: hexOfIp(address) };
}

function acceptRows({ adminChain }: FirewallConfig, address: HostCidr): IptablesRow[] {
  const family = familyOf(address);
  const ip = `${ipOf(address)}/${addressBits(family)}`;
  const admin = { family, chain: 'FAIRLEAD-ADMIN', needs: adminChain } as const;
  const accept = { family, chain: 'FAIRLEAD-ACCEPT' } as const;
  return [
    { ...admin, rule: `-s ${ip} -j ${adminChain}` },
    { ...admin, rule: `-d ${ip} -j ${adminChain}` },
    { ...accept, rule: `-d ${ip} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT` },
    { ...accept, rule: `-s ${ip} -j ACCEPT` },
  ];
}
