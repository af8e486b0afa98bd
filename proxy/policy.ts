import type { Cidr, Ip } from '../core/address.ts';

/** What tells that the source of a packet is a pod of this cluster. */
export type DetectLocal =
  | { readonly mode: 'none' }
  | { readonly mode: 'cidrs'; readonly cidrs: readonly Cidr[] }
  /** Packets that come in over this bridge. */
  | { readonly mode: 'bridge'; readonly name: string }
  /** Packets that come in over an interface whose name begins so. */
  | { readonly mode: 'interfacePrefix'; readonly prefix: string };

/** What a process was told about all Services together; the same for every backend, and constant while it runs. */
export interface ProxyPolicy {
  /** Connections from pods to cluster IPs get the node's address as their source, too. */
  readonly masqueradeAll: boolean;
  readonly detectLocal: DetectLocal;
  /** The bit of the packet mark (0…31) by which iptables knows what to masquerade. */
  readonly masqueradeBit: number;
  /** Node ports are open on the node's addresses in these networks; no network of a family: on all of that family. */
  readonly nodePortAddresses: 'primary' | readonly Cidr[];
  /** Node ports answer on 127.0.0.1 as well: iptables only, IPv4 only. */
  readonly localhostNodePorts: boolean;
}

/** The addresses of one family that node ports are open on; `all`: every one of the node's but loopback. */
export type NodePortIps = readonly Ip[] | 'all';

/** What backends must know of the node and changes while they run. */
export interface NodeFacts {
  readonly nodePortIps: { readonly 4: NodePortIps; readonly 6: NodePortIps };
  /** Of the ServiceCIDR objects: cluster IPs are given out of these. */
  readonly serviceCidrs: readonly Cidr[];
}

/** As kube-proxy's defaults in its nftables mode, without a detector. */
export const defaultPolicy: ProxyPolicy = {
  masqueradeAll: false,
  detectLocal: { mode: 'none' },
  masqueradeBit: 14,
  nodePortAddresses: 'primary',
  localhostNodePorts: false,
};
