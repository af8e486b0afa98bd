import { type Cidr, cidrContains, families, type Ip } from '../core/address.ts';
import { ApiError } from '../kube/errors.ts';
import { type KubeApi, NODES, PODS, type V1Node, type V1Pod } from '../kube/types.ts';
import type { NetworkConfig } from './config.ts';
import {
  type AcquireOptions,
  type Lease,
  type LeaseAttributes,
  type LeaseStore,
  type LeaseView,
  type PerFamily,
  StoreError,
} from './lease.ts';
import {
  defaultAnnotationPrefix,
  leaseAnnotations,
  nodeSubnets,
  nodeWishes,
  staleAnnotations,
} from './node-record.ts';
import { NodeLeaseView } from './node-view.ts';

export interface KubeStoreOptions {
  readonly client: KubeApi;
  readonly nodeName: string;
  readonly networks: NetworkConfig['networks'];
  readonly annotationPrefix?: string | undefined;
  /** Make the Node when there is none: on machines without a kubelet. */
  readonly registerNode?: boolean | undefined;
  /** By default true, as flannel does: see {@link KubeLeaseStore.announceReady}. */
  readonly setNetworkUnavailable?: boolean | undefined;
  /** By default our own; there are tools that look for flannel's. */
  readonly readyReason?: ConditionReason | undefined;
}

export interface ConditionReason {
  readonly reason: string;
  readonly message: string;
}

const fairleadIsUp = Object.freeze({
  reason: 'FairleadIsUp',
  message: 'Fairlead is running on this node',
});

/** Leases as Nodes of a Kubernetes API, in flannel's format. A lease lasts as long as its Node. */
export class KubeLeaseStore implements LeaseStore {
  readonly name = 'kubernetes';
  readonly #options: KubeStoreOptions;
  readonly #prefix: string;
  #networks: NetworkConfig['networks'];

  constructor(options: KubeStoreOptions) {
    this.#options = options;
    this.#networks = options.networks;
    this.#prefix = options.annotationPrefix ?? defaultAnnotationPrefix;
  }

