import type { Family } from '../../core/address.ts';
import { nftRange } from '../../kernel/netlink/nftables/keys.ts';
import { affinityTimeout } from '../../proxy/nftables/affinity-timeouts.ts';
import { spreadOf } from '../../proxy/nftables/balancing.ts';
import { frontendElement, keepChain } from '../../proxy/nftables/elements.ts';
import { outermost } from '../../proxy/nftables/source-groups.ts';
import type { Endpoint, Frontend, ServicePortView } from '../../proxy/view.ts';
import type { Reach, Reachability, Way } from './reachability.ts';

/** What the views say that connections meet, in the words of `reachability`, without any elements in between. */
export function expectedReach(
  views: ReadonlyMap<string, readonly ServicePortView[]>,
  family: Family,
): Reachability {
  const reached = new Map<string, Reach>();
  const owners = new Map<string, string>();
  for (const [service, ports] of [...views].sort(([a], [b]) => (a < b ? -1 : 1))) {
    for (const port of ports.filter((each) => each.family === family)) {
      for (const frontend of port.frontends) {
        const { key } = frontendElement('all', frontend, port.protocol);
        const owner = owners.get(key);
        if (owner !== undefined && !(owner === service && isGuarded(port, frontend))) continue;
        owners.set(key, service);
        reached.set(key, reachOf(port, frontend));
      }
    }
  }
  return reached;
}

function isGuarded({ sourceRanges }: ServicePortView, { kind }: Frontend): boolean {
  return kind === 'loadBalancerIP' && sourceRanges !== undefined;
}

function reachOf(port: ServicePortView, frontend: Frontend): Reach {
  const ranges = isGuarded(port, frontend) ? { ranges: rangesOf(port) } : {};
  const cluster = wayOf(port.clusterEndpoints, port);
  const local = wayOf(port.localEndpoints, port);
  if (cluster === 'dropped' && local === 'dropped') {
    const way = port.hasAnyEndpoints ? 'dropped' : 'refused';
    return { fromOutside: way, fromInside: way, ...ranges };
  }
  const isClusterIp = frontend.kind === 'clusterIP';
  const isLocal = (isClusterIp ? port.internalPolicy : port.externalPolicy) === 'Local';
  const fromOutside = isLocal ? local : cluster;
  const fromInside = isLocal && !isClusterIp ? cluster : fromOutside;
  const kind = isClusterIp ? 'cluster-ip' : isLocal ? 'external-local' : 'external';
  const isKept =
    port.affinitySeconds !== undefined && (fromOutside !== 'dropped' || fromInside !== 'dropped');
  const keep = isKept ? { keep: keepText(port.affinitySeconds ?? 0) } : {};
  return { fromOutside, fromInside, kind, ...keep, ...ranges };
}

function keepText(seconds: number): string {
  return JSON.stringify({ verdict: 'jump', chain: keepChain(affinityTimeout(seconds)) });
}

function wayOf(endpoints: readonly Endpoint[], { balancing }: ServicePortView): Way {
  if (endpoints.length === 0) return 'dropped';
  return spreadOf(endpoints, balancing)
    .slots.map(({ ip, port }) => `${ip} ${port}`)
    .sort();
}

function rangesOf({ sourceRanges = [] }: ServicePortView): string[] {
  return outermost(sourceRanges)
    .map(nftRange)
    .map(({ key, keyEnd }) => `${key}-${keyEnd}`)
    .sort();
}
