import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { KubeClient } from '../kube/client.ts';
import { NODES, type V1Node } from '../kube/types.ts';
import type { ServiceProxy } from '../proxy/proxy.ts';

/* detectLocalMode NodeCIDR: pods are told by the networks that our own Node has. */

/** Nothing can be done before the Node has its networks. */
const WAIT_MS = 5 * 60_000;
const POLL_MS = 500;
const CHECK_MS = 5_000;

/** Undefined when stopped before; throws when they do not come. */
export async function waitForPodCidrs(
  client: KubeClient,
  { nodeName, log }: { readonly nodeName: string; readonly log: Logger },
  signal: AbortSignal,
): Promise<readonly string[] | undefined> {
  const untilMs = performance.now() + WAIT_MS;
  for (let isFirst = true; !signal.aborted; isFirst = false) {
    const node = await client.get<V1Node>(NODES, nodeName).catch((error: Error) => {
      if (isFirst) log.warn({ error: error.message }, 'our Node cannot be read');
      return undefined;
    });
    const cidrs = podCidrsOf(node);
    if (cidrs.length > 0) return cidrs;
    if (isFirst) log.info({ nodeName }, 'waiting for the podCIDRs of our Node');
    if (performance.now() > untilMs)
      throw new Error(`detectLocalMode NodeCIDR: node ${nodeName} has no spec.podCIDRs`);
    await sleep(POLL_MS, undefined, { signal }).catch(() => {});
  }
  return undefined;
}

function podCidrsOf(node: V1Node | undefined): readonly string[] {
  const { podCIDRs, podCIDR } = node?.spec ?? {};
  return podCIDRs ?? (podCIDR ? [podCIDR] : []);
}

/** Other networks mean other rules everywhere: `onChanged` is to begin anew. */
export function watchPodCidrs(
  proxy: ServiceProxy,
  first: readonly string[],
  signal: AbortSignal,
  onChanged: (error: Error) => void,
): void {
  const timer = setInterval(() => {
    const now = podCidrsOf(proxy.node);
    if (now.length > 0 && now.join() !== first.join())
      onChanged(new Error(`the podCIDRs of our Node were ${first} and are ${now}: the proxy begins anew`));
  }, CHECK_MS);
  signal.addEventListener('abort', () => clearInterval(timer));
}
