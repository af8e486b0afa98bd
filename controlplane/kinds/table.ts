import type { Kind } from '../registry/kind.ts';
import { endpointSliceKind } from './endpointslice.ts';
import { eventKind } from './event.ts';
import { leaseKind } from './lease.ts';
import { namespaceKind } from './namespace.ts';
import { nodeKind } from './node.ts';
import { podKind } from './pod.ts';
import { serviceKind } from './service.ts';

/** Every kind that is stored and served. */
export const kinds: readonly Kind[] = [
  namespaceKind,
  nodeKind,
  podKind,
  serviceKind,
  eventKind,
  endpointSliceKind,
  leaseKind,
];
