import { type Cidr, type Family, singleCidr } from '../../core/address.ts';
import {
  type Expected,
  endpointOf,
  type FrontendKind,
  frontendAddress,
  type Source,
  type TestService,
} from './proxy-backend-lab.ts';

/*
 * Services of every kind, and who is reached at them from where: the masquerade matrix and the cases of kube-proxy's
 * own packet tests. "M": the endpoint sees the node in place of the client.
 */

export const both = ['one', 'three'] as const;
export const all = ['one', 'two', 'three'] as const;
const protocols = ['tcp', 'udp', 'sctp'] as const;
const everyone = ['0.0.0.0/1', '128.0.0.0/1', '::/1', '8000::/1'] as readonly string[] as readonly Cidr[];

export const services: readonly TestService[] = [
  { number: 1, pods: both, protocols: [...protocols] },
  { number: 2, pods: both, protocols: [...protocols], view: { externalPolicy: 'Local' } },
  { number: 3, pods: both, protocols: [...protocols], view: { internalPolicy: 'Local' } },
  { number: 4, pods: [], protocols: [...protocols] },
  { number: 5, pods: ['three'], view: { externalPolicy: 'Local' } },
  { number: 6, pods: ['three'], view: { internalPolicy: 'Local' } },
  { number: 7, pods: ['one'], view: { sourceRanges: [] } },
  { number: 8, pods: both, view: (family) => ({ sourceRanges: [...allowed(family), ...ownOf(family, 8)] }) },
  { number: 9, pods: all, view: { affinitySeconds: 600 } },
  { number: 10, pods: ['one'], protocols: [...protocols] },
  { number: 11, pods: [], view: { internalPolicy: 'Local', externalPolicy: 'Local', hasAnyEndpoints: true } },
  { number: 12, pods: [], view: { sourceRanges: [] } },
  { number: 13, pods: ['one'], protocols: ['tcp'] },
  {
    number: 14,
    pods: both,
    view: (family) => ({ externalPolicy: 'Local', sourceRanges: ofFamily(everyone, family) }),
  },
  {
    number: 15,
    pods: both,
    view: (family) => ({
      clusterEndpoints: [endpointOf('one', family, 3), endpointOf('three', family, 1)],
    }),
  },
  {
    number: 16,
    pods: both,
    view: (family) => ({
      clusterEndpoints: [endpointOf('one', family, 0), endpointOf('three', family, 1)],
    }),
  },
  { number: 17, pods: all, view: { balancing: 'maglev' } },
];

/** The node and the machine outside, but no pod. */
export function allowed(family: Family): readonly Cidr[] {
  const of = (text: string) => text as Cidr;
  return family === 4 ? [of('172.30.0.0/24'), of('172.30.0.11/32')] : [of('fd30::/64')];
}

/** As views have them: a node that is allowed may connect from the load balancer's very address. */
function ownOf(family: Family, number: number): readonly Cidr[] {
  return [singleCidr(frontendAddress(family, 'loadBalancerIP', number))];
}

function ofFamily(cidrs: readonly Cidr[], family: Family): readonly Cidr[] {
  return cidrs.filter((cidr) => cidr.includes(':') === (family === 6));
}

/** One connection's source, frontend and service, and who answers it. */
export type Flow = readonly [Source, FrontendKind, number, string];

/** Who answers, of an expected text. */
export function expectedNames(text: string): Expected {
  if (text === 'refused') return [];
  return text === 'no answer' ? text : (text.split(' M')[0] ?? '').split('+');
}

export const frontendKinds = ['clusterIP', 'externalIP', 'loadBalancerIP', 'nodePort'] as const;
export const externalKinds = ['externalIP', 'loadBalancerIP', 'nodePort'] as const;
export const sources = ['client', 'node', 'outside'] as const;

export function each(
  froms: readonly Source[],
  kinds: readonly FrontendKind[],
  number: number,
  text: string,
): Flow[] {
  return froms.flatMap((source) => kinds.map((kind): Flow => [source, kind, number, text]));
}

export const matrix: readonly Flow[] = [
  // Policy "Cluster".
  ...each(['client'], ['clusterIP'], 1, 'one+three'),
  ...each(['client'], externalKinds, 1, 'one+three M'),
  ...each(['node', 'outside'], frontendKinds, 1, 'one+three M'),
  // External policy "Local".
  ...each(['client'], frontendKinds, 2, 'one+three'),
  ...each(['node'], frontendKinds, 2, 'one+three M'),
  ...each(['outside'], ['clusterIP'], 2, 'one+three M'),
  ...each(['outside'], externalKinds, 2, 'one'),
  // Internal policy "Local".
  ...each(['client'], ['clusterIP'], 3, 'one'),
  ...each(['node', 'outside'], ['clusterIP'], 3, 'one M'),
  ...each(sources, externalKinds, 3, 'one+three M'),
];

export const lackingEndpoints: readonly Flow[] = [
  ...each(sources, frontendKinds, 4, 'refused'),
  // Nobody on this node, somebody on another.
  ...each(['client'], frontendKinds, 5, 'three'),
  ...each(['node'], frontendKinds, 5, 'three M'),
  ...each(['outside'], externalKinds, 5, 'no answer'),
  ...each(sources, ['clusterIP'], 6, 'no answer'),
  ...each(sources, externalKinds, 6, 'three M'),
  // Somebody, but for nobody.
  ...each(sources, frontendKinds, 11, 'no answer'),
];

export const guarded: readonly Flow[] = [
  ...each(sources, ['loadBalancerIP'], 7, 'no answer'),
  ...each(['outside'], ['externalIP', 'nodePort', 'clusterIP'], 7, 'one M'),
  ...each(['outside', 'node'], ['loadBalancerIP'], 8, 'one+three M'),
  ...each(['client'], ['loadBalancerIP'], 8, 'no answer'),
  ...each(['client'], ['nodePort', 'externalIP'], 8, 'one+three M'),
  // Before it is seen that nobody is there.
  ...each(['outside'], ['clusterIP', 'externalIP', 'nodePort'], 12, 'refused'),
  // Beside the external policy.
  ...each(['client'], ['loadBalancerIP'], 14, 'one+three'),
  ...each(['outside'], ['loadBalancerIP'], 14, 'one'),
];

export const hairpins: readonly Flow[] = frontendKinds.map((kind) => ['one', kind, 10, 'one M']);

/** Where nothing tells pods from others. */
export const withoutDetector: readonly Flow[] = [
  ...each(['client', 'node'], ['clusterIP'], 1, 'one+three'),
  ...each(['outside'], ['clusterIP'], 10, 'one'),
  ...each(['client', 'node', 'outside'], ['clusterIP'], 3, 'one'),
  ...each(['client', 'outside'], externalKinds, 2, 'one'),
  ...each(['node'], externalKinds, 2, 'one+three M'),
  ...each(sources, externalKinds, 1, 'one+three M'),
  ...hairpins,
];

export const masqueradingAll: readonly Flow[] = [
  ...each(sources, frontendKinds, 1, 'one+three M'),
  ...each(sources, ['clusterIP'], 3, 'one M'),
  ...each(['client'], externalKinds, 2, 'one+three'),
  ...each(['outside'], externalKinds, 2, 'one'),
];

export const neither: readonly Flow[] = [
  ...each(sources, ['clusterIP'], 1, 'one+three M'),
  ...each(sources, ['clusterIP'], 3, 'one M'),
  ...each(sources, externalKinds, 3, 'one+three M'),
  ...each(['client', 'outside'], externalKinds, 2, 'one'),
  ...each(['node'], externalKinds, 2, 'one+three M'),
];