  watch({ onChange, signal }: { onChange: () => void; signal: AbortSignal }): LeaseView {
    return new NodeLeaseView(this.#options, this.#prefix, onChange, signal);
  }

  useNetworks(networks: NetworkConfig['networks']): void {
    this.#networks = networks;
  }

  async acquire(attributes: LeaseAttributes, { signal }: AcquireOptions): Promise<Lease> {
    try {
      const node = await this.#ensure(attributes, signal);
      const publicIps = { ...attributes.publicIps, ...this.#overwritten(node, attributes) };
      const announced = { ...attributes, publicIps };
      const subnets = this.#checkSubnets(node);
      await this.#annotate(node, announced, signal);
      return { ...announced, key: this.#options.nodeName, subnets };
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof StoreError) throw error;
      throw new StoreError(`node ${this.#options.nodeName}: ${(error as Error).message || String(error)}`);
    }
  }

  /** Tells Kubernetes that pods on this node have a network: taken from the taint that cloud providers set. */
  async announceReady(signal: AbortSignal): Promise<void> {
    const node = await this.#get();
    const there = node?.status?.conditions?.find(({ type }) => type === 'NetworkUnavailable');
    if (this.#options.setNetworkUnavailable === false || there?.status === 'False') return;
    const now = new Date().toISOString();
    const condition = {
      type: 'NetworkUnavailable',
      status: 'False',
      ...(this.#options.readyReason ?? fairleadIsUp),
      lastTransitionTime: now,
      lastHeartbeatTime: now,
    };
    await this.#patchStatus({ status: { conditions: [condition] } }, signal);
  }

  async #get(): Promise<V1Node | undefined> {
    return await this.#options.client.get<V1Node>(NODES, this.#options.nodeName);
  }

  async #patchStatus(patch: object, signal: AbortSignal): Promise<V1Node> {
    const { client, nodeName } = this.#options;
    return await client.patch<V1Node>(NODES, nodeName, patch, {
      type: 'strategic',
      subresource: 'status',
      signal,
    });
  }

  /** The Node; where it is ours to make, made and with its addresses. */
  async #ensure({ publicIps }: LeaseAttributes, signal: AbortSignal): Promise<V1Node> {
    const { nodeName, registerNode } = this.#options;
    const there = await this.#get();
    if (!registerNode) {
      if (there === undefined) throw new StoreError(`node ${nodeName} does not exist`);
      return there;
    }
    const node = there ?? (await this.#create());
    const ips = families.flatMap((family) => publicIps[family] ?? []);
    const known = node.status?.addresses?.filter(({ type }) => type === 'InternalIP') ?? [];
    if (JSON.stringify(known.map(({ address }) => address)) === JSON.stringify(ips)) return node;
    const addresses = [
      ...ips.map((address) => ({ type: 'InternalIP', address })),
      { type: 'Hostname', address: nodeName },
    ];
    // A whole list replaces the old one: in a strategic patch, addresses of before would stay.
    const { client } = this.#options;
    return await client.patch<V1Node>(
      NODES,
      nodeName,
      { status: { addresses } },
      { subresource: 'status', signal },
    );
  }

  async #create(): Promise<V1Node> {
    const { client, nodeName } = this.#options;
    const metadata = { name: nodeName, labels: nodeLabels(nodeName) };
    try {
      return await client.create<V1Node>(NODES, { apiVersion: 'v1', kind: 'Node', metadata });
    } catch (error) {
      if (!(error instanceof ApiError && error.reason === 'AlreadyExists')) throw error;
      throw new StoreError(`node ${nodeName} was made by somebody else in this moment`);
    }
  }

  /** Of the families that the node has an address of. */
  #overwritten(node: V1Node, { publicIps }: LeaseAttributes): PerFamily<Ip> {
    const { announced } = nodeWishes(node, this.#prefix);
    const used = families.filter((family) => publicIps[family] && announced[family]);
    return Object.fromEntries(used.map((family) => [family, announced[family]]));
  }

  /** The node's subnets of the families in use. */
  #checkSubnets(node: V1Node): Lease['subnets'] {
    const { nodeName } = this.#options;
    const subnets = nodeSubnets(node);
    if ('problem' in subnets) throw new StoreError(`node ${nodeName}: ${subnets.problem}`);
    const used: { 4?: Cidr; 6?: Cidr } = {};
    for (const family of families) {
      const network = this.#networks[family]?.network;
      const subnet = subnets[family];
      if (network === undefined) continue;
      if (subnet === undefined) throw new StoreError(`node ${nodeName} has no IPv${family} pod CIDR (yet)`);
      if (!cidrContains(network, subnet)) {
        throw new StoreError(`node ${nodeName}: its pod CIDR ${subnet} is outside of the network ${network}`);
      }
      used[family] = subnet;
    }
    return used;
  }

  /** Only what differs: an equal patch would wake every watcher of every node. */
  async #annotate(node: V1Node, attributes: LeaseAttributes, signal: AbortSignal): Promise<void> {
    const wanted = leaseAnnotations(attributes, this.#prefix);
    const there = node.metadata?.annotations ?? {};
    const differing: [string, string | null][] = [...wanted].filter(([key, value]) => there[key] !== value);
    for (const key of staleAnnotations(node, wanted, this.#prefix)) differing.push([key, null]);
    if (differing.length === 0) return;
    const patch = { metadata: { annotations: Object.fromEntries(differing) } };
    await this.#patchStatus(patch, signal);
  }
}

/** The node that a pod runs on: what a DaemonSet that gives its pods no NODE_NAME can say of itself. */
export async function readPodNodeName(client: KubeApi, pod: string, namespace: string): Promise<string> {
  const found = await client.get<V1Pod>(PODS, pod, namespace);
  const name = found?.spec?.nodeName;
  if (name !== undefined && name !== '') return name;
  throw new StoreError(`pod ${namespace}/${pod} ${found === undefined ? 'does not exist' : 'has no node'}`);
}

function nodeLabels(nodeName: string): Record<string, string> {
  const arch = process.arch === 'x64' ? 'amd64' : process.arch;
  return { 'kubernetes.io/hostname': nodeName, 'kubernetes.io/os': 'linux', 'kubernetes.io/arch': arch };
}
