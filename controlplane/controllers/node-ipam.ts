import type { Logger } from 'pino';
import { type Cidr, type Family, familyOf, parseCidr } from '../../core/address.ts';
import { Informer } from '../../kube/informer.ts';
import { type KubeApi, NODES, type V1Node } from '../../kube/types.ts';
import { KeyLoop } from './key-loop.ts';
import { SubnetPool } from './subnet-pool.ts';

/** How large a node's subnet is, as in kube-controller-manager. */
export const NODE_PREFIX_LENGTHS: Readonly<Record<Family, number>> = { 4: 24, 6: 64 };

export interface NodeIpamOptions {
  readonly api: KubeApi;
  /** The pods' networks, one per family; a node gets a subnet of each, in this order. */
  readonly clusterCidrs: readonly Cidr[];
  /** Networks that no node's subnet may touch. */
  readonly serviceCidrs: readonly Cidr[];
  readonly nodePrefixLengths?: Readonly<Record<Family, number>>;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/**
 * Gives every node its `spec.podCIDRs`: the lowest free ones. What nodes have already is taken for granted, so
 * nothing but the nodes themselves says whose a subnet is. A node that is gone leaves its subnets to others.
 */
export async function runNodeIpam(options: NodeIpamOptions): Promise<void> {
  const { api, signal, log } = options;
  const ipam = new NodeIpam(options);
  const loop = new KeyLoop({
    signal,
    work: async (name) => {
      const node = nodes.store.get(name);
      if (node !== undefined) return await ipam.settle(name, node);
      ipam.release(name);
      // What came free is for whoever was left without.
      for (const [other, { spec }] of nodes.store) if (spec?.podCIDRs === undefined) loop.mark(other);
    },
    onError: (node, error) => log.warn({ node, error: error.message }, 'no subnet for node'),
  });
  const nodes = new Informer<V1Node>({
    client: api,
    resource: NODES,
    signal,
    onChange: (name) => loop.mark(name),
    onError: (error) => log.warn({ error: error.message }, 'cannot watch nodes'),
  });
  await nodes.synced.then(
    () => {
      for (const [name, node] of nodes.store) ipam.occupy(name, node);
      loop.open();
    },
    () => {},
  );
  await nodes.closed;
  await loop.idle();
}

class NodeIpam {
  readonly #options: NodeIpamOptions;
  readonly #pools: readonly SubnetPool[];
  /** What was given to a node and may not be in the store yet. */
  readonly #given = new Map<string, readonly Cidr[]>();

  constructor(options: NodeIpamOptions) {
    const lengths = options.nodePrefixLengths ?? NODE_PREFIX_LENGTHS;
    this.#options = options;
    this.#pools = options.clusterCidrs.map(
      (cidr) => new SubnetPool(cidr, lengths[familyOf(cidr)], options.serviceCidrs),
    );
  }

  async settle(name: string, node: V1Node): Promise<void> {
    if (podCidrsOf(node).length > 0) return this.occupy(name, node);
    const cidrs = this.#given.get(name) ?? this.#allocate(name);
    this.#given.set(name, cidrs);
    const patch = { metadata: { uid: node.metadata?.uid }, spec: { podCIDR: cidrs[0], podCIDRs: cidrs } };
    await this.#options.api.patch<V1Node>(NODES, name, patch);
    this.#options.log.info({ node: name, podCidrs: cidrs }, 'subnet given');
  }

  occupy(name: string, node: V1Node): void {
    for (const cidr of podCidrsOf(node)) {
      for (const other of this.#pools.flatMap((pool) => pool.occupy(cidr, name))) {
        this.#options.log.error({ node: name, other, podCidr: cidr }, 'two nodes have the same subnet');
      }
    }
  }

  #allocate(name: string): readonly Cidr[] {
    const cidrs = this.#pools.flatMap((pool) => pool.allocate(name) ?? []);
    if (cidrs.length === this.#pools.length) return cidrs;
    this.release(name);
    throw new Error(`all subnets of ${this.#options.clusterCidrs.join(', ')} are taken`);
  }

  release(name: string): void {
    this.#given.delete(name);
    for (const pool of this.#pools) pool.release(name);
  }
}

function podCidrsOf({ spec }: V1Node): Cidr[] {
  return (spec?.podCIDRs ?? []).flatMap((text) => parseCidr(text) ?? []);
}
