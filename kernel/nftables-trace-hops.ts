import type { NftExpression } from './netlink/nftables/bytecode.ts';
import { hookNumbers } from './netlink/nftables/constants.ts';
import type { TableName } from './netlink/nftables/messages.ts';
import type { NumberedRule, TraceEvent, TraceFamily, TraceVerdictName } from './netlink/nftables/trace.ts';
import type { PacketTuple } from './netlink/nftables/trace-packet.ts';

/** What a packet met in one base chain, and in the chains that it was sent to from there. */
export interface TraceHop {
  readonly family: TraceFamily;
  readonly table: string;
  /** The base chain. */
  readonly chain: string;
  /** `prerouting`…; undefined where the chain has gone meanwhile. */
  readonly hook?: string;
  readonly priority?: number;
  /** Interfaces by name. */
  readonly input?: string;
  readonly output?: string;
  /** As it came there. */
  readonly packet: PacketTuple;
  readonly steps: readonly TraceHopStep[];
  /** What the chain decided; undefined: nothing is known. */
  readonly verdict?: TraceVerdictName;
}

export interface TraceHopStep {
  readonly chain: string;
  readonly kind: TraceEvent['kind'];
  /** Of the rule, as `nft -a list ruleset` prints it. */
  readonly handle?: number;
  readonly comment?: string;
  readonly verdict?: TraceVerdictName;
  /** Of jump and goto. */
  readonly target?: string;
  /** What the rule does besides its verdict, as far as it matters. */
  readonly does?: 'dnat' | 'snat' | 'masquerade' | 'reject';
}

/** Where a base chain is hooked in. */
export interface BaseChain {
  /** NF_INET_* */
  readonly number: number;
  readonly priority: number;
}

/** What numbers in traces stand for. Tables are named `family table`, chains `family table chain`. */
export interface TraceNames {
  readonly rules: ReadonlyMap<string, ReadonlyMap<bigint, NumberedRule>>;
  readonly chains: ReadonlyMap<string, BaseChain>;
  readonly linkName: (index: number | undefined) => string | undefined;
}

/**
 * Of all that is traced (others may have packets traced, too) the steps of the first packet that this table marked.
 * Its number is another one on another interface, which is why its source tells it as well. What the marking table
 * itself did is left out.
 */
export function followPacket(events: readonly TraceEvent[], marking: TableName): readonly TraceEvent[] {
  const isMarking = (event: TraceEvent) => event.table === marking.table && event.family === marking.family;
  const first = events.find((event) => isMarking(event) && event.packet !== undefined)?.packet;
  if (first === undefined) return [];
  const ids = new Set<number>();
  const marked = new Set<string>();
  const own: TraceEvent[] = [];
  for (const event of events) {
    if (isMarking(event) && event.packet !== undefined) {
      // A packet to this node itself is marked where it leaves and where it comes in; twice at one place are two. What
      // IPVS sends on goes out once more, to somebody else.
      const isMarked = isSameSource(event.packet, first) && isSameDestination(event.packet, first);
      if (isMarked && marked.has(event.chain)) break;
      marked.add(event.chain);
    }
    if (event.packet !== undefined && isSameSource(event.packet, first)) ids.add(event.id);
    if (ids.has(event.id) && !isMarking(event)) own.push(event);
  }
  return own;
}

function isSameSource(packet: PacketTuple, first: PacketTuple): boolean {
  const { protocol, source, sourcePort } = packet;
  return protocol === first.protocol && source === first.source && sourcePort === first.sourcePort;
}

function isSameDestination(packet: PacketTuple, first: PacketTuple): boolean {
  return packet.destination === first.destination && packet.port === first.port;
}

/** Steps by base chain, in the order in which the packet met them, with names in place of numbers. */
export function hopsOf(events: readonly TraceEvent[], names: TraceNames): readonly TraceHop[] {
  const groups: [TraceEvent & { packet: PacketTuple }, ...TraceEvent[]][] = [];
  for (const event of events) {
    const { packet } = event;
    if (packet !== undefined) groups.push([{ ...event, packet }]);
    else groups.at(-1)?.push(event);
  }
  return groups.map((group) => hopOf(group, names));
}

function hopOf(
  group: readonly [TraceEvent & { packet: PacketTuple }, ...TraceEvent[]],
  { rules, chains, linkName }: TraceNames,
): TraceHop {
  const [{ family, table, chain, packet, input, output }] = group;
  const name = `${family} ${table}`;
  const base = chains.get(`${name} ${chain}`);
  const hook = Object.entries(hookNumbers).find(([, number]) => number === base?.number)?.[0];
  const steps = group.filter(isStep).map((event) => stepOf(event, rules.get(name)));
  const verdict = steps.findLast((step) => step.verdict !== undefined && isFinal(step.verdict))?.verdict;
  const [from, to] = [linkName(input), linkName(output)];
  return {
    family,
    table,
    chain,
    ...(hook !== undefined && { hook }),
    ...(base !== undefined && { priority: base.priority }),
    ...(from !== undefined && { input: from }),
    ...(to !== undefined && { output: to }),
    packet,
    steps,
    ...(verdict !== undefined && { verdict }),
  };
}

/** The end of a chain is told as a rule without a number. */
function isStep({ kind, handle }: TraceEvent): boolean {
  return kind !== 'rule' || handle !== undefined;
}

function isFinal(verdict: TraceVerdictName): boolean {
  return ['accept', 'drop', 'stolen', 'queue'].includes(verdict);
}

function stepOf(
  { chain, kind, handle, verdict, target }: TraceEvent,
  rules: ReadonlyMap<bigint, NumberedRule> | undefined,
): TraceHopStep {
  const rule = handle === undefined ? undefined : rules?.get(handle);
  const does = rule && actionOf(rule.expressions);
  return {
    chain,
    kind,
    ...(handle !== undefined && { handle: Number(handle) }),
    ...(rule?.comment !== undefined && { comment: rule.comment }),
    ...(verdict !== undefined && { verdict }),
    ...(target !== undefined && { target }),
    ...(does !== undefined && { does }),
  };
}

function actionOf(expressions: readonly NftExpression[]): TraceHopStep['does'] {
  for (const expression of expressions) {
    if (expression.kind === 'nat') return expression.nat;
    if (expression.kind === 'masq') return 'masquerade';
    if (expression.kind === 'reject') return 'reject';
  }
  return undefined;
}
