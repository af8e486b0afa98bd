import { type Cidr, familyOf, type HostCidr, ipOf, type Mac } from '../../core/address.ts';
import { nftKey, nftRange } from '../../kernel/netlink/nftables/keys.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import { bridgeSets } from '../nft-bridge-layout.ts';

/** A port of a bridge and who is behind it. */
export interface SpoofCheck {
  /** The end of the pair on the host. */
  readonly port: string;
  readonly mac: Mac;
  /** Given: the pod may send from these only, in ARP and neighbour discovery too. Absent: only the MAC is checked. */
  readonly addresses?: readonly HostCidr[] | undefined;
}

/** Rows of `bridge fairlead-cni` (`macspoofchk`, and the check of source addresses). */
export function planSpoofCheck({ port, mac, addresses }: SpoofCheck): NftElement[] {
  const guard = nftKey(['ifname'], port);
  const rows: NftElement[] = [
    { set: bridgeSets.macs, key: nftKey(['ifname', 'ether_addr'], port, mac) },
    { set: bridgeSets.guarded, key: guard },
  ];
  if (addresses === undefined) return rows;
  return [
    ...rows,
    ...addresses.flatMap((address) => addressElements(guard, address)),
    { set: bridgeSets.guardedAddresses, key: guard },
  ];
}

function addressElements(guard: string, address: HostCidr): NftElement[] {
  const ip = ipOf(address);
  const family = familyOf(ip);
  const key = guard + nftRange(`${ip}/${family === 4 ? 32 : 128}` as Cidr).key;
  const element = { set: bridgeSets.addresses[family], key };
  return family === 4 ? [element] : [element, { set: bridgeSets.targets, key }];
}
