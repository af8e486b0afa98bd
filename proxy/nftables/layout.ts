import type { Family } from '../../core/address.ts';
import type { NftExpression } from '../../kernel/netlink/nftables/bytecode.ts';
import {
  dnatFromMap,
  drop,
  goto,
  inSet,
  jump,
  masquerade,
  match,
  matchBits,
  reject,
  rejectTcpReset,
  rule,
  setMeta,
  setMetaFromMap,
  vmap,
} from '../../kernel/netlink/nftables/expressions.ts';
import {
  ctState,
  ctStateBits,
  ctStatus,
  ctStatusBits,
  flipped,
  ip6Daddr,
  ip6Saddr,
  ipDaddr,
  ipSaddr,
  masked,
  metaL4proto,
  metaMark,
  metaPriority,
  type NftField,
  numgenRandom,
  thDport,
  withBits,
} from '../../kernel/netlink/nftables/fields.ts';
import { hexU32 } from '../../kernel/netlink/nftables/keys.ts';
import {
  hookPriorities,
  type NftChain,
  type NftElement,
  type NftLayout,
  type NftRule,
  type NftSet,
} from '../../kernel/netlink/nftables/spec.ts';
import { protocolNumbers } from '../protocol.ts';
import { ID_MASK, KIND_MASK, kinds, MAX_SLOTS } from './elements.ts';
import type { PlanSize } from './plan.ts';

/*
 * The table of one family. Chains and rules depend on these options only, never on services: a rule `slots-N` for
 * each number of slots up to a bound stands there before any list has N slots. The kernel evaluates `numgen random
 * mod N` with a constant N, which is why that number is the one thing that needs rules of its own.
 *
 * The value of a frontend travels from rule to rule in the packet's priority, because the mark belongs to everybody.
 * Only a connection's first packet carries it, and it is put back before the packet leaves.
 */

export const TABLE = 'fairlead-proxy';

/** What asks for masquerading, in a packet's mark: kube-proxy's bit, which others know to leave alone. */
export const MASQUERADE_MARK = 0x4000;

/** Whose connections to a cluster IP get the node's address as their source. */
export type ClusterIpMasquerade = 'outside pods' | 'nobody';

export interface LayoutOptions {
  readonly family: Family;
  readonly masquerade: ClusterIpMasquerade;
  readonly capacity: Capacity;
}

/** What a layout has room for. */
export interface Capacity {
  readonly frontends: number;
  readonly endpoints: number;
  readonly slots: number;
}

/** Few slots, because the kernel looks at each rule that uses `endpoints` for each element that it takes in. */
const LEAST: Capacity = { frontends: 1 << 10, endpoints: 1 << 12, slots: 16 };

/**
 * The capacity for a plan of this size: powers of two that it fills to three quarters at most, because a full set
 * refuses elements, and an almost full one is slow. More capacity means another layout, which is one transaction.
 */
export function capacityFor(size: PlanSize): Capacity {
  return {
    frontends: roomFor(size.frontends, LEAST.frontends),
    endpoints: roomFor(size.endpoints, LEAST.endpoints),
    slots: Math.min(MAX_SLOTS, powerOfTwo(size.slots, LEAST.slots)),
  };
}

function roomFor(count: number, least: number): number {
  return powerOfTwo(Math.ceil((count * 4) / 3), least);
}

function powerOfTwo(atLeast: number, least: number): number {
  return Math.max(least, 2 ** Math.ceil(Math.log2(Math.max(1, atLeast))));
}

export function proxyLayout({ family, masquerade: whom, capacity }: LayoutOptions): NftLayout {
  const fields = fieldsOf(family);
  return {
    family: family === 4 ? 'ip' : 'ip6',
    table: TABLE,
    sets: setsOf(fields, capacity),
    chains: [
      ...slotNumbers(capacity).map((slots) => slotsChain(fields, slots)),
      balanceChain(fields),
      clusterIpChain(fields, whom),
      externalChain(),
      dispatchChain(fields),
      ...natChains(fields),
      ...filterChains(fields),
    ],
  };
}

