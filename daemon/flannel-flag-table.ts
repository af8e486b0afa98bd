/** One of flanneld's flags. As an environment variable `etcd-prefix` is FLANNELD_ETCD_PREFIX. */
export interface FlannelFlag {
  readonly name: string;
  readonly kind: 'text' | 'texts' | 'boolean' | 'number';
  /** The value without a word about it. */
  readonly absent: string;
  readonly help: string;
  /** Taken and without effect. */
  readonly idle?: true;
  /** `fairlead node` has it as well. */
  readonly shared?: true;
}

const flag = (name: string, kind: FlannelFlag['kind'], absent: string, help: string): FlannelFlag => ({
  name,
  kind,
  absent,
  help,
});
const shared = (...of: Parameters<typeof flag>): FlannelFlag => ({ ...flag(...of), shared: true });
const idle = (name: string, help: string): FlannelFlag => ({ ...flag(name, 'text', '', help), idle: true });

/** flanneld v0.28's flags and defaults (flannel, main.go), and those that flanneld does not have ("ours"). */
export const flannelFlags: readonly FlannelFlag[] = [
  shared(
    'etcd-endpoints',
    'text',
    'http://127.0.0.1:4001,http://127.0.0.1:2379',
    'comma list of etcd endpoints',
  ),
  shared('etcd-prefix', 'text', '/coreos.com/network', 'where the network is described in etcd'),
  shared('etcd-keyfile', 'text', '', 'key of the client certificate for etcd'),
  shared('etcd-certfile', 'text', '', 'client certificate for etcd'),
  shared('etcd-cafile', 'text', '', "the CA that etcd's certificate must be of"),
  shared('etcd-username', 'text', '', 'user of etcd'),
  shared('etcd-password', 'text', '', "the user's password"),
  shared(
    'iface',
    'texts',
    '',
    'interface, or an address on it, that carries traffic between nodes; repeatable',
  ),
  shared(
    'iface-regex',
    'texts',
    '',
    'the same by a regular expression, for addresses, then names; repeatable',
  ),
  shared('iface-can-reach', 'text', '', 'the interface that packets to this address leave by'),
  shared('subnet-file', 'text', '/run/flannel/subnet.env', 'where to write subnet.env'),
  shared('public-ip', 'text', '', 'IPv4 address that other nodes are told'),
  shared('public-ipv6', 'text', '', 'IPv6 address that other nodes are told'),
  shared('subnet-lease-renew-margin', 'number', '60', 'minutes before its end that a lease is renewed'),
  flag('ip-masq', 'boolean', 'false', 'give packets from pods to the outside the address of the node'),
  shared('ip-masq-fully-random-disable', 'boolean', 'false', 'do not choose ports of such packets at random'),
  shared('non-masquerade-cidrs', 'text', '', "comma list of networks outside that see pods' addresses; ours"),
  flag('kube-subnet-mgr', 'boolean', 'false', 'leases are Nodes of Kubernetes, not keys in etcd'),
  flag('kube-api-url', 'text', '', 'the API server, where no kubeconfig says it'),
  flag('kubeconfig-file', 'text', '', 'kubeconfig with the API server and credentials'),
  shared(
    'kube-annotation-prefix',
    'text',
    'flannel.alpha.coreos.com',
    'what annotations of Nodes begin with',
  ),
  flag('healthz-ip', 'text', '0.0.0.0', 'address of the health server'),
  flag('healthz-port', 'number', '0', 'port of the health server; 0: none'),
  { ...flag('iptables-resync', 'number', '5', 'seconds between two looks at the packet filter'), idle: true },
  shared('iptables-forward-rules', 'boolean', 'true', "accept pods' packets where iptables' FORWARD drops"),
  shared('ip-blackhole-route', 'boolean', 'false', "packets to this node's unused pod addresses end here"),
  flag('net-config-path', 'text', '/etc/kube-flannel/net-conf.json', 'the network, with kube-subnet-mgr'),
  shared('set-node-network-unavailable', 'boolean', 'true', 'tell Kubernetes that pods here have a network'),
  flag('version', 'boolean', 'false', 'print the version and end'),
  flag('v', 'number', '0', 'how much to log'),
  idle('vmodule', 'log levels of source files'),
  idle('log_backtrace_at', 'stack traces at source lines'),
];

/** FLANNELD_ETCD_PREFIX for "etcd-prefix": only hyphens are replaced. */
export function flannelVariable(name: string): string {
  return `FLANNELD_${name.replaceAll('-', '_').toUpperCase()}`;
}
