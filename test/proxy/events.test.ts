import test from 'ava';
import { pino } from 'pino';
import { type EventReporter, eventReporter } from '../../proxy/events.ts';

const log = pino({ level: 'silent' });

function reported(report: (reporter: EventReporter) => void): unknown[] {
  const events: unknown[] = [];
  const create = async <T>(_: unknown, event: T) => {
    events.push(event);
    return event;
  };
  report(eventReporter({ create }, 'node-1', log));
  return events;
}

test('the start is an event of the Node, as kube-proxy’s', (t) => {
  const [event] = reported((reporter) => reporter.starting());
  t.like(event, {
    metadata: { namespace: 'default' },
    involvedObject: { kind: 'Node', name: 'node-1' },
    type: 'Normal',
    reason: 'Starting',
    action: 'StartKubeProxy',
    reportingComponent: 'kube-proxy',
  } as never);
});

test('a health check that cannot be served is an event of its Service', (t) => {
  const [event] = reported((reporter) =>
    reporter.healthCheckFailed('shop/web', 30999, new Error('EADDRINUSE')),
  );
  t.like(event, {
    metadata: { namespace: 'shop' },
    involvedObject: { kind: 'Service', namespace: 'shop', name: 'web' },
    type: 'Warning',
    reason: 'FailedToStartServiceHealthcheck',
    message: 'node node-1 failed to start healthcheck "shop/web" on port 30999: EADDRINUSE',
  } as never);
});

test('an API that takes no events is no problem', async (t) => {
  const reporter = eventReporter({ create: () => Promise.reject(new Error('forbidden')) }, 'node-1', log);
  t.notThrows(() => reporter.starting());
  await Promise.resolve();
});
