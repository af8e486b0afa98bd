import { type Cidr, type Family, families } from '../core/address.ts';
import {
  accept,
  dnatFromMap,
  drop,
  goto,
  inSet,
  jump,
  masquerade,
  match,
  matchBits,
  matchCidr,
  notInSet,
  returns,
  rule,
  setMeta,
  setMetaFromMap,
} from '../kernel/netlink/nftables/expressions.ts';
import {
  ctState,
  ctStateBits,
  ctStatus,
  ctStatusBits,
  fibDaddrType,
  fibTypes,
  ip6Daddr,
  ip6Saddr,
  ipDaddr,
  ipSaddr,
  masked,
  metaIifname,
  metaL4proto,
  metaMark,
  metaNfproto,
  metaPriority,
  type NftField,
  thDport,
  withBits,
} from '../kernel/netlink/nftables/fields.ts';
import {
  hookPriorities,
  type NftChain,
  type NftHook,
  type NftLayout,
  type NftRule,
  type NftSet,
} from '../kernel/netlink/nftables/spec.ts';

/*
 * The packet filter of the attachments. Chains and rules never change; an attachment is elements of the sets. Nearly all
 * of them name the attachment's own address or port; where one depends on the pod's subnet, the pod's element is the
 * number of a scope, and the ranges of the scope are elements that all its pods want. A set of ranges is copied for each
 * change, which would cost each pod more than all its other elements.
 *
 * The life of a packet from outside to a host port:
 *
 *   203.0.113.10:4444 → 172.30.0.11:8080
 *     prerouting   8080 is a local address' port and in `hostports4` → 203.0.113.10:4444 → 10.244.1.5:80
 *     forward      to the pod's end of the bridge
 *     postrouting  the source is not one that must be masqueraded: the pod sees who calls
 *
 * A host port gives way to everything else on the node that translates destinations: its chains come after the usual
 * priority, and the first translation of a connection is the last. So a Service's node port or external address wins
 * over a pod's host port, whatever order the two were made in, as it does where kube-proxy puts its jump first.
 *
 * A host port with conditions is in `conditional4`, too: only packets that meet all of them come to `hostports4`.
 *
 * What cannot be: IPv6 connections to ::1. The kernel has no route_localnet for IPv6, and a packet with that source
 * address never leaves by another link. Such packets are left alone, so the client hears at once that nobody listens.
 */

export const cniTable = 'fairlead-cni';

/**
 * The bit of a packet's mark that says, from the translation of a connection's first packet until it leaves, that it
 * was by a host port. The reference plugin's bit: Kubernetes uses 14 and 15, Calico 20 to 31.
 */
export const hostportMarkBit = 13;
const hostportMark = 1 << hostportMarkBit;

const NFPROTO_IPV4 = 2;
const NFPROTO_IPV6 = 10;
/** After the service proxy, Docker and others, which are at `dstnat`. */
const hostportPriority = hookPriorities.dstnat + 10;

const sources = { 4: ipSaddr, 6: ip6Saddr } as const;
const destinations = { 4: ipDaddr, 6: ip6Daddr } as const;
const multicast = { 4: '224.0.0.0/4' as Cidr, 6: 'ff00::/8' as Cidr } as const;
const loopback = { 4: '127.0.0.0/8' as Cidr, 6: '::1/128' as Cidr } as const;
const addressTypes = { 4: 'ipv4_addr', 6: 'ipv6_addr' } as const;

/** Names of the sets of one family, and of the chains that ask them; what is in them stands at {@link cniLayout}. */
export function cniSets(family: Family) {
  return {
    hostports: `hostports${family}`,
    hostIpPorts: `hostip-ports${family}`,
    hostportPods: `hostport-pods${family}`,
    hostportSources: `hostport-sources${family}`,
    masquerade: `masquerade${family}`,
    masqueradeNear: `masquerade-near${family}`,
    accept: `accept${family}`,
    policed: `policed${family}`,
    bridgeOf: `bridge-of${family}`,
    conditions: {
      ports: `conditional${family}`,
      addresses: `condition-addresses${family}`,
      links: choiceSets('link', family),
      marks: choiceSets('mark', family),
    },
  } as const;
}

/** Host ports that are only for some links or marks, these, and those that host ports are not for. */
function choiceSets(of: 'link' | 'mark', family: Family) {
  const name = `condition-${of}s`;
  return { limited: `${name}-of${family}`, is: `${name}${family}`, isNot: `${name}-not${family}` } as const;
}

