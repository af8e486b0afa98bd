import type { Family } from '../../core/address.ts';
import type { NftExpression } from '../../kernel/netlink/nftables/bytecode.ts';
import {
  dnatToItself,
  drop,
  goto,
  inSet,
  jump,
  masquerade,
  match,
  matchBits,
  notInSet,
  reject,
  rejectTcpReset,
  returns,
  rule,
  setMeta,
} from '../../kernel/netlink/nftables/expressions.ts';
import {
  ctState,
  ctStateBits,
  flipped,
  masked,
  metaIifname,
  metaL4proto,
  metaMark,
} from '../../kernel/netlink/nftables/fields.ts';
import {
  hookPriorities,
  type NftChain,
  type NftLayout,
  type NftSet,
} from '../../kernel/netlink/nftables/spec.ts';
import type { PodDetector } from '../nftables/layout.ts';
import { type Fields, fieldsOf, isFromNode, mark, nodePort } from '../nftables/layout-fields.ts';
import { protocolNumbers } from '../protocol.ts';

/*
 * What IPVS cannot do: masquerading, source ranges, refusing. Chains and rules depend on these options only, and
 * services are elements, as in the table of the mode nftables.
 *
 * A pod's first packet to 10.96.0.10:80. In prerouting `services` says by 10.96.0.10 . tcp . 80 how it is to be
 * marked. The address is local (it lies on our dummy device), so the packet comes to the input hook, where `fates`
 * may refuse or drop it; behind that, still in the input hook, IPVS takes it, gives it an endpoint's address and sends
 * it out anew, through output and postrouting, where the mark is acted on. What the node itself sends meets IPVS in
 * the output hook at priority -98: what is to come before that stands at -110.
 */

export const TABLE = 'fairlead-ipvs';

/*
 * Sets of frontends, each with a twin for node ports. They hold no verdicts: the kernel would check all elements of a
 * map of verdicts at every change to it.
 */

/** How connections are marked: the names of chains as well. */
const markSets = ['cluster-ip', 'external', 'external-local'] as const;
/** What becomes of connections; `inside`: pods and the node pass, others do not. */
const fateSets = ['served', 'inside', 'dropped', 'refused'] as const;
export type FrontendSet = (typeof markSets)[number] | (typeof fateSets)[number];

export interface IpvsLayoutOptions {
  readonly family: Family;
  readonly detector: PodDetector;
  readonly masqueradeAll: boolean;
  /** 0…31 */
  readonly masqueradeBit: number;
}

interface Context extends IpvsLayoutOptions {
  readonly fields: Fields;
  readonly markBit: number;
}

export function ipvsLayout(options: IpvsLayoutOptions): NftLayout {
  const fields = fieldsOf(options.family);
  const context = { ...options, fields, markBit: (1 << options.masqueradeBit) >>> 0 };
  return {
    family: options.family === 4 ? 'ip' : 'ip6',
    table: TABLE,
    sets: setsOf(options.family),
    chains: [...markChains(context), ...natChains(context), ...filterChains(context)],
  };
}

function setsOf(family: Family): NftSet[] {
  const address = family === 4 ? 'ipv4_addr' : 'ipv6_addr';
  const frontend = [address, 'inet_proto', 'inet_service'] as const;
  const port = ['inet_proto', 'inet_service'] as const;
  return [
    ...markSets.map((name) => ({ name, key: frontend })),
    ...fateSets.map((name) => ({ name, key: frontend })),
    ...[...markSets, ...fateSets].map((name) => ({ name: `${name}-nodeports`, key: port })),
    { name: 'guarded-services', key: frontend },
    { name: 'source-ranges', key: [...frontend, address], interval: true },
    { name: 'nodeport-addresses', key: [address] },
    { name: 'pod-networks', key: [address], interval: true },
    { name: 'service-networks', key: [address], interval: true },
    { name: 'hairpin', key: [address, address] },
    // Those on our device.
    { name: 'addresses', key: [address] },
  ];
}

/** The source is a pod of this cluster; undefined where nothing tells. */
function isFromPod({ detector, fields }: Context): NftExpression[] | undefined {
  if (detector === 'nothing') return undefined;
  if (detector === 'networks') return inSet([fields.source], 'pod-networks');
  return match(metaIifname, '==', detector.interfaceName);
}

