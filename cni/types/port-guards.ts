import { addressBits, type Family } from '../../core/address.ts';
import { nftKey } from '../../kernel/netlink/nftables/keys.ts';
import type { NftElement } from '../../kernel/netlink/nftables/spec.ts';
import { cniSets } from '../nft-layout.ts';
import { type AddressSpan, commonSpans, everySpan, spanOfIp } from './address-spans.ts';
import { type HostPort, protocolNumbers } from './hostport.ts';
import type { Choice, PortConditions } from './port-conditions.ts';

/** Elements that stand for the addresses of one host port; each costs memory of the kernel. */
export const addressElementsMax = 4096;

/**
 * The conditions of a host port as elements of the table in `nft-layout.ts`, beside the element that the host port
 * itself is. Undefined: they are too many.
 */
export function guardElements(port: HostPort, conditions: PortConditions): NftElement[] | undefined {
  const { family, protocol, hostPort, hostIp } = port;
  const sets = cniSets(family).conditions;
  const number = nftKey(['inet_proto', 'inet_service'], protocolNumbers[protocol], hostPort);
  const scope = hostIp === undefined ? everySpan(family) : spanOfIp(hostIp);
  const element = (set: string, at: AddressSpan, rest = ['', '']): NftElement => {
    const [key, keyEnd] = at.map((end, index) => hexOfAddress(end, family) + number + rest[index]);
    return { set, key: key ?? '', keyEnd: keyEnd ?? '' };
  };
  const destinations = commonSpans([scope], conditions.destinations);
  if (destinations.length * conditions.sources.length > addressElementsMax) return undefined;
  const addresses = destinations.flatMap((to) =>
    conditions.sources.map((from) =>
      element(
        sets.addresses,
        to,
        from.map((end) => hexOfAddress(end, family)),
      ),
    ),
  );
  const choice = <T extends string | number>(
    { only, but }: Choice<T>,
    type: 'ifname' | 'mark',
    names: { readonly limited: string; readonly is: string; readonly isNot: string },
  ) => {
    const valued = (set: string) => (value: T) => {
      const hex = nftKey([type], value);
      return element(set, scope, [hex, hex]);
    };
    const limited = only === undefined ? [] : [element(names.limited, scope)];
    return [...limited, ...(only ?? []).map(valued(names.is)), ...but.map(valued(names.isNot))];
  };
  return [
    element(sets.ports, scope),
    ...addresses,
    ...choice(conditions.links, 'ifname', sets.links),
    ...choice(conditions.marks, 'mark', sets.marks),
  ];
}

function hexOfAddress(value: bigint, family: Family): string {
  return value.toString(16).padStart(addressBits(family) / 4, '0');
}