/** `inet fairlead-cni`: host ports, masquerading, the firewall. */
export const cniLayout: NftLayout = {
  family: 'inet',
  table: cniTable,
  sets: families.flatMap(setsOf),
  chains: [
    {
      name: 'hostports',
      rules: [...families.map(withConditions), rule('without conditions', goto('hostports-open'))],
    },
    ...families.map(conditionChain),
    {
      name: 'hostports-open',
      rules: [
        rule('by a host port', setMeta('mark', withBits(metaMark, hostportMark))),
        ...families.flatMap(hostportRules),
        rule('by none', setMeta('mark', masked(metaMark, ~hostportMark))),
      ],
    },
    {
      name: 'hostport-sources',
      rules: [
        rule('as it was', setMeta('mark', masked(metaMark, ~hostportMark))),
        ...families.map(byHostport),
      ],
    },
    ...families.map(hostportChain),
    ...families.map(masqueradeChain),
    // What route_localnet lets in is only what this node itself sent: see `localnetGuard`.
    base('raw-prerouting', 'filter', 'prerouting', hookPriorities.raw, [localnetGuard()]),
    base('nat-prerouting', 'nat', 'prerouting', hostportPriority, [toHostports()]),
    base('nat-output', 'nat', 'output', hostportPriority, [leaveLoopback(), toHostports()]),
    base('nat-postrouting', 'nat', 'postrouting', hookPriorities.srcnat, [
      rule('by a host port', match(masked(metaMark, hostportMark), '!=', 0), jump('hostport-sources')),
      ...families.map(fromPods),
    ]),
    base('filter-forward', 'filter', 'forward', hookPriorities.filter, families.flatMap(forwardRules)),
  ],
};

function setsOf(family: Family): NftSet[] {
  const names = cniSets(family);
  const address = addressTypes[family];
  const target = [address, 'inet_service'] as const;
  const port = ['inet_proto', 'inet_service'] as const;
  const scope = ['classid'] as const;
  return [
    { name: names.hostports, key: port, data: target, comment: 'host ports on any address' },
    { name: names.hostIpPorts, key: [address, ...port], data: target, comment: 'host ports on one address' },
    {
      name: names.hostportPods,
      key: [address],
      data: scope,
      comment: 'pods with host ports, by whom they see as the node',
    },
    {
      name: names.hostportSources,
      key: [...scope, address],
      interval: true,
      comment: 'whom such pods see as the node',
    },
    {
      name: names.masquerade,
      key: [address],
      data: scope,
      comment: 'pods that leave with the address of the node, by subnet',
    },
    {
      name: names.masqueradeNear,
      key: [...scope, address],
      interval: true,
      comment: 'such subnets: to these their pods do not',
    },
    { name: names.accept, key: [address], comment: 'pods of networks with the firewall plugin' },
    { name: names.policed, key: [address], comment: 'pods with an ingress policy' },
    { name: names.bridgeOf, key: [address, 'ifname'], comment: 'these pods and their bridges' },
    ...conditionSets(family),
  ];
}

function conditionSets(family: Family): NftSet[] {
  const { ports, addresses, links, marks } = cniSets(family).conditions;
  const address = addressTypes[family];
  const port = [address, 'inet_proto', 'inet_service'] as const;
  const choice = ({ limited, is, isNot }: typeof links | typeof marks, type: 'ifname' | 'mark'): NftSet[] => [
    { name: limited, key: port, interval: true },
    { name: is, key: [...port, type], interval: true },
    { name: isNot, key: [...port, type], interval: true },
  ];
  return [
    { name: ports, key: port, interval: true, comment: 'host ports with conditions' },
    { name: addresses, key: [...port, address], interval: true, comment: 'these and who may call them' },
    ...choice(links, 'ifname'),
    ...choice(marks, 'mark'),
  ];
}

function base(
  name: string,
  type: NftHook['type'],
  hook: NftHook['hook'],
  priority: number,
  rules: readonly NftRule[],
): NftChain {
  return { name, hook: { type, hook, priority }, rules };
}

/** The table sees packets of both families, and an IPv6 header has other bytes where IPv4 has its addresses. */
function only(family: Family) {
  return match(metaNfproto, '==', family === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6);
}

function toHostports(): NftRule {
  return rule('to the node itself', match(fibDaddrType, '==', fibTypes.local), jump('hostports'));
}

function leaveLoopback(): NftRule {
  return rule('never beyond the node', only(6), matchCidr(ip6Daddr, '==', loopback[6]), returns());
}

/** Where a packet is for. */
function calledBy(family: Family) {
  return [destinations[family], metaL4proto, thDport];
}

function conditionsOf(family: Family): string {
  return `conditions${family}`;
}

