import type { V1Namespace } from '../../kube/types.ts';
import { NAMESPACES } from '../../kube/types.ts';
import type { Kind } from '../registry/kind.ts';
import { dnsLabelProblem } from '../registry/names.ts';
import { conditionsShape } from '../registry/shape.ts';

/** The label by which selectors find a namespace by its name. */
const NAME_LABEL = 'kubernetes.io/metadata.name';
/** Stands for everything inside, and keeps the namespace until all of that is gone. */
export const CONTENT_FINALIZER = 'kubernetes';

export const namespaceKind: Kind<V1Namespace> = {
  ...NAMESPACES,
  kind: 'Namespace',
  singular: 'namespace',
  shortNames: ['ns'],
  subresources: ['status', 'finalize'],
  hasDeleteCollection: false,
  undeletable: ['default', 'kube-system', 'kube-public'],
  shape: { spec: { finalizers: ['string'] }, status: { phase: 'string', conditions: conditionsShape } },
  mergeKeys: { 'status.conditions': 'type' },
  nameProblem: dnsLabelProblem,
  setDefaults(namespace) {
    const metadata = namespace.metadata ?? {};
    metadata.labels = { ...metadata.labels, [NAME_LABEL]: metadata.name ?? '' };
    const isTerminating = metadata.deletionTimestamp !== undefined;
    namespace.spec ??= {};
    if (!isTerminating) namespace.spec.finalizers ??= [CONTENT_FINALIZER];
    namespace.status ??= {};
    namespace.status.phase ??= isTerminating ? 'Terminating' : 'Active';
  },
  prepareUpdate(namespace, current) {
    namespace.spec = { ...namespace.spec, finalizers: current.spec?.finalizers ?? [] };
  },
  fields: (namespace) => ({ 'status.phase': namespace.status?.phase ?? '' }),
  markTerminating(namespace) {
    namespace.status = { ...namespace.status, phase: 'Terminating' };
  },
  finalizers: (namespace) => namespace.spec?.finalizers ?? [],
};
