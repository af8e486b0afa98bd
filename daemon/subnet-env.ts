import {
  type Cidr,
  cidrAddress,
  families,
  familyOf,
  networkOf,
  parseHostCidr,
  prefixLengthOf,
} from '../core/address.ts';
import type { PerFamily } from './lease.ts';
import { readFileIfThere } from './state-file.ts';

export interface SubnetEnv {
  readonly networks: PerFamily<Cidr>;
  readonly subnets: PerFamily<Cidr>;
  readonly mtuBytes: number;
  readonly masquerade: boolean;
}

/** flannel's `/run/flannel/subnet.env`, which its CNI plugin, docker and k3s read. */
export function renderSubnetEnv({ networks, subnets, mtuBytes, masquerade }: SubnetEnv): string {
  const lines = families.flatMap((family) => {
    const network = networks[family];
    const subnet = subnets[family];
    if (network === undefined || subnet === undefined) return [];
    const prefix = family === 4 ? 'FLANNEL' : 'FLANNEL_IPV6';
    return [
      `${prefix}_NETWORK=${network}`,
      `${prefix}_SUBNET=${cidrAddress(subnet, 1)}/${prefixLengthOf(subnet)}`,
    ];
  });
  return [...lines, `FLANNEL_MTU=${mtuBytes}`, `FLANNEL_IPMASQ=${masquerade}`, ''].join('\n');
}

/** The subnets in a subnet.env, ours or flanneld's; of a list of several the first. What cannot be read is left out. */
export function parseSubnetEnv(text: string): PerFamily<Cidr> {
  const found = families.flatMap((family) => {
    const name = family === 4 ? 'FLANNEL_SUBNET' : 'FLANNEL_IPV6_SUBNET';
    const [, value = ''] = new RegExp(`^${name}=([^,\\s]+)`, 'm').exec(text) ?? [];
    const address = parseHostCidr(value);
    return address !== undefined && familyOf(address) === family
      ? [[family, networkOf(address)] as const]
      : [];
  });
  return Object.fromEntries(found);
}

/** What flanneld left, where this agent takes its place; undefined when there is no such file. */
export function readSubnetEnv(path: string | undefined): PerFamily<Cidr> | undefined {
  const text = path === undefined ? undefined : readFileIfThere(path);
  return text === undefined ? undefined : parseSubnetEnv(text);
}