function withConditions(family: Family): NftRule {
  const { ports } = cniSets(family).conditions;
  const isOne = inSet(calledBy(family), ports);
  return rule(`with conditions, IPv${family}`, only(family), isOne, goto(conditionsOf(family)));
}

/** What does not meet one of the conditions leaves the host ports as if there were none. */
function conditionChain(family: Family): NftChain {
  const { addresses, links, marks } = cniSets(family).conditions;
  const port = calledBy(family);
  const choice = (name: string, field: NftField, { limited, is, isNot }: typeof links | typeof marks) => [
    rule(
      `none of its ${name}`,
      only(family),
      inSet(port, limited),
      notInSet([...port, field], is),
      returns(),
    ),
    rule(`one of the other ${name}`, only(family), inSet([...port, field], isNot), returns()),
  ];
  return {
    name: conditionsOf(family),
    rules: [
      rule('none of its addresses', only(family), notInSet([...port, sources[family]], addresses), returns()),
      ...choice('links', metaIifname, links),
      ...choice('marks', metaMark, marks),
      rule('all is met', goto('hostports-open')),
    ],
  };
}

function hostportRules(family: Family): NftRule[] {
  const { hostIpPorts, hostports } = cniSets(family);
  const one = calledBy(family);
  return [
    rule(`on one address, IPv${family}`, only(family), dnatFromMap(family, one, hostIpPorts)),
    rule(`on any address, IPv${family}`, only(family), dnatFromMap(family, one.slice(1), hostports)),
  ];
}

/**
 * Host ports at 127.0.0.1 need route_localnet on the way to the pod, with which the kernel no longer refuses such
 * addresses from the wire: a pod could talk to what listens on the node's loopback only (CVE-2020-8558).
 */
function localnetGuard(): NftRule {
  const fromWire = match(metaIifname, '!=', 'lo');
  return rule('loopback from the wire', fromWire, only(4), matchCidr(ipDaddr, '==', loopback[4]), drop());
}

function byHostport(family: Family): NftRule {
  const scope = setMetaFromMap('priority', [destinations[family]], cniSets(family).hostportPods);
  const isByPort = matchBits(ctStatus, ctStatusBits.dnat);
  return rule(
    `host ports, IPv${family}`,
    only(family),
    isByPort,
    scope,
    goto(cniSets(family).hostportSources),
  );
}

/**
 * Where the answer would not come back through the node's conntrack by itself: from the pod to itself, from its
 * neighbours on the bridge, from the node's 127.0.0.1; or from everybody, when the network says so. The number of the
 * scope travels in the packet's priority, because the mark belongs to everybody.
 */
function hostportChain(family: Family): NftChain {
  const name = cniSets(family).hostportSources;
  const isFromThese = inSet([metaPriority, sources[family]], name);
  const asNode = masquerade({ fullyRandom: true });
  return {
    name,
    rules: [
      rule('they see the node', only(family), isFromThese, setMeta('priority', 0), asNode),
      rule('the priority was ours', setMeta('priority', 0)),
    ],
  };
}

function fromPods(family: Family): NftRule {
  const { masquerade: pods } = cniSets(family);
  const scope = setMetaFromMap('priority', [sources[family]], pods);
  return rule(`from pods, IPv${family}`, only(family), scope, goto(pods));
}

function masqueradeChain(family: Family): NftChain {
  const { masquerade: name, masqueradeNear } = cniSets(family);
  const to = destinations[family];
  const isNear = inSet([metaPriority, to], masqueradeNear);
  return {
    name,
    rules: [
      rule('to their own subnet', only(family), isNear, setMeta('priority', 0), returns()),
      rule('the priority was ours', setMeta('priority', 0)),
      rule(
        'to outside',
        only(family),
        matchCidr(to, '!=', multicast[family]),
        masquerade({ fullyRandom: true }),
      ),
    ],
  };
}

/**
 * A policy keeps bridges apart from each other; what comes from outside is not its matter. Accepting is for this
 * table only: no chain of nftables can accept what another one drops.
 */
function forwardRules(family: Family): NftRule[] {
  const { accept: accepted, policed, bridgeOf } = cniSets(family);
  const [from, to] = [sources[family], destinations[family]];
  const related = ctStateBits.established | ctStateBits.related;
  return [
    rule(
      `from another bridge, IPv${family}`,
      only(family),
      inSet([from], policed),
      inSet([to], policed),
      notInSet([to, metaIifname], bridgeOf),
      drop(),
    ),
    rule(`from pods, IPv${family}`, only(family), inSet([from], accepted), accept()),
    rule(
      `answers to pods, IPv${family}`,
      only(family),
      inSet([to], accepted),
      matchBits(ctState, related),
      accept(),
    ),
  ];
}