function markChains(context: Context): NftChain[] {
  const { fields, masqueradeAll, markBit } = context;
  const fromPod = isFromPod(context);
  const masqueraded = rule('masquerade', mark(markBit));
  const podsPass = fromPod === undefined ? [] : [rule('pods keep their address', fromPod, returns())];
  // To its own address the node connects from that address, which no endpoint can answer.
  const ownSource = rule('from a service address', inSet([fields.source], 'addresses'), mark(markBit));
  return [
    {
      name: 'cluster-ip',
      rules: masqueradeAll ? [masqueraded] : [...podsPass, fromPod === undefined ? ownSource : masqueraded],
    },
    { name: 'external', rules: [masqueraded] },
    {
      name: 'external-local',
      rules: [...podsPass, rule('this node masquerades', isFromNode, mark(markBit))],
    },
    {
      name: 'inside',
      rules: [
        ...podsPass,
        rule('this node', isFromNode, returns()),
        rule('others stay on this node, where nobody is', drop()),
      ],
    },
  ];
}

function natChains({ family, fields, markBit }: Context): NftChain[] {
  const { srcnat } = hookPriorities;
  // Before host ports: addresses on our device are local, and IPVS looks at packets only when they have been there.
  const dstnat = hookPriorities.dstnat - 5;
  const stays = dnatToItself(family, fields.destination);
  const isMarked = match(masked(metaMark, markBit), '!=', 0);
  const fullyRandom = masquerade({ fullyRandom: true });
  const dispatch = [
    rule('services', jump('dispatch')),
    rule('no host ports on addresses of services', inSet([fields.destination], 'addresses'), stays),
    rule('nor on those of others', inSet(fields.frontend, 'served'), stays),
    rule('to others than the node', notInSet([fields.destination], 'nodeport-addresses'), returns()),
    rule('nor in the place of node ports', inSet(nodePort, 'served-nodeports'), stays),
  ];
  return [
    {
      name: 'dispatch',
      rules: [
        ...markSets.map((name) => rule(`${name} services`, inSet(fields.frontend, name), goto(name))),
        rule('to others than the node', notInSet([fields.destination], 'nodeport-addresses'), returns()),
        ...markSets.map((name) => rule(`${name} ports`, inSet(nodePort, `${name}-nodeports`), goto(name))),
      ],
    },
    { name: 'nat-prerouting', hook: { type: 'nat', hook: 'prerouting', priority: dstnat }, rules: dispatch },
    { name: 'nat-output', hook: { type: 'nat', hook: 'output', priority: dstnat }, rules: dispatch },
    {
      name: 'nat-postrouting',
      hook: { type: 'nat', hook: 'postrouting', priority: srcnat },
      rules: [
        rule('masquerade', isMarked, setMeta('mark', flipped(metaMark, markBit)), fullyRandom),
        rule('a pod to itself', inSet([fields.source, fields.destination], 'hairpin'), fullyRandom),
      ],
    },
  ];
}

/** As in the mode nftables, TCP clients are refused by a reset: of "unreachable" they get one a second. */
function filterChains({ family, fields }: Context): NftChain[] {
  const isNew = matchBits(ctState, ctStateBits.new);
  const allowed = notInSet([...fields.frontend, fields.source], 'source-ranges');
  const fates = { served: returns(), inside: goto('inside'), dropped: drop(), refused: goto('refuse') };
  const isTcp = match(metaL4proto, '==', protocolNumbers.tcp);
  const chain = (hook: 'input' | 'forward' | 'output', priority: number): NftChain => {
    const rules = [rule('new connections', isNew, jump('check'))];
    return { name: `filter-${hook}`, hook: { type: 'filter', hook, priority }, rules };
  };
  return [
    {
      name: 'refuse',
      rules: [rule('tcp', isTcp, rejectTcpReset()), rule('others', reject(family))],
    },
    {
      name: 'check',
      rules: [
        rule('sources that may not connect', inSet(fields.frontend, 'guarded-services'), allowed, drop()),
        ...fateSets.map((name) => rule(`${name} services`, inSet(fields.frontend, name), fates[name])),
        rule('ports that no service has', inSet([fields.destination], 'addresses'), goto('refuse')),
        rule('addresses that no service has', inSet([fields.destination], 'service-networks'), drop()),
        rule('to others than the node', notInSet([fields.destination], 'nodeport-addresses'), returns()),
        ...fateSets.map((name) => rule(`${name} ports`, inSet(nodePort, `${name}-nodeports`), fates[name])),
      ],
    },
    chain('input', hookPriorities.filter),
    chain('forward', hookPriorities.filter),
    chain('output', hookPriorities.dstnat - 10),
  ];
}
