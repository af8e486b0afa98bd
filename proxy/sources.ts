import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { Logger } from 'pino';
import type { Ip } from '../core/address.ts';
import { Informer, type InformerOptions } from '../kube/informer.ts';
import {
  ENDPOINT_SLICES,
  type KubeObject,
  type ListWatcher,
  NODES,
  type Resource,
  SERVICE_CIDRS,
  SERVICES,
  type V1EndpointSlice,
  type V1Node,
  type V1Service,
  type V1ServiceCIDR,
} from '../kube/types.ts';
import { needsLocalIps, parseNode, parseServiceCidrs, planNodeFacts } from './node-facts.ts';
import { LocalAddresses } from './node-ports.ts';
import type { NodeFacts, ProxyPolicy } from './policy.ts';
import { PROXY_NAME_LABEL } from './service-view.ts';
import { trimService, trimSlice } from './trim.ts';
import type { ViewNode } from './view.ts';

/** Services without an address are for DNS. */
const SERVICE_FIELDS = 'spec.clusterIP!=None';
const SLICE_LABELS = '!service.kubernetes.io/headless';
/** How long the first pass waits for what it can do without. */
const SIDE_SOURCE_WAIT_MS = 2_000;
/** How long it waits for the node's addresses, without which node ports would be closed for a moment. */
const NODE_WAIT_MS = 30_000;
const NODE_POLL_MS = 50;

export interface SourcesOptions {
  readonly client: ListWatcher;
  readonly nodeName: string;
  /** Stand in for the Node object's, family by family; then nobody waits for these. */
  readonly nodeAddresses?: readonly Ip[] | undefined;
  readonly serviceProxyName?: string | undefined;
  readonly allowExternalIps?: boolean | undefined;
  readonly resetTcp?: boolean | undefined;
  readonly policy: ProxyPolicy;
  readonly namespaceFd?: number | undefined;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/** What the loop is told; it only marks. */
export interface SourcesListener {
  readonly onService: (key: string) => void;
  readonly onSlice: (key: string) => void;
  /** The node's zone or addresses, or the service CIDRs. */
  readonly onNode: () => void;
}

/** Everything that the proxy goes by: four kinds of the API, and the addresses that the kernel has. */
export class ProxySources implements AsyncDisposable {
  readonly services: Informer<V1Service>;
  readonly slices: Informer<V1EndpointSlice>;
  readonly #nodes: Informer<V1Node>;
  readonly #serviceCidrs: Informer<V1ServiceCIDR>;
  readonly #options: SourcesOptions;
  readonly #listener: SourcesListener;
  readonly #sideErrors = new Map<Resource, PromiseWithResolvers<void>>();
  #localAddresses: LocalAddresses | undefined;

