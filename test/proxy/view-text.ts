import type { Endpoint, Frontend, ServicePortView } from '../../proxy/view.ts';

/** A view as text: where clients connect to, and which endpoints get connections under the policies in force. */
export function renderView(port: ServicePortView): string {
  const traits = [
    port.hasAnyEndpoints ? '' : 'refused',
    port.internalPolicy === 'Local' ? 'inside:Local' : '',
    port.externalPolicy === 'Local' ? 'outside:Local' : '',
    port.affinitySeconds === undefined ? '' : `affinity:${port.affinitySeconds}s`,
    port.balancing === 'random' ? '' : port.balancing,
  ];
  const lines = [
    [port.name, port.protocol, `IPv${port.family}`, ...traits.filter((trait) => trait !== '')].join(' '),
    ...port.frontends.map((frontend) => `  at ${renderFrontend(frontend)}${renderRanges(port, frontend)}`),
    ...port.clusterEndpoints.map((endpoint) => `  to ${renderEndpoint(endpoint)}`),
    ...port.localEndpoints.map((endpoint) => `  locally to ${renderEndpoint(endpoint)}`),
    ...(port.flowEndpoints ?? []).map(({ ip, port: number }) => `  serving ${ip} ${number}`),
  ];
  return lines.join('\n');
}

function renderFrontend(frontend: Frontend): string {
  return frontend.kind === 'nodePort'
    ? `nodePort ${frontend.port}`
    : `${frontend.kind} ${frontend.ip} ${frontend.port}`;
}

function renderRanges({ sourceRanges }: ServicePortView, { kind }: Frontend): string {
  return kind === 'loadBalancerIP' && sourceRanges ? ` from ${sourceRanges.join(' ')}` : '';
}

function renderEndpoint({ ip, port, local, weight }: Endpoint): string {
  return `${ip} ${port}${local ? ' local' : ''}${weight === 1 ? '' : ` weight ${weight}`}`;
}
