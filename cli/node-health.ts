import type { Logger } from 'pino';
import type { Daemon } from '../daemon/daemon.ts';
import { healthzAnswer, openNodeMetrics, readyzAnswer } from '../daemon/health.ts';
import type { HostPort } from '../proxy/config/addresses.ts';
import { HttpService, routesOf } from '../proxy/health/http.ts';

/** Serves `/healthz`, `/readyz` and `/metrics` of a node's agent; where the port is taken, as soon as it is free. */
export function serveHealth(daemon: Daemon, at: HostPort, log: Logger): AsyncDisposable {
  const metrics = openNodeMetrics(daemon);
  const handler = routesOf({
    '/healthz': () => healthzAnswer(daemon.status()),
    '/readyz': () => readyzAnswer(daemon.status()),
    '/metrics': async () => ({ status: 200, type: metrics.contentType, body: await metrics.metrics() }),
  });
  return new HttpService({ name: 'health', at, handler, isFatal: false, onFatal: () => {}, log });
}
