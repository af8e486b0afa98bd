import { EVENTS, type V1Event } from '../../kube/types.ts';
import type { Kind } from '../registry/kind.ts';
import { dnsSubdomainProblem } from '../registry/names.ts';

const reference = ['kind', 'namespace', 'name', 'uid', 'apiVersion', 'resourceVersion', 'fieldPath'] as const;

export const eventKind: Kind<V1Event> = {
  ...EVENTS,
  kind: 'Event',
  singular: 'event',
  shortNames: ['ev'],
  subresources: [],
  shape: {
    involvedObject: Object.fromEntries(reference.map((field) => [field, 'string'])),
    reason: 'string',
    message: 'string',
    type: 'string',
    count: 'integer',
    source: { component: 'string', host: 'string' },
    reportingComponent: 'string',
  },
  nameProblem: dnsSubdomainProblem,
  fields: (event) => ({
    ...Object.fromEntries(
      reference.map((field) => [`involvedObject.${field}`, event.involvedObject?.[field] ?? '']),
    ),
    reason: event.reason ?? '',
    type: event.type ?? '',
    source: event.source?.component ?? '',
    reportingComponent: event.reportingComponent ?? '',
  }),
};
