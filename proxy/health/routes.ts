import type { ProxyMetrics } from '../metrics.ts';
import { type Handler, jsonAnswer, routesOf, textAnswer } from './http.ts';
import { type HealthFacts, healthzAnswer, livezAnswer } from './proxy-health.ts';

const COMPONENT = 'kube-proxy';
/** The words with which Kubernetes' components begin these pages. */
const PAGE_WARNING =
  'Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is ' +
  'for debugging purposes only.';

/** What load balancers and kubelets ask for. */
export function healthRoutes(facts: () => HealthFacts, metrics: Pick<ProxyMetrics, 'answered'>): Handler {
  const counted =
    (path: 'healthz' | 'livez', answer: typeof healthzAnswer): Handler =>
    () => {
      const given = answer(facts());
      metrics.answered(path, given.status);
      return given;
    };
  return routesOf({
    '/healthz': counted('healthz', healthzAnswer),
    '/livez': counted('livez', livezAnswer),
  });
}

export interface MetricsPages {
  readonly metrics: ProxyMetrics;
  /** As kube-proxy names it. */
  readonly mode: string;
  /** The configuration in force, as plain JSON. */
  readonly configuration: unknown;
  readonly flags: ReadonlyMap<string, string>;
  readonly version: string;
  /** Milliseconds of the epoch. */
  readonly startedAtMs: number;
}

/** What operators and Prometheus ask for. */
export function metricsRoutes(pages: MetricsPages): Handler {
  const { metrics } = pages;
  const routes: Record<string, Handler> = {
    '/healthz': () => textAnswer('ok'),
    '/metrics': async () => ({ status: 200, type: metrics.registry.contentType, body: await metrics.text() }),
    '/metrics/slis': async () => ({
      status: 200,
      type: metrics.slis.contentType,
      body: await metrics.slis.metrics(),
    }),
    '/proxyMode': () => textAnswer(pages.mode),
    '/configz': () => jsonAnswer({ 'kubeproxy.config.k8s.io': pages.configuration }),
    '/flagz': () => textAnswer(renderFlagz(pages)),
    '/statusz': () => textAnswer(renderStatusz(pages, Object.keys(routes), Date.now())),
  };
  return routesOf(routes);
}

function renderFlagz({ flags }: MetricsPages): string {
  const lines = Array.from(flags, ([name, value]) => `${name}=${value}\n`);
  return `\n${COMPONENT} flags\n${PAGE_WARNING}\n\n${lines.join('')}`;
}

function renderStatusz(
  { version, startedAtMs }: MetricsPages,
  paths: readonly string[],
  nowMs: number,
): string {
  const seconds = Math.floor((nowMs - startedAtMs) / 1000);
  const two = (number: number) => String(number).padStart(2, '0');
  const up = `${Math.floor(seconds / 3600)} hr ${two(Math.floor(seconds / 60) % 60)} min ${two(seconds % 60)} sec`;
  const lines = [
    `Started: ${new Date(startedAtMs).toUTCString()}`,
    `Up: ${up}`,
    `Node version: ${process.version}`,
    `Binary version: ${version}`,
    `Paths: ${paths.toSorted().join(' ')}`,
  ];
  return `\n${COMPONENT} statusz\n${PAGE_WARNING}\n\n${lines.join('\n')}\n`;
}
