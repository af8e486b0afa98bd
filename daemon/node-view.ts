import { Informer } from '../kube/informer.ts';
import { type KubeApi, type ListWatcher, NODES, type V1Node } from '../kube/types.ts';
import { canonicalJson, type Lease, type LeaseView, type NodeWishes } from './lease.ts';
import { addressTypes, nodeWishes, parseNodeLease } from './node-record.ts';

/** The Nodes that carry a lease. Most changes of a Node (heartbeats, images) are none of its lease. */
export class NodeLeaseView implements LeaseView {
  readonly synced: Promise<void>;
  readonly #informer: Informer<V1Node>;
  readonly #nodeName: string;
  readonly #prefix: string;
  readonly #onChange: () => void;
  readonly #leases = new Map<string, Lease>();
  readonly #unreadable = new Map<string, string>();
  #connection: string | undefined;
  #lostSinceMs: number | undefined;

  constructor(
    { client, nodeName }: { client: KubeApi; nodeName: string },
    prefix: string,
    onChange: () => void,
    signal: AbortSignal,
  ) {
    this.#nodeName = nodeName;
    this.#prefix = prefix;
    this.#onChange = onChange;
    this.#informer = new Informer<V1Node>({
      client: heard(client, () => this.#connected(undefined)),
      resource: NODES,
      signal,
      onChange: (name) => this.#read(name),
      onError: (error) => this.#connected(`nodes cannot be watched: ${error.message || String(error)}`),
      trim: leaseOf,
    });
    this.synced = this.#informer.synced;
  }

  leases(): ReadonlyMap<string, Lease> {
    return this.#leases;
  }

  problems(): readonly string[] {
    const unreadable = [...this.#unreadable].map(([name, problem]) => `node ${name}: ${problem}`);
    return this.#connection === undefined ? unreadable : [this.#connection, ...unreadable];
  }

  behindMs(): number {
    return this.#lostSinceMs === undefined ? 0 : performance.now() - this.#lostSinceMs;
  }

  wishes(): NodeWishes {
    return nodeWishes(this.#informer.store.get(this.#nodeName) ?? {}, this.#prefix);
  }

  #read(name: string): void {
    const node = this.#informer.store.get(name);
    const before = this.#told(name);
    const lease = node && parseNodeLease(node, this.#prefix);
    this.#leases.delete(name);
    this.#unreadable.delete(name);
    if (lease !== undefined && 'problem' in lease) this.#unreadable.set(name, lease.problem);
    else if (lease !== undefined) this.#leases.set(name, lease);
    // Our own Node is also waited for: until it is there, and until it has a pod CIDR.
    if (name === this.#nodeName || this.#told(name) !== before) this.#onChange();
  }

  #told(name: string): string {
    return canonicalJson([this.#leases.get(name), this.#unreadable.get(name)]);
  }

  #connected(problem: string | undefined): void {
    if (problem === this.#connection) return;
    this.#connection = problem;
    this.#lostSinceMs = problem === undefined ? undefined : (this.#lostSinceMs ?? performance.now());
    this.#onChange();
  }
}

/** Of a Node, whose images alone are several kilobytes, what a lease is read from. */
function leaseOf({ metadata = {}, spec = {}, status }: V1Node): V1Node {
  const { name, uid, resourceVersion, annotations } = metadata;
  const { podCIDR, podCIDRs } = spec;
  // Most nodes announce what they have.
  const told = new Set(Object.values(annotations ?? {}));
  const addresses = status?.addresses?.filter(
    ({ type, address }) => addressTypes.includes(type) && !told.has(address),
  );
  return {
    metadata: { name, uid, resourceVersion, annotations },
    spec: { podCIDR, podCIDRs },
    ...(addresses?.length ? { status: { addresses } } : {}),
  } as V1Node;
}

/** The same client, with a call after everything that it got through. */
function heard(client: KubeApi, onAnswer: () => void): ListWatcher {
  return {
    list: async (resource, options) => {
      const page = await client.list<never>(resource, options);
      onAnswer();
      return page;
    },
    watch: async function* (resource, options) {
      for await (const event of client.watch<never>(resource, options)) {
        onAnswer();
        yield event;
      }
      onAnswer();
    },
  };
}
