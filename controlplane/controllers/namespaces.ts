import type { Logger } from 'pino';
import { Informer } from '../../kube/informer.ts';
import { type KubeApi, NAMESPACES, type Resource, type V1Namespace } from '../../kube/types.ts';
import { KeyLoop } from './key-loop.ts';

export interface NamespacesOptions {
  readonly api: KubeApi;
  /** Every kind that lives in namespaces. */
  readonly resources: readonly Resource[];
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/** Empties the namespaces whose deletion has begun, and lets go of them when nothing is left inside. */
export async function runNamespaces({ api, resources, log, signal }: NamespacesOptions): Promise<void> {
  const loop = new KeyLoop({
    signal,
    work: async (name) => {
      const namespace = namespaces.store.get(name);
      if (namespace?.metadata?.deletionTimestamp === undefined) return;
      await emptyNamespace(api, resources, name);
      await api.update(NAMESPACES, { ...namespace, spec: { finalizers: [] } }, { subresource: 'finalize' });
    },
    onError: (namespace, error) => log.info({ namespace, reason: error.message }, 'namespace not gone yet'),
  });
  const namespaces = new Informer<V1Namespace>({
    client: api,
    resource: NAMESPACES,
    signal,
    onChange: (name) => loop.mark(name),
    onError: (error) => log.warn({ error: error.message }, 'cannot watch namespaces'),
  });
  loop.open();
  await namespaces.closed;
  await loop.idle();
}

/** Throws while something is left, for instance pods that have time to end. */
async function emptyNamespace(
  api: KubeApi,
  resources: readonly Resource[],
  namespace: string,
): Promise<void> {
  const left: string[] = [];
  for (const resource of resources) {
    const { items } = await api.list(resource, { namespace });
    for (const { metadata } of items) await api.delete(resource, metadata?.name ?? '', { namespace });
    const { items: remaining } = items.length === 0 ? { items: [] } : await api.list(resource, { namespace });
    if (remaining.length > 0) left.push(`${remaining.length} ${resource.plural}`);
  }
  if (left.length > 0) throw new Error(`still there: ${left.join(', ')}`);
}