/** Elements that belong to the layout: which chain a kind and a number of slots lead to. */
export function layoutElements(capacity: Capacity): NftElement[] {
  return [
    ...Object.entries(kinds).map(([chain, kind]): NftElement => {
      return { set: 'kinds', key: hexU32(kind << 12), data: { verdict: 'goto', chain } };
    }),
    ...slotNumbers(capacity).map((slots): NftElement => {
      return { set: 'slots', key: hexU32(slots), data: { verdict: 'jump', chain: `slots-${slots}` } };
    }),
  ];
}

function slotNumbers({ slots }: Capacity): number[] {
  return Array.from({ length: slots }, (_, index) => index + 1);
}

interface Fields {
  readonly family: Family;
  readonly source: NftField;
  readonly destination: NftField;
  /** Address, protocol and port that a packet is sent to. */
  readonly frontend: readonly NftField[];
}

/** Protocol and port, where any of the node's addresses will do. */
const nodePort = [metaL4proto, thDport] as const;

function fieldsOf(family: Family): Fields {
  const destination = family === 4 ? ipDaddr : ip6Daddr;
  const source = family === 4 ? ipSaddr : ip6Saddr;
  return { family, source, destination, frontend: [destination, metaL4proto, thDport] };
}

function setsOf({ family, destination }: Fields, { frontends, endpoints }: Capacity): NftSet[] {
  const address = family === 4 ? 'ipv4_addr' : 'ipv6_addr';
  const frontend = [address, 'inet_proto', 'inet_service'] as const;
  const port = ['inet_proto', 'inet_service'] as const;
  return [
    { name: 'services', key: frontend, data: ['classid'], size: frontends },
    { name: 'nodeports', key: port, data: ['classid'], size: frontends },
    { name: 'no-endpoints', key: frontend, size: frontends },
    { name: 'no-endpoint-nodeports', key: port, size: frontends },
    {
      name: 'endpoints',
      key: [metaPriority, metaL4proto, numgenRandom(0x10000)],
      data: [destination, thDport],
      size: endpoints,
    },
    { name: 'kinds', key: ['classid'], data: 'verdict' },
    { name: 'slots', key: ['classid'], data: 'verdict' },
    { name: 'nodeport-addresses', key: [address] },
    { name: 'pod-networks', key: [address], interval: true },
    { name: 'hairpin', key: [address, address] },
  ];
}

/**
 * The protocol is part of the key though the list's number says it all: nft reads back a listed `dnat … map` only
 * when it sees a transport protocol in the rule.
 */
function toEndpoint({ family }: Fields, slots: number): NftExpression[] {
  return dnatFromMap(family, [masked(metaPriority, ID_MASK), metaL4proto, numgenRandom(slots)], 'endpoints');
}

function slotsChain(fields: Fields, slots: number): NftChain {
  return { name: `slots-${slots}`, rules: [rule(`one of ${slots}`, toEndpoint(fields, slots))] };
}

/**
 * A packet may have met the old value of a frontend and then the new endpoints, one fewer, and drawn the slot that is
 * gone. It comes back from its chain and takes slot 0, which every list has; and if the whole list is gone, it is
 * dropped, lest the connection is remembered as one that goes to the service's address itself.
 */
function balanceChain(fields: Fields): NftChain {
  return {
    name: 'balance',
    rules: [
      rule('by the number of slots', vmap([masked(metaPriority, MAX_SLOTS)], 'slots')),
      rule('its slot has just gone', toEndpoint(fields, 1)),
      rule('its list has just gone', drop()),
    ],
  };
}