  constructor(options: SourcesOptions, listener: SourcesListener) {
    this.#options = options;
    this.#listener = listener;
    const { nodeName, serviceProxyName } = options;
    this.services = this.#inform<V1Service>(SERVICES, listener.onService, {
      labelSelector: serviceProxyName ? `${PROXY_NAME_LABEL}=${serviceProxyName}` : `!${PROXY_NAME_LABEL}`,
      fieldSelector: SERVICE_FIELDS,
      trim: trimService,
    });
    this.slices = this.#inform<V1EndpointSlice>(ENDPOINT_SLICES, listener.onSlice, {
      labelSelector: SLICE_LABELS,
      trim: trimSlice,
    });
    const fieldSelector = `metadata.name=${nodeName}`;
    this.#nodes = this.#inform<V1Node>(NODES, listener.onNode, { fieldSelector, isOptional: true });
    this.#serviceCidrs = this.#inform(SERVICE_CIDRS, listener.onNode, { isOptional: true });
  }

  #inform<T extends KubeObject>(
    resource: Resource,
    onChange: (key: string) => void,
    which: Pick<InformerOptions<T>, 'labelSelector' | 'fieldSelector' | 'isOptional' | 'trim'>,
  ): Informer<T> {
    const { client, signal, log } = this.#options;
    const failed = Promise.withResolvers<void>();
    this.#sideErrors.set(resource, failed);
    let said = '';
    const onError = ({ message }: Error) => {
      // It is tried again every few seconds: the same error once.
      const level = message === said ? 'debug' : 'warn';
      log[level]({ kind: resource.plural, error: message }, 'the API does not answer');
      said = message;
      failed.resolve();
    };
    const onNews = (key: string) => {
      said = '';
      onChange(key);
    };
    return new Informer<T>({ client, signal, resource, onChange: onNews, onError, ...which });
  }

  /**
   * Fulfilled when enough is known for a first pass: Services and EndpointSlices completely, because what is not
   * known yet would be cut off; the rest as far as it is to be had. Rejected when stopped before.
   */
  async ready(): Promise<void> {
    const { policy, namespaceFd, signal, log } = this.#options;
    if (needsLocalIps(policy)) {
      const { onNode: onChange } = this.#listener;
      const onError = (error: Error) => log.warn({ error: error.message }, 'addresses are not known');
      this.#localAddresses = await LocalAddresses.open({ namespaceFd, signal, onChange, onError });
    }
    const main = Promise.all([this.services.synced, this.slices.synced]);
    await Promise.all([
      main,
      this.#known(NODES, this.#nodes),
      this.#known(SERVICE_CIDRS, this.#serviceCidrs),
    ]);
    await this.#nodeKnown();
  }

  /** The API's answer, whatever it is. */
  async #known(resource: Resource, { synced }: Informer<KubeObject>): Promise<void> {
    const { signal } = this.#options;
    const timer = new AbortController();
    const late = sleep(SIDE_SOURCE_WAIT_MS, undefined, { signal: AbortSignal.any([signal, timer.signal]) });
    await Promise.race([synced, this.#sideErrors.get(resource)?.promise, late]).catch(() => {});
    timer.abort();
    await late.catch(() => {});
  }

  async #nodeKnown(): Promise<void> {
    const { nodeName, signal, log } = this.#options;
    if (this.isNodeKnown) return;
    log.info({ nodeName }, 'waiting for the addresses of our Node');
    const untilMs = performance.now() + NODE_WAIT_MS;
    while (!this.isNodeKnown) {
      if (performance.now() > untilMs) {
        log.warn({ nodeName }, 'our Node has no addresses: going on without them');
        return;
      }
      await sleep(NODE_POLL_MS, undefined, { signal });
    }
  }

  /** Our node's addresses are known, or those that stand in for them. */
  get isNodeKnown(): boolean {
    return this.#options.nodeAddresses !== undefined || this.#identity().nodeIps.length > 0;
  }

  #identity() {
    const { nodeName, nodeAddresses } = this.#options;
    return parseNode(this.#nodes.store.get(nodeName), nodeAddresses);
  }

  /** The node as the views see it. */
  viewNode(): ViewNode {
    const { nodeName, serviceProxyName, allowExternalIps, resetTcp } = this.#options;
    return { nodeName, serviceProxyName, allowExternalIps, resetTcp, ...this.#identity() };
  }

  /** The node as backends see it. */
  nodeFacts(): NodeFacts {
    return planNodeFacts(this.#options.policy, {
      nodeIps: this.#identity().nodeIps,
      localIps: this.#localAddresses?.ips() ?? [],
      serviceCidrs: parseServiceCidrs(this.#serviceCidrs.store.values()),
    });
  }

  /** Our own Node object, as of now. */
  get node(): V1Node | undefined {
    return this.#nodes.store.get(this.#options.nodeName);
  }

  /** Waits, after the signal, until nothing runs any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(
      [this.services, this.slices, this.#nodes, this.#serviceCidrs].map(({ closed }) => closed),
    );
    this.#localAddresses?.[Symbol.dispose]();
  }
}

/** Whether two states of the node are the same to a backend. */
export function sameFacts(a: NodeFacts | undefined, b: NodeFacts): boolean {
  return isDeepStrictEqual(a, b);
}
