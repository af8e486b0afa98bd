import type { ServiceProxy } from '../proxy/proxy.ts';

/** What `fairlead status` shows of a service proxy. Times are ISO 8601. */
export interface ProxyReport {
  /** Undefined: it has not started yet. */
  readonly mode?: string;
  /** Everything was written once. */
  readonly synced: boolean;
  readonly services: number;
  readonly endpoints: number;
  /** Rows written since it started. */
  readonly writes: number;
  /** When the kernel last did what the API said, and how long that pass took. */
  readonly lastSync?: string | undefined;
  readonly lastSyncMs?: number | undefined;
  /** Since when the oldest change waits that is not in the kernel. */
  readonly waitingSince?: string | undefined;
  /** What is wrong: with a service, by `namespace/name`, and with the proxy itself. */
  readonly problems: readonly string[];
}

/** Undefined stands for a proxy that has not started, with the reason if there is one. */
export function proxyReport(proxy: ServiceProxy | undefined, error?: Error): ProxyReport {
  const own = error === undefined ? [] : [error.message];
  if (proxy === undefined) return { synced: false, services: 0, endpoints: 0, writes: 0, problems: own };
  const status = proxy.status();
  const failed = status.error === undefined ? [] : [`sync failed (${status.failures}): ${status.error}`];
  const ofServices = Array.from(proxy.problems, ([service, problem]) => `${service}: ${problem}`);
  return {
    mode: status.backend,
    synced: status.synced,
    services: status.services,
    endpoints: status.endpoints,
    writes: status.writes,
    lastSync: timeOf(status.lastSyncedAtMs),
    lastSyncMs: status.lastSyncMs,
    waitingSince: timeOf(status.waitingSinceMs),
    problems: [...own, ...failed, ...ofServices.toSorted()],
  };
}

function timeOf(ms: number | undefined): string | undefined {
  return ms === undefined ? undefined : new Date(ms).toISOString();
}

/** Services with problems that are named in the text; the JSON has all. */
const NAMED_MAX = 10;

/** One fact a line: its name and its value. */
export function proxyLines(report: ProxyReport): [string, string][] {
  const { mode, services, endpoints, lastSync, lastSyncMs = 0, waitingSince, problems } = report;
  const more = problems.length - NAMED_MAX;
  const named = [...problems.slice(0, NAMED_MAX), ...(more > 0 ? [`and ${more} more`] : [])];
  return [
    ['proxy mode', mode ?? 'not started'],
    ['proxy services', `${services} with ${endpoints} endpoints`],
    ['proxy last sync', lastSync === undefined ? 'never' : `${lastSync} (${lastSyncMs.toFixed(1)} ms)`],
    ...(waitingSince === undefined ? [] : [['proxy waiting since', waitingSince] as [string, string]]),
    ...(named.length === 0 ? ['none'] : named).map((text): [string, string] => ['proxy problems', text]),
  ];
}
