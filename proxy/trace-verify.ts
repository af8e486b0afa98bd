import type { Ip } from '../core/address.ts';
import type { TraceHop, TraceHopStep } from '../kernel/nftables-trace.ts';
import type { Backend } from './backend.ts';
import { TABLE as IPVS_TABLE } from './ipvs/layout.ts';
import { TABLE as NFTABLES_TABLE } from './nftables/layout.ts';
import type { Trace, TraceEndpoint } from './trace.ts';

/** The kernel's own trace against the plan. */
export interface TraceJudgement {
  /** The kernel did what the plan says. */
  readonly agrees: boolean;
  /** What it did, in sentences. */
  readonly findings: readonly string[];
  /** Where the packet was sent in the end, if it was sent elsewhere. */
  readonly endpoint?: { readonly ip: Ip; readonly port: number };
}

const tables = { nftables: NFTABLES_TABLE, ipvs: IPVS_TABLE } as const;

/** Whether a hop, or a step of it, is Fairlead's. Of iptables' tables it is what is in our chains, or leads there. */
export function isOwnHop({ table }: TraceHop, backend: Backend['name'], step?: TraceHopStep): boolean {
  if (backend !== 'iptables') return table === tables[backend];
  const places = [step?.chain, step?.target];
  return ['nat', 'filter'].includes(table) && places.some((place) => place?.startsWith('KUBE-'));
}

/** Pure: `hops` as the packet met them, at least one. */
export function judgeTrace(
  trace: Trace,
  hops: readonly TraceHop[],
  backend: Backend['name'],
): TraceJudgement {
  const endpoint = sentTo(trace, hops);
  const sent = endpoint && { endpoint };
  const dropped = hops.find(({ verdict }) => verdict === 'drop');
  if (dropped !== undefined) return { ...judgeDrop(trace, dropped, backend), ...sent };
  const { verdict } = trace;
  if (verdict === 'refused' || verdict === 'dropped')
    return { agrees: false, findings: [`it was to be ${verdict}, and no rule did that`], ...sent };
  const last = hops.at(-1);
  const isThrough = last?.hook === 'postrouting' || last?.hook === 'input' || last?.hook === undefined;
  const way = verdict === 'untouched' ? judgeUntouched(endpoint) : judgeBalanced(trace, hops, backend);
  if (isThrough) return { ...way, ...sent };
  const lost = `it was not seen again after ${last?.hook}: there is no route, or the reverse path filter took it`;
  return { agrees: false, findings: [...way.findings, lost], ...sent };
}

/** The destination that the last hop saw, where it is not the first one. */
function sentTo({ packet }: Trace, hops: readonly TraceHop[]): TraceJudgement['endpoint'] {
  const last = hops.at(-1)?.packet;
  if (last === undefined || (last.destination === packet.destination && last.port === packet.port))
    return undefined;
  return { ip: last.destination, port: last.port };
}

function judgeDrop(trace: Trace, hop: TraceHop, backend: Backend['name']): TraceJudgement {
  const step = hop.steps.findLast(({ verdict }) => verdict === 'drop');
  const isOwn = isOwnHop(hop, backend, step);
  const isReject = step?.does === 'reject';
  const did = isReject ? 'refused' : 'dropped';
  // iptables' REJECT is not told from its DROP.
  const isEither = isOwn && backend === 'iptables';
  const by = `${isEither ? 'refused or dropped' : did} by ${isOwn ? '' : 'somebody else: '}${placeOf(hop, step)}`;
  const isWanted = isEither ? /^(refused|dropped)$/.test(trace.verdict) : trace.verdict === did;
  if (isOwn) return { agrees: isWanted, findings: [by] };
  const look = `look at it with: nft -a list chain ${hop.family} ${hop.table} ${step?.chain ?? hop.chain}`;
  return { agrees: false, findings: [by, look] };
}

/** `table ip guard, chain forward, rule 5 "no web"` */
function placeOf({ family, table, chain }: TraceHop, step: TraceHopStep | undefined): string {
  const rule = step?.kind === 'policy' ? ', its policy' : `, rule ${step?.handle ?? '?'}`;
  const comment = step?.comment === undefined ? '' : ` “${step.comment}”`;
  return `table ${family} ${table}, chain ${step?.chain ?? chain}${rule}${comment}`;
}

function judgeUntouched(endpoint: TraceJudgement['endpoint']): TraceJudgement {
  if (endpoint === undefined) return { agrees: true, findings: ['no rule changed where it goes'] };
  return { agrees: false, findings: [`it was sent to ${placeText(endpoint)}, by no Service that is known`] };
}

function judgeBalanced(trace: Trace, hops: readonly TraceHop[], backend: Backend['name']): TraceJudgement {
  const at = sentTo(trace, hops) ?? { ip: trace.packet.destination, port: trace.packet.port };
  const endpoint = trace.endpoints.find(({ ip, port }) => ip === at.ip && port === at.port);
  if (endpoint === undefined)
    return { agrees: false, findings: [`it was sent to ${placeText(at)}, which is none of the endpoints`] };
  const sent = `sent to ${placeText(at)}`;
  // Chains of iptables masquerade by a target that is not told from others.
  if (backend === 'iptables') return { agrees: true, findings: [sent] };
  const ours = hops.filter((hop) => isOwnHop(hop, backend) && hop.hook === 'postrouting');
  return judgeMasquerade(endpoint, ours, sent);
}

function judgeMasquerade(
  { masqueraded, hairpin }: TraceEndpoint,
  ours: readonly TraceHop[],
  sent: string,
): TraceJudgement {
  const isDone = ours.some(({ steps }) => steps.some(({ does }) => does === 'masquerade'));
  if (ours.length === 0) return { agrees: true, findings: [sent] };
  const text = isDone ? 'masqueraded' : 'with its own source address';
  if (isDone === masqueraded) return { agrees: true, findings: [`${sent}, ${text}`] };
  const why = hairpin ? ' (the endpoint is the client itself)' : '';
  return { agrees: false, findings: [`${sent}, ${text}, and the plan says the opposite${why}`] };
}

function placeText({ ip, port }: { readonly ip: Ip; readonly port: number }): string {
  return ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`;
}
