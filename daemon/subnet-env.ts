import { type Cidr, cidrAddress, families, prefixLengthOf } from '../core/address.ts';
import type { PerFamily } from './lease.ts';

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