function clusterIpChain({ source }: Fields, whom: ClusterIpMasquerade): NftChain {
  const balance = goto('balance');
  const masquerading = [
    rule('pods keep their address', inSet([source], 'pod-networks'), balance),
    rule('masquerade', setMeta('mark', withBits(metaMark, MASQUERADE_MARK)), balance),
  ];
  const rules = whom === 'nobody' ? [rule('all keep their address', balance)] : masquerading;
  return { name: 'cluster-ip', rules };
}

/** The answer must come back through this node, so the endpoint has to see this node's address. */
function externalChain(): NftChain {
  const mark = setMeta('mark', withBits(metaMark, MASQUERADE_MARK));
  return { name: 'external', rules: [rule('masquerade', mark, goto('balance'))] };
}

function dispatchChain({ destination, frontend }: Fields): NftChain {
  const byNodePort = setMetaFromMap('priority', nodePort, 'nodeports');
  return {
    name: 'dispatch',
    rules: [
      rule('to a service', setMetaFromMap('priority', frontend, 'services'), goto('kind')),
      rule('to a node port', inSet([destination], 'nodeport-addresses'), byNodePort, goto('kind')),
    ],
  };
}

function natChains({ source, destination }: Fields): NftChain[] {
  const { dstnat, srcnat } = hookPriorities;
  const dispatch = [rule('services', jump('dispatch'))];
  const isDnat = matchBits(ctStatus, ctStatusBits.dnat);
  const isMarked = match(masked(metaMark, MASQUERADE_MARK), '!=', 0);
  /** Off again, lest a packet that a tunnel wraps is masqueraded once more. */
  const unmark = setMeta('mark', flipped(metaMark, MASQUERADE_MARK));
  const hairpin = inSet([source, destination], 'hairpin');
  const fullyRandom = masquerade({ fullyRandom: true });
  return [
    { name: 'kind', rules: [rule('by the kind', vmap([masked(metaPriority, KIND_MASK)], 'kinds'))] },
    { name: 'nat-prerouting', hook: { type: 'nat', hook: 'prerouting', priority: dstnat }, rules: dispatch },
    { name: 'nat-output', hook: { type: 'nat', hook: 'output', priority: dstnat }, rules: dispatch },
    {
      name: 'nat-postrouting',
      hook: { type: 'nat', hook: 'postrouting', priority: srcnat },
      rules: [
        rule('the priority was ours', isDnat, setMeta('priority', 0)),
        rule('masquerade', isMarked, unmark, fullyRandom),
        rule('a pod to itself', isDnat, hairpin, fullyRandom),
      ],
    },
  ];
}

/**
 * Services without endpoints: clients hear at once that nobody is there, TCP clients by a reset. "Port unreachable"
 * would do as well, as kube-proxy has it, but the kernel sends a client only one of these a second.
 */
function filterChains({ family, destination, frontend }: Fields): NftChain[] {
  const isNew = matchBits(ctState, ctStateBits.new);
  const services = rule('services without endpoints', isNew, jump('refuse-services'));
  const nodePorts = rule('node ports without endpoints', isNew, jump('refuse-node-ports'));
  const chain = (hook: 'input' | 'forward' | 'output', ...rules: readonly NftRule[]): NftChain => {
    return { name: `filter-${hook}`, hook: { type: 'filter', hook, priority: hookPriorities.filter }, rules };
  };
  const toNodePort = [
    ...inSet([destination], 'nodeport-addresses'),
    ...inSet(nodePort, 'no-endpoint-nodeports'),
  ];
  return [
    { name: 'refuse-services', rules: refuse(inSet(frontend, 'no-endpoints'), family) },
    { name: 'refuse-node-ports', rules: refuse(toNodePort, family) },
    chain('input', services, nodePorts),
    chain('forward', services),
    chain('output', services),
  ];
}

function refuse(condition: NftExpression[], family: Family): NftRule[] {
  const isTcp = match(metaL4proto, '==', protocolNumbers.tcp);
  return [rule('tcp', isTcp, condition, rejectTcpReset()), rule('others', condition, reject(family))];
}
