import { type Cidr, type Family, families } from '../core/address.ts';
import {
  drop,
  inSet,
  jump,
  match,
  matchCidr,
  notInSet,
  returns,
  rule,
} from '../kernel/netlink/nftables/expressions.ts';
import {
  arpSaddrEther,
  arpSaddrIp,
  etherSaddr,
  etherTypes,
  icmp6Target,
  icmp6Type,
  ip6Daddr,
  ip6Saddr,
  ipDaddr,
  ipSaddr,
  metaIifname,
  metaL4proto,
  metaProtocol,
} from '../kernel/netlink/nftables/fields.ts';
import {
  hookPriorities,
  type NftLayout,
  type NftRule,
  type NftSet,
} from '../kernel/netlink/nftables/spec.ts';
import { cniTable } from './nft-layout.ts';

const NEIGHBOR_ADVERTISEMENT = 136;
const ICMPV6 = 58;
const linkLocal = 'fe80::/10' as Cidr;
const destinations = { 4: ipDaddr, 6: ip6Daddr } as const;
const addressTypes = { 4: 'ipv4_addr', 6: 'ipv6_addr' } as const;

/** Names of the sets of the table on bridges. */
export const bridgeSets = {
  guarded: 'guarded',
  macs: 'macs',
  /** Ports whose source addresses are checked too. */
  guardedAddresses: 'guarded-addresses',
  addresses: { 4: 'addresses4', 6: 'addresses6' },
  /** The same as `addresses6`; nft has another type for what advertisements hold. */
  targets: 'targets6',
  isolated: { 4: 'isolated4', 6: 'isolated6' },
} as const;

/**
 * `bridge fairlead-cni`: who a port of a bridge may say that it is. Frames from ports that are not guarded pass.
 *
 *   pod's frame → its port → MAC address its own? → ARP, IPv4, IPv6: sender's address its own? → the bridge
 */
export const bridgeLayout: NftLayout = {
  family: 'bridge',
  table: cniTable,
  sets: [
    { name: bridgeSets.guarded, key: ['ifname'], comment: 'ports whose MAC address is checked' },
    { name: bridgeSets.macs, key: ['ifname', 'ether_addr'] },
    { name: bridgeSets.guardedAddresses, key: ['ifname'], comment: 'ports whose addresses are checked' },
    { name: bridgeSets.targets, key: [metaIifname, icmp6Target], comment: 'what neighbours may advertise' },
    ...families.flatMap((family): NftSet[] => [
      { name: bridgeSets.addresses[family], key: ['ifname', addressTypes[family]] },
      { name: bridgeSets.isolated[family], key: [addressTypes[family]], comment: 'pods without neighbours' },
    ]),
  ],
  chains: [
    { name: 'addresses', rules: addressRules() },
    {
      name: 'prerouting',
      // As the reference plugin: before everything else on the bridge.
      hook: { type: 'filter', hook: 'prerouting', priority: hookPriorities.raw },
      rules: [rule('guarded ports', inSet([metaIifname], bridgeSets.guarded), jump('check'))],
    },
    {
      name: 'forward',
      hook: { type: 'filter', hook: 'forward', priority: hookPriorities.filter },
      rules: families.map(isolationRule),
    },
    {
      name: 'check',
      rules: [
        rule('a MAC address not its own', notInSet([metaIifname, etherSaddr], bridgeSets.macs), drop()),
        rule('addresses too', inSet([metaIifname], bridgeSets.guardedAddresses), jump('addresses')),
      ],
    },
  ],
};

function addressRules(): NftRule[] {
  const { macs, addresses, targets } = bridgeSets;
  const is = (protocol: keyof typeof etherTypes) => match(metaProtocol, '==', etherTypes[protocol]);
  const own = (field: typeof ipSaddr | typeof ip6Saddr, family: Family) =>
    inSet([metaIifname, field], addresses[family]);
  const advert = [
    ...is('ip6'),
    ...match(metaL4proto, '==', ICMPV6),
    ...match(icmp6Type, '==', NEIGHBOR_ADVERTISEMENT),
  ];
  return [
    rule('ARP, foreign MAC', is('arp'), notInSet([metaIifname, arpSaddrEther], macs), drop()),
    rule('ARP', is('arp'), own(arpSaddrIp, 4), returns()),
    // A sender who asks whether an address is free says 0.0.0.0, and nobody learns anything from it.
    rule('ARP probe', is('arp'), match(arpSaddrIp, '==', '0.0.0.0'), returns()),
    rule('IPv4', is('ip'), own(ipSaddr, 4), returns()),
    rule('neighbour, own', advert, inSet([metaIifname, icmp6Target], targets), returns()),
    rule('neighbour, link-local', advert, matchCidr(icmp6Target, '==', linkLocal), returns()),
    rule('neighbour, foreign', advert, drop()),
    rule('IPv6', is('ip6'), own(ip6Saddr, 6), returns()),
    rule('IPv6 link-local', is('ip6'), matchCidr(ip6Saddr, '==', linkLocal), returns()),
    // Duplicate address detection and multicast listening, before there is an address.
    rule('IPv6 without address', is('ip6'), match(ip6Saddr, '==', '::'), returns()),
    rule('anything else', drop()),
  ];
}

/** From one port to another, without the help of br_netfilter. */
function isolationRule(family: Family): NftRule {
  const protocol = match(metaProtocol, '==', etherTypes[family === 4 ? 'ip' : 'ip6']);
  return rule(
    `to isolated pods, IPv${family}`,
    protocol,
    inSet([destinations[family]], bridgeSets.isolated[family]),
    drop(),
  );
}
