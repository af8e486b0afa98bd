import type { Logger } from 'pino';
import { EVENTS, type KubeApi, type V1Event } from '../kube/types.ts';

const COMPONENT = 'kube-proxy';

export interface EventReporter {
  /** The proxy runs (reason "Starting", on the Node). */
  starting(): void;
  /** A health check's port cannot be listened on (reason "FailedToStartServiceHealthcheck", on the Service). */
  healthCheckFailed(service: string, port: number, error: Error): void;
}

/** Writes kube-proxy's events for `kubectl describe`. One that cannot be written is a line in the log, no more. */
export function eventReporter(client: Pick<KubeApi, 'create'>, nodeName: string, log: Logger): EventReporter {
  const report = (event: V1Event) => {
    client.create(EVENTS, event).catch((error: Error) => {
      log.debug({ reason: event.reason, error: error.message }, 'the event was not taken');
    });
  };
  return {
    starting: () => report(startingEvent(nodeName, new Date())),
    healthCheckFailed: (service, port, error) =>
      report(healthCheckEvent({ nodeName, service, port, error }, new Date())),
  };
}

/** On a Node, which lives in no namespace: its events are in "default". */
export function startingEvent(nodeName: string, at: Date): V1Event {
  return {
    ...eventAt(nodeName, at),
    metadata: { namespace: 'default', name: nameOf(nodeName, at) },
    involvedObject: { kind: 'Node', name: nodeName, uid: nodeName },
    type: 'Normal',
    reason: 'Starting',
    action: 'StartKubeProxy',
  };
}

export function healthCheckEvent(
  failure: {
    readonly nodeName: string;
    readonly service: string;
    readonly port: number;
    readonly error: Error;
  },
  at: Date,
): V1Event {
  const { nodeName, service, port, error } = failure;
  const [namespace = '', name = ''] = service.split('/');
  return {
    ...eventAt(nodeName, at),
    metadata: { namespace, name: nameOf(name, at) },
    involvedObject: { kind: 'Service', namespace, name, uid: service },
    type: 'Warning',
    reason: 'FailedToStartServiceHealthcheck',
    action: 'Listen',
    message: `node ${nodeName} failed to start healthcheck "${service}" on port ${port}: ${error.message}`,
  };
}

function eventAt(nodeName: string, at: Date) {
  const time = at.toISOString();
  return {
    apiVersion: 'v1',
    kind: 'Event',
    eventTime: time.replace('Z', '000Z'),
    firstTimestamp: time,
    lastTimestamp: time,
    count: 1,
    reportingComponent: COMPONENT,
    reportingInstance: `${COMPONENT}-${nodeName}`,
    source: { component: COMPONENT, host: nodeName },
  };
}

/** As client-go makes it: the object's name and a number that no other event of it has. */
function nameOf(object: string, at: Date): string {
  return `${object}.${(BigInt(at.getTime()) * 1_000_000n).toString(16)}`;
}
