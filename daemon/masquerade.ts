import { type Cidr, cidrContains, type Family, families, familyOf } from '../core/address.ts';
import {
  inSet,
  masquerade,
  match,
  matchCidr,
  notInSet,
  returns,
  rule,
} from '../kernel/netlink/nftables/expressions.ts';
import {
  ip6Daddr,
  ip6Saddr,
  ipDaddr,
  ipSaddr,
  masked,
  metaMark,
  metaNfproto,
} from '../kernel/netlink/nftables/fields.ts';
import { nftRange } from '../kernel/netlink/nftables/keys.ts';
import {
  hookPriorities,
  type NftElement,
  type NftLayout,
  type NftRule,
  type NftSet,
} from '../kernel/netlink/nftables/spec.ts';
import { guardChain, guardSets } from './guard.ts';
import type { PerFamily } from './lease.ts';

/*
 * The life of one packet in postrouting, the last hook before it leaves this node. Rule numbers as in flannel:
 *
 *   pod -> anything, marked 0x4000     2  the service proxy masquerades it; twice would clash (flannel PR 1681)
 *   pod here -> pod anywhere           3  keeps its address: pods see each other
 *   anything -> pod here             4,5  keeps its address: pods see who calls them
 *   pod -> multicast                   6  keeps its address
 *   pod -> a network named so             keeps its address: a router there knows the way to pods
 *   pod -> anything else               6  leaves with this node's address: nobody outside knows the way to a pod
 *   node or outside -> pod elsewhere   7  leaves with this node's address, so that the answer comes back here
 *
 * The address and the port are chosen at random, because two packets that choose in the same moment may else
 * choose the same (`fully-random`).
 *
 * The chains know no address: the cluster's networks, this node's subnets and networks outside that know pods are
 * elements of sets.
 */

/** Set by kube-proxy and by our proxy on what they masquerade themselves. */
export const masqueradeMark = 0x4000;
export const masqueradeTable = 'fairlead';

const NFPROTO_IPV4 = 2;
const NFPROTO_IPV6 = 10;
const sources = { 4: ipSaddr, 6: ip6Saddr } as const;
const destinations = { 4: ipDaddr, 6: ip6Daddr } as const;
const multicast = { 4: '224.0.0.0/4' as Cidr, 6: 'ff00::/8' as Cidr } as const;
const clusterSet = (family: Family) => `cluster${family}`;
const localSet = (family: Family) => `local${family}`;
const knowingSet = (family: Family) => `knowing${family}`;

/** The same on every node and for every network; `random` is by default true. */
export function masqueradeLayout(options: {
  readonly masquerade: boolean;
  readonly random?: boolean;
}): NftLayout {
  const { random = true } = options;
  const postrouting = {
    name: 'postrouting',
    hook: { type: 'nat', hook: 'postrouting', priority: hookPriorities.srcnat },
    rules: [
      rule('masqueraded already', match(masked(metaMark, masqueradeMark), '==', masqueradeMark), returns()),
      ...families.flatMap((family) => postroutingRules(family, random)),
    ],
  } as const;
  return {
    family: 'inet',
    table: masqueradeTable,
    chains: [...(options.masquerade ? [postrouting] : []), guardChain],
    sets: [...families.flatMap(setsOf), ...guardSets],
  };
}

function setsOf(family: Family): NftSet[] {
  const common = { key: [destinations[family]], interval: true };
  return [
    { ...common, name: clusterSet(family), comment: 'pod networks of the cluster' },
    { ...common, name: localSet(family), comment: 'pod subnets of this node' },
    { ...common, name: knowingSet(family), comment: 'networks that see addresses of pods' },
  ];
}

function postroutingRules(family: Family, random: boolean): NftRule[] {
  const from = [sources[family]];
  const to = [destinations[family]];
  const flags = random ? { fullyRandom: true } : {};
  const [cluster, local, knowing] = [clusterSet(family), localSet(family), knowingSet(family)];
  return [
    rule('pod to pod', only(family), inSet(from, local), inSet(to, cluster), returns()),
    rule('to a pod here', only(family), inSet(to, local), returns()),
    rule(
      'pod to a network that knows pods',
      only(family),
      inSet(from, cluster),
      inSet(to, knowing),
      returns(),
    ),
    rule(
      'pod to outside',
      only(family),
      inSet(from, cluster),
      matchCidr(destinations[family], '!=', multicast[family]),
      masquerade(flags),
    ),
    rule('to a pod elsewhere', only(family), notInSet(from, cluster), inSet(to, cluster), masquerade(flags)),
  ];
}

/** The table sees packets of both families, and an IPv6 header has other bytes where IPv4 has its addresses. */
function only(family: Family) {
  return match(metaNfproto, '==', family === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6);
}

/** The elements of the sets. `knowing`: networks outside that see addresses of pods. */
export function masqueradeRows(
  networks: PerFamily<Cidr>,
  subnets: PerFamily<Cidr>,
  knowing: readonly Cidr[] = [],
): NftElement[] {
  return families.flatMap((family) => [
    ...elementsOf(clusterSet(family), networks[family]),
    ...elementsOf(localSet(family), subnets[family]),
    ...withoutNested(knowing)
      .filter((cidr) => familyOf(cidr) === family)
      .flatMap((cidr) => elementsOf(knowingSet(family), cidr)),
  ]);
}

function elementsOf(set: string, cidr: Cidr | undefined): NftElement[] {
  return cidr === undefined ? [] : [{ set, ...nftRange(cidr) }];
}

/** The kernel refuses elements that overlap. */
function withoutNested(cidrs: readonly Cidr[]): Cidr[] {
  const distinct = [...new Set(cidrs)];
  return distinct.filter((cidr) => !distinct.some((other) => other !== cidr && cidrContains(other, cidr)));
}
