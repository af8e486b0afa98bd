import type { Family, Ip } from '../../core/address.ts';
import type { Views } from '../../proxy/backend.ts';
import { type DetectLocal, defaultPolicy, type ProxyPolicy } from '../../proxy/policy.ts';
import type { Trace, TraceFacts, TracePacket } from '../../proxy/trace.ts';
import { ServiceViews } from '../../proxy/views.ts';
import { parseService, parseSlice } from './objects.ts';

/** What is different between the families. */
export const worlds = {
  4: {
    pod: '10.244.1.9',
    local: '10.244.1.11',
    remote: '10.244.2.13',
    node: '192.0.2.1',
    outside: '203.0.113.5',
    vip: '10.96.0.10',
    lb: '198.51.100.1',
    external: '198.51.100.2',
    unusedVip: '10.96.0.99',
    pods: '10.244.0.0/16',
    services: '10.96.0.0/16',
    allowed: '203.0.113.0/24',
    type: 'IPv4',
  },
  6: {
    pod: 'fd00:10:244:1::9',
    local: 'fd00:10:244:1::11',
    remote: 'fd00:10:244:2::13',
    node: '2001:db8::1',
    outside: '2001:db8:1::5',
    vip: 'fd00:10:96::10',
    lb: '2001:db8:2::1',
    external: '2001:db8:2::2',
    unusedVip: 'fd00:10:96::99',
    pods: 'fd00:10:244::/56',
    services: 'fd00:10:96::/112',
    allowed: '2001:db8:1::/64',
    type: 'IPv6',
  },
} as const;
export type World = (typeof worlds)[Family];

export interface Case {
  readonly world: World;
  /** Of the Service, as `parseService` reads them. */
  readonly options?: string;
  /** Which endpoints there are. */
  readonly endpoints?: readonly ('local' | 'remote')[];
}

export function viewsOf({ world, options = '', endpoints = ['local', 'remote'] }: Case): Views {
  const { vip, lb, external, type } = world;
  const text = `default/web ips=${vip} type=LoadBalancer lb=${lb} external=${external} ports=http:80/TCP@30080 ${options}`;
  const places = endpoints.map((where) => `${world[where]},node=${where === 'local' ? 'here' : 'there'}`);
  const slice = `default/web-1 service=web family=${type} ports=http:8080/TCP ${places.join(' ')}`;
  const services = new Map([['default/web', parseService(text)]]);
  const slices = new Map([['default/web-1', parseSlice(slice)]]);
  const views = new ServiceViews({ services, slices }, { nodeName: 'here', nodeIps: [world.node as Ip] });
  views.markService('default/web');
  views.markSlice('default/web-1');
  views.refresh();
  return views.current;
}

export function factsOf(world: World, backend: TraceFacts['backend'] = 'nftables'): TraceFacts {
  const node = [world.node as Ip];
  const isV4 = world.type === 'IPv4';
  const held =
    backend === 'ipvs' ? ([world.vip, world.lb, world.external] as readonly string[] as readonly Ip[]) : [];
  return {
    backend,
    nodePortIps: { 4: isV4 ? node : [], 6: isV4 ? [] : node },
    serviceCidrs: [world.services] as readonly string[] as TraceFacts['serviceCidrs'],
    localIps: new Set([...node, '127.0.0.1' as Ip, '::1' as Ip, ...held]),
    heldIps: new Set(held),
  };
}

export const podsOf = (world: World) => ({ mode: 'cidrs', cidrs: [world.pods] }) as unknown as DetectLocal;

export function policyOf(world: World, more: Partial<ProxyPolicy> = {}): ProxyPolicy {
  return { ...defaultPolicy, detectLocal: podsOf(world), ...more };
}

export type From = 'pod' | 'node' | 'outside';
export type To = 'clusterIP' | 'nodePort' | 'LB' | 'externalIP';

export function packetOf(world: World, from: From, to: To): TracePacket {
  const { vip, node, lb, external } = world;
  const destination = { clusterIP: vip, nodePort: node, LB: lb, externalIP: external }[to] as Ip;
  const port = to === 'nodePort' ? 30_080 : 80;
  return { source: world[from] as Ip, destination, port, protocol: 'tcp' };
}

/** `L+R M`: both endpoints, masqueraded. */
export function outcome({ verdict, endpoints }: Trace): string {
  if (verdict !== 'balanced') return verdict;
  const reached = endpoints.map(({ local }) => (local ? 'L' : 'R')).sort();
  const masqueraded = new Set(endpoints.map((endpoint) => endpoint.masqueraded));
  return `${reached.join('+')}${masqueraded.has(true) ? ' M' : ''}`;
}
