import type { KubeClient } from '../../kube/client.ts';
import { Informer, type InformerOptions } from '../../kube/informer.ts';
import { type KubeObject, LEASES, objectKey, type V1Lease } from '../../kube/types.ts';
import { until } from '../controlplane/server.ts';

/** An informer of leases, the keys that it reported, and its end. */
export function start(options: Partial<InformerOptions> & Pick<InformerOptions, 'client'>) {
  const ending = new AbortController();
  const reported: string[] = [];
  const informer = new Informer<V1Lease>({
    resource: LEASES,
    signal: ending.signal,
    onChange: (key) => reported.push(key),
    ...options,
  });
  const end = async () => {
    ending.abort();
    await informer.closed;
  };
  return { informer, reported, end };
}

/** The same content, whatever the way there. */
export async function untilEqual(informer: Informer<V1Lease>, client: KubeClient): Promise<void> {
  await until(async () => {
    const { items } = await client.list<V1Lease>(LEASES);
    const isSame = (item: V1Lease) => versionOf(informer.store.get(objectKey(item))) === versionOf(item);
    return items.length === informer.store.size && items.every(isSame);
  }, 'informer and list are equal');
}

export function versionOf(object: KubeObject | undefined): string | undefined {
  return object?.metadata?.resourceVersion;
}
