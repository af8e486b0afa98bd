import type { Family } from '../../core/address.ts';
import type { NftExpression } from '../../kernel/netlink/nftables/bytecode.ts';
import {
  accept,
  drop,
  goto,
  inSet,
  jump,
  masquerade,
  match,
  matchBits,
  matchCidr,
  reject,
  rejectTcpReset,
  returns,
  rule,
  setMeta,
  setMetaFromMap,
  vmap,
} from '../../kernel/netlink/nftables/expressions.ts';
import {
  ctState,
  ctStateBits,
  fibDaddrType,
  fibTypes,
  flipped,
  masked,
  metaIifname,
  metaL4proto,
  metaMark,
  metaPriority,
  numgenRandom,
  thDport,
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
import { type Capacity, renderCapacity } from './capacity.ts';
import { AFFINITY_BIT, kinds, SLOTS_MASK } from './elements.ts';
import { affinityChains, affinityElements, affinitySets } from './layout-affinity.ts';
import {
  type Draw,
  drawsOf,
  type Fields,
  fieldsOf,
  isDnat,
  isFromNode,
  kindOfValue,
  mark,
  nodePort,
  toEndpoint,
} from './layout-fields.ts';

/*
 * The table of one family. Chains and rules depend on these options only, never on services: a chain `slots-N` for
 * each number of slots up to a bound stands there before any list has N slots. The kernel evaluates `numgen random
 * mod N` with a constant N, which is why that number is the one thing that needs rules of its own.
 *
 * The value of a frontend travels from rule to rule in the packet's priority, because the mark belongs to everybody.
 * Only a connection's first packet carries it, and it is put back before the packet leaves.
 *
 * Ways part and come together again, so that there are few of them: when verdicts change, the kernel follows every
 * one, older kernels as often as there are ways to it.
 */

export const TABLE = 'fairlead-proxy';

/** What tells that the source of a packet is a pod: its address (`pod-networks`), its interface, or nothing. */
export type PodDetector = 'networks' | 'nothing' | { readonly interfaceName: string };

export interface LayoutOptions {
  readonly family: Family;
  readonly detector: PodDetector;
  readonly masqueradeAll: boolean;
  /** 0…31: the bit of the mark that asks for masquerading; others know to leave kube-proxy's alone. */
  readonly masqueradeBit: number;
  /** Node ports are open on `nodeport-addresses`, or on every address of the node but loopback. */
  readonly nodePortsOn: 'set' | 'all';
  readonly capacity: Capacity;
  /** Frontends count their connections. */
  readonly counters?: boolean | undefined;
}

/** Options with what follows from them. */
interface Context extends LayoutOptions {
  readonly fields: Fields;
  readonly draws: readonly Draw[];
  readonly markBit: number;
}

function contextOf(options: LayoutOptions): Context {
  const fields = fieldsOf(options.family);
  const draws = drawsOf(fields, options.capacity.slots);
  return { ...options, fields, draws, markBit: (1 << options.masqueradeBit) >>> 0 };
}

export function proxyLayout(options: LayoutOptions): NftLayout {
  const context = contextOf(options);
  const { fields, draws, capacity } = context;
  return {
    family: options.family === 4 ? 'ip' : 'ip6',
    table: TABLE,
    note: renderCapacity(capacity),
    sets: [...setsOf(fields, options), ...(capacity.affinity ? affinitySets(fields) : [])],
    chains: [
      ...draws.map((draw) => slotsChain(fields, draw)),
      ...(capacity.affinity ? affinityChains(fields, draws) : []),
      balanceChain(context),
      ...guardChains(fields),
      clusterIpChain(context),
      externalChain(context),
      ...localChains(context),
      ...dispatchChains(context),
      ...natChains(context),
      ...filterChains(context),
    ],
  };
}

/** Elements that belong to the layout: which chain a kind and a number of slots lead to. */
export function layoutElements({
  family,
  capacity,
}: Pick<LayoutOptions, 'family' | 'capacity'>): NftElement[] {
  const draws = drawsOf(fieldsOf(family), capacity.slots);
  return [
    ...Object.entries(kinds).map(([chain, kind]): NftElement => {
      return { set: 'kinds', key: hexU32(kind << 12), data: { verdict: 'jump', chain } };
    }),
    // As `kinds`, but nobody is asked twice: the kernel takes no rules that could run in a circle.
    ...Object.entries(kinds).map(([chain, kind]): NftElement => {
      const data =
        kind === kinds.guarded ? ({ verdict: 'drop' } as const) : ({ verdict: 'jump', chain } as const);
      return { set: 'kinds-allowed', key: hexU32(kind << 12), data };
    }),
    ...draws.map(({ code, name }): NftElement => {
      return { set: 'slots', key: hexU32(code), data: { verdict: 'jump', chain: `slots-${name}` } };
    }),
    ...(capacity.affinity ? affinityElements(draws) : []),
  ];
}

/** Only what every service has is of fixed size: the other sets grow by themselves. */
function setsOf({ family, source, destination }: Fields, options: LayoutOptions): NftSet[] {
  const { frontends, endpoints } = options.capacity;
  const counter = options.counters === true ? { counter: true } : {};
  const address = family === 4 ? 'ipv4_addr' : 'ipv6_addr';
  const frontend = [address, 'inet_proto', 'inet_service'] as const;
  const port = ['inet_proto', 'inet_service'] as const;
  return [
    { name: 'services', key: frontend, data: ['classid'], size: frontends, ...counter },
    { name: 'nodeports', key: port, data: ['classid'], size: frontends, ...counter },
    { name: 'services-inside', key: frontend, data: ['classid'] },
    { name: 'nodeports-inside', key: port, data: ['classid'] },
    { name: 'guarded-services', key: frontend, data: ['classid'] },
    { name: 'source-ranges', key: [metaPriority, source], interval: true },
    { name: 'no-endpoints', key: frontend, size: frontends },
    { name: 'no-endpoint-nodeports', key: port, size: frontends },
    {
      name: 'endpoints',
      key: [metaPriority, metaL4proto, numgenRandom(0x10000)],
      data: [destination, thDport],
      size: endpoints,
    },
    { name: 'kinds', key: ['classid'], data: 'verdict' },
    { name: 'kinds-allowed', key: ['classid'], data: 'verdict' },
    { name: 'slots', key: ['classid'], data: 'verdict' },
    { name: 'nodeport-addresses', key: [address] },
    { name: 'pod-networks', key: [address], interval: true },
    { name: 'cluster-ips', key: [address], size: frontends },
    { name: 'service-networks', key: [address], interval: true },
    { name: 'hairpin', key: [address, address] },
  ];
}

/** The chain for the most slots of a capacity: it is there when all others are. */
export function lastSlotsChain(slots: number): string {
  return `slots-${slots}`;
}

function slotsChain(fields: Fields, { name, field }: Draw): NftChain {
  return { name: `slots-${name}`, rules: [rule(`one of ${name}`, toEndpoint(fields, field))] };
}

/**
 * A packet may have met the old value of a frontend and then the new endpoints, one fewer, and drawn the slot that is
 * gone. It comes back from its chain and takes slot 0, which every list has; and if the whole list is gone, or nobody
 * is in it, it is dropped, lest the connection is remembered as one that goes to the service's address itself.
 */
function balanceChain({ fields, capacity }: Context): NftChain {
  const keepsEndpoint = match(masked(metaPriority, AFFINITY_BIT), '!=', 0);
  return {
    name: 'balance',
    rules: [
      rule('by the number of slots', vmap([masked(metaPriority, SLOTS_MASK)], 'slots')),
      ...(capacity.affinity
        ? [rule('clients that keep their endpoint', keepsEndpoint, goto('affinity'))]
        : []),
      rule('its slot has just gone', toEndpoint(fields, numgenRandom(1))),
      rule('nobody is there for it', drop()),
    ],
  };
}

/** The value is the number of a group of source ranges; that of group 0, which has none, means: nobody. */
function guardChains({ source, frontend }: Fields): NftChain[] {
  const value = setMetaFromMap('priority', frontend, 'guarded-services');
  return [
    {
      name: 'guarded',
      rules: [
        rule('sources that may connect', inSet([metaPriority, source], 'source-ranges'), goto('allowed')),
        rule('nobody else', drop()),
      ],
    },
    {
      name: 'allowed',
      rules: [
        rule('to the service', value, vmap([kindOfValue], 'kinds-allowed')),
        rule('on to an endpoint', match(kindOfValue, '!=', 0), returns()),
        rule('it has no endpoints', setMeta('priority', 0), accept()),
      ],
    },
  ];
}

/** The source is a pod of this cluster; undefined where nothing tells. */
function isFromPod({ detector, fields }: Context): NftExpression[] | undefined {
  if (detector === 'nothing') return undefined;
  if (detector === 'networks') return inSet([fields.source], 'pod-networks');
  return match(metaIifname, '==', detector.interfaceName);
}

function clusterIpChain(context: Context): NftChain {
  const fromPod = isFromPod(context);
  const masqueraded = rule('masquerade', mark(context.markBit));
  if (context.masqueradeAll) return { name: 'cluster-ip', rules: [masqueraded] };
  if (fromPod === undefined)
    return { name: 'cluster-ip', rules: [rule('all keep their address', returns())] };
  return { name: 'cluster-ip', rules: [rule('pods keep their address', fromPod, returns()), masqueraded] };
}

/** The answer must come back through this node, so the endpoint has to see this node's address. */
function externalChain({ markBit }: Context): NftChain {
  return { name: 'external', rules: [rule('masquerade', mark(markBit))] };
}

/** Connections from outside stay on this node and keep their address; pods and the node itself reach all endpoints. */
function localChains(context: Context): NftChain[] {
  const fromPod = isFromPod(context);
  const inside = goto('inside');
  return [
    {
      name: 'external-local',
      rules: [
        ...(fromPod === undefined ? [] : [rule('pods keep their address', fromPod, inside)]),
        rule('this node masquerades', isFromNode, mark(context.markBit), inside),
        rule('others stay on this node', returns()),
      ],
    },
    {
      name: 'inside',
      rules: [
        rule(
          'to a service',
          setMetaFromMap('priority', context.fields.frontend, 'services-inside'),
          returns(),
        ),
        rule('to a node port', setMetaFromMap('priority', nodePort, 'nodeports-inside'), returns()),
        rule('nobody is there', drop()),
      ],
    },
  ];
}

/** The destination is one of the addresses that node ports are open on. */
function isToNodePorts({ nodePortsOn, fields }: Context): NftExpression[] {
  if (nodePortsOn === 'set') return inSet([fields.destination], 'nodeport-addresses');
  const loopback = fields.family === 4 ? '127.0.0.0/8' : '::1/128';
  return [
    ...match(fibDaddrType, '==', fibTypes.local),
    ...matchCidr(fields.destination, '!=', loopback as Parameters<typeof matchCidr>[2]),
  ];
}

function dispatchChains(context: Context): NftChain[] {
  const { fields } = context;
  const byNodePort = setMetaFromMap('priority', nodePort, 'nodeports');
  return [
    {
      name: 'dispatch',
      rules: [
        rule('to a service', setMetaFromMap('priority', fields.frontend, 'services'), goto('kind')),
        rule('to a node port', isToNodePorts(context), byNodePort, goto('kind')),
      ],
    },
    {
      name: 'kind',
      rules: [rule('by the kind', vmap([kindOfValue], 'kinds')), rule('to an endpoint', goto('balance'))],
    },
  ];
}

function natChains({ fields: { source, destination }, markBit }: Context): NftChain[] {
  const { dstnat, srcnat } = hookPriorities;
  const dispatch = [rule('services', jump('dispatch'))];
  const isMarked = match(masked(metaMark, markBit), '!=', 0);
  /** Off again, lest a packet that a tunnel wraps is masqueraded once more. */
  const unmark = setMeta('mark', flipped(metaMark, markBit));
  const hairpin = inSet([source, destination], 'hairpin');
  const fullyRandom = masquerade({ fullyRandom: true });
  return [
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
 * Services without endpoints, and what is no service at all though its address says so: clients hear at once that
 * nobody is there, TCP clients by a reset. "Port unreachable" would do as well, as kube-proxy has it, but the kernel
 * sends a client only one of these a second.
 */
function filterChains(context: Context): NftChain[] {
  const { family, fields } = context;
  const isNew = matchBits(ctState, ctStateBits.new);
  const chain = (hook: 'input' | 'forward' | 'output', ...rules: readonly NftRule[]): NftChain => {
    return { name: `filter-${hook}`, hook: { type: 'filter', hook, priority: hookPriorities.filter }, rules };
  };
  const served = rule('it goes to an endpoint', isDnat, returns());
  const unserved = rule('services without endpoints', inSet(fields.frontend, 'no-endpoints'), goto('refuse'));
  const toNodePort = [...isToNodePorts(context), ...inSet(nodePort, 'no-endpoint-nodeports')];
  const isTcp = match(metaL4proto, '==', protocolNumbers.tcp);
  return [
    {
      name: 'refuse',
      rules: [rule('tcp', isTcp, rejectTcpReset()), rule('others', reject(family))],
    },
    {
      name: 'to-services',
      rules: [
        served,
        unserved,
        rule('ports that no service has', inSet([fields.destination], 'cluster-ips'), goto('refuse')),
        rule('addresses that no service has', inSet([fields.destination], 'service-networks'), drop()),
      ],
    },
    {
      name: 'to-this-node',
      rules: [served, unserved, rule('node ports without endpoints', toNodePort, goto('refuse'))],
    },
    chain('input', rule('new connections', isNew, jump('to-this-node'))),
    chain('forward', rule('new connections', isNew, jump('to-services'))),
    chain('output', rule('new connections', isNew, jump('to-services'))),
  ];
}
