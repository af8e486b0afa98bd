import type { TraceHop, TraceHopStep } from '../kernel/nftables-trace.ts';
import type { Trace, TracedFrontend, TraceEndpoint } from '../proxy/trace.ts';
import type { TraceAnswer } from '../proxy/trace-request.ts';
import { isOwnHop } from '../proxy/trace-verify.ts';
import type { Verification } from './trace-verify.ts';

export type Paint = (format: 'bold' | 'dim' | 'green' | 'red' | 'yellow', text: string) => string;

const LABEL_COLUMNS = 14;
/** Endpoints beyond are counted only. */
const ENDPOINTS_MAX = 20;

const kinds: Readonly<Record<TracedFrontend['kind'], string>> = {
  clusterIP: 'its cluster IP',
  externalIP: 'an external IP',
  loadBalancerIP: "its load balancer's IP",
  nodePort: 'its node port',
};
const classes: Readonly<Record<Trace['source']['class'], string>> = {
  pod: 'a pod of this cluster',
  node: 'this node',
  outside: 'outside',
};

/** For people: the decisions in their order, then what the kernel met. */
export function renderTrace(
  answer: TraceAnswer & { readonly verification?: Verification },
  paint: Paint,
): string {
  const { trace, backend, verification } = answer;
  const { source, destination, port, protocol } = trace.packet;
  const lines = [
    paint('bold', `${source} → ${placeText(destination, port)}/${protocol}`),
    line('source', `${classes[trace.source.class]}: ${trace.source.reason}`),
    ...frontendLines(trace.frontend),
    ...endpointLines(trace.endpoints),
    ...masqueradeLines(trace),
    line('plan', paint(trace.verdict === 'balanced' ? 'green' : 'yellow', planText(trace))),
    ...(verification ? kernelLines(verification, backend, paint) : []),
  ];
  return `${lines.join('\n')}\n`;
}

function line(label: string, text: string): string {
  return `${label.padEnd(LABEL_COLUMNS)}${text}`;
}

function placeText(ip: string, port: number): string {
  return ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`;
}

function frontendLines(frontend: TracedFrontend | undefined): string[] {
  if (frontend === undefined) return [];
  const { service, portName, kind, policy, affinitySeconds, sourceRanges, balancing } = frontend;
  const which = kind === 'clusterIP' ? 'internal' : 'external';
  return [
    line('service', `${service}${portName && `, port ${portName}`}, by ${kinds[kind]}`),
    line('policy', `${which}TrafficPolicy: ${policy}`),
    ...(sourceRanges ? [line('allowed', sourceRanges.join(' '))] : []),
    ...(affinitySeconds ? [line('affinity', `a client keeps its endpoint for ${affinitySeconds} s`)] : []),
    ...(balancing === 'maglev' ? [line('balancing', 'maglev: the same client has the same endpoint')] : []),
  ];
}

function endpointLines(endpoints: readonly TraceEndpoint[]): string[] {
  const shown = endpoints.slice(0, ENDPOINTS_MAX).map(({ ip, port, local, percent, hairpin }, index) => {
    const where = `${local ? ', on this node' : ''}${hairpin ? ', the client itself' : ''}`;
    const share = `${percent.toFixed(1).padStart(5)} %`;
    return line(index === 0 ? 'endpoints' : '', `${share}  ${placeText(ip, port)}${where}`);
  });
  const more = endpoints.length - shown.length;
  return more > 0 ? [...shown, line('', `and ${more} more; -o json has all`)] : shown;
}

function masqueradeLines({ masquerade, endpoints }: Trace): string[] {
  if (masquerade === undefined) return [];
  const { wanted, reason } = masquerade;
  const toItself = !wanted && endpoints.some(({ hairpin }) => hairpin) ? '; yes where it meets itself' : '';
  return [line('masquerade', `${wanted ? 'yes' : 'no'}: ${reason}${toItself}`)];
}

function planText({ verdict, reason, endpoints, packet }: Trace): string {
  switch (verdict) {
    case 'balanced':
      return `to ${endpoints.length === 1 ? 'the endpoint' : `one of ${endpoints.length} endpoints`}: ${reason}`;
    case 'refused':
      return `REJECT (${packet.protocol === 'tcp' ? 'reset' : 'port unreachable'}): ${reason}`;
    case 'dropped':
      return `DROP: ${reason}`;
    case 'untouched':
      return `not for a Service: ${reason}`;
  }
}

function kernelLines(verification: Verification, backend: TraceAnswer['backend'], paint: Paint): string[] {
  const { hops, agrees, findings, answer, sourcePort } = verification;
  const verdict = agrees ? 'the kernel did what the plan says' : 'the kernel did NOT do what the plan says';
  return [
    '',
    line('kernel', `a packet from port ${sourcePort}, hop by hop`),
    ...hops.flatMap((hop) => hopLines(hop, backend, paint)),
    ...(answer === undefined ? [] : [line('answer', answer)]),
    line('verdict', paint(agrees ? 'green' : 'red', verdict)),
    ...findings.map((finding) => line('', finding)),
  ];
}

function hopLines(hop: TraceHop, backend: TraceAnswer['backend'], paint: Paint): string[] {
  const { hook = '?', family, table, chain, input, output, packet, verdict = '' } = hop;
  const isOwn = hop.steps.some((step) => isOwnHop(hop, backend, step));
  const ways = [input && `in ${input}`, output && `out ${output}`].filter(Boolean).join(', ');
  const to = placeText(packet.destination, packet.port);
  const title = `${family} ${table} ${chain}${isOwn ? '' : " (somebody else's)"}: ${verdict}`;
  const isBad = verdict === 'drop';
  return [
    line(`  ${hook}`, isBad ? paint('red', title) : isOwn ? title : paint('yellow', title)),
    paint('dim', line('', `${packet.source} → ${to}${ways && `, ${ways}`}`)),
    ...hop.steps.filter(({ kind }) => kind !== 'return').map((step) => line('', `  ${stepText(step)}`)),
  ];
}

function stepText({ chain, kind, handle, comment, verdict, target, does }: TraceHopStep): string {
  const what = `${does && does !== 'reject' ? `${does}, ` : ''}${does === 'reject' ? does : (verdict ?? '')}`;
  const result = `${what}${target === undefined ? '' : ` ${target}`}`;
  if (kind === 'policy') return `${chain}: policy ${result}`;
  const rule = comment === undefined ? `rule ${handle ?? '?'}` : `“${comment}”`;
  return `${chain}: ${rule} → ${result}`;
}
