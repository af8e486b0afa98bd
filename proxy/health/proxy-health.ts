import type { Family } from '../../core/address.ts';
import type { V1Node } from '../../kube/types.ts';
import { type Answer, jsonAnswer } from './http.ts';

/** The cluster autoscaler puts it on a node that it is about to remove: load balancers should look elsewhere. */
const TO_BE_DELETED = 'ToBeDeletedByClusterAutoscaler';

/** What health is judged by. Times are milliseconds of the epoch. */
export interface HealthFacts {
  readonly nowMs: number;
  /** A change that waits as long as this means that rules are not kept up: kube-proxy has twice its sync period. */
  readonly lateMs: number;
  readonly families: readonly Family[];
  /** When the kernel last did what the API says; undefined: not yet. */
  readonly lastSyncedAtMs: number | undefined;
  /** Since when the oldest change waits, or the first pass since all is known; undefined: none does. */
  readonly waitingSinceMs: number | undefined;
  /** Our own Node; undefined: it is not there, or not known. */
  readonly node: V1Node | undefined;
}

/** Whether the kernel is kept up with the API. So it is while the first lists are awaited: nothing waits then. */
export function isKeptUp({ nowMs, lateMs, waitingSinceMs }: HealthFacts): boolean {
  return waitingSinceMs === undefined || nowMs - waitingSinceMs < lateMs;
}

/** Whether load balancers should send anything to this node. While we start, nothing says otherwise. */
export function isEligible({ lastSyncedAtMs, node }: HealthFacts): boolean {
  if (node === undefined) return lastSyncedAtMs === undefined;
  const taints = node.spec?.taints;
  const isLeaving = Array.isArray(taints) && taints.some((taint) => taint?.key === TO_BE_DELETED);
  return !node.metadata?.deletionTimestamp && !isLeaving;
}

/** For load balancers: the rules are kept up, and the node stays. */
export function healthzAnswer(facts: HealthFacts): Answer {
  const nodeEligible = isEligible(facts);
  return answer(facts, isKeptUp(facts) && nodeEligible, { nodeEligible });
}

/** For whoever restarts us: the node's fate is not our fault. */
export function livezAnswer(facts: HealthFacts): Answer {
  return answer(facts, isKeptUp(facts), {});
}

/** What is well is as good as updated now: nothing has waited long since. */
function answer(facts: HealthFacts, healthy: boolean, more: object): Answer {
  const { nowMs, families, lastSyncedAtMs = 0 } = facts;
  const updated = (isWell: boolean) => new Date(isWell ? nowMs : lastSyncedAtMs).toISOString();
  const keptUp = isKeptUp(facts);
  const body = {
    lastUpdated: updated(healthy),
    currentTime: new Date(nowMs).toISOString(),
    ...more,
    healthy,
    status: Object.fromEntries(
      families.map((family) => [`IPv${family}`, { lastUpdated: updated(keptUp), healthy: keptUp }]),
    ),
  };
  return jsonAnswer(body, healthy ? 200 : 503);
}

/** What a load balancer hears that asks for the endpoints of one Service. */
export function serviceHealthAnswer(
  service: string,
  { localEndpoints, isProxyHealthy }: { readonly localEndpoints: number; readonly isProxyHealthy: boolean },
): Answer {
  const [namespace, name] = service.split('/');
  const body = { service: { namespace, name }, localEndpoints, serviceProxyHealthy: isProxyHealthy };
  return {
    ...jsonAnswer(body, localEndpoints > 0 && isProxyHealthy ? 200 : 503, '\t'),
    headers: { 'X-Load-Balancing-Endpoint-Weight': String(localEndpoints) },
  };
}
