import { hostname } from 'node:os';
import { Command, Option } from 'commander';
import type { Cidr } from '../core/address.ts';
import type { HostPort } from '../proxy/config/addresses.ts';
import { cidrList, hostPort, httpUrl, httpUrlList, logLevelOption, networkList } from './options.ts';
import { DEFAULT_RUN_DIR } from './status.ts';

const PROXY_MODES = ['nftables', 'iptables'];
/** flannel's. */
const ETCD_PREFIX = '/coreos.com/network';

export interface NodeOptions {
  readonly nodeName: string;
  readonly runDir: string;
  readonly apiServer?: string;
  readonly tokenFile?: string;
  readonly kubeconfig?: string;
  readonly etcdEndpoints?: readonly string[];
  readonly etcdPrefix: string;
  readonly podCidr?: Cidr[];
  readonly netConfig?: string;
  readonly clusterCidr?: Cidr[];
  readonly backend: string;
  readonly iface?: string;
  readonly subnetFile?: string;
  readonly cniConfDir?: string;
  readonly healthAddress?: HostPort;
  readonly masquerade: boolean;
  readonly nonMasqueradeCidrs?: readonly Cidr[];
  readonly proxy: boolean;
  readonly proxyMode: string;
  readonly proxyConfig?: string;
  readonly resetTcp: boolean;
  readonly countConnections: boolean;
  readonly countBytes: boolean;
  readonly registerNode: boolean;
  readonly logLevel: string;
}

export function nodeCommand(): Command {
  return new Command('node')
    .description(
      "Run a node's agent: its subnet, the ways to other nodes, the CNI plugin and the service proxy",
    )
    .option('--node-name <name>', "this node's name", hostname().toLowerCase())
    .option('--run-dir <path>', 'sockets and state', DEFAULT_RUN_DIR)
    .addOption(new Option('--kubeconfig <path>', 'leases and services come from this API server'))
    .addOption(
      new Option('--api-server <url>', 'the same, without a kubeconfig')
        .argParser(httpUrl)
        .conflicts('kubeconfig'),
    )
    .addOption(new Option('--token-file <path>', 'bearer token for --api-server'))
    .addOption(
      new Option('--etcd-endpoints <urls>', 'leases come from etcd v3')
        .argParser(httpUrlList)
        .conflicts(['kubeconfig', 'apiServer']),
    )
    .option('--etcd-prefix <key>', 'where the network is described in etcd', ETCD_PREFIX)
    .addOption(
      new Option('--pod-cidr <cidrs>', 'no store: a node by itself with these subnets')
        .argParser(cidrList)
        .conflicts(['kubeconfig', 'apiServer', 'etcdEndpoints']),
    )
    .addOption(new Option('--net-config <path>', "the cluster's network: flannel's net-conf.json"))
    .addOption(
      new Option('--cluster-cidr <cidrs>', "the cluster's network, in short")
        .argParser(cidrList)
        .conflicts('netConfig'),
    )
    .option('--backend <type>', 'how nodes are connected, where there is no --net-config', 'vxlan')
    .option('--iface <name>', 'interface, or an address on it, that carries traffic between nodes')
    .option('--subnet-file <path>', "write flannel's subnet.env here")
    .option('--cni-conf-dir <path>', "write the runtime's network here when the node is ready")
    .addOption(
      new Option(
        '--health-address <host:port>',
        "serve the agent's /healthz, /readyz and /metrics here",
      ).argParser(hostPort),
    )
    .option('--no-masquerade', "leave pods' addresses on packets to the outside")
    .addOption(
      new Option(
        '--non-masquerade-cidrs <cidrs>',
        'leave them on packets to these networks, whose routers know the ways to pods',
      ).argParser(networkList),
    )
    .option('--no-proxy', 'do not serve Services')
    .addOption(
      new Option('--proxy-mode <mode>', 'how Services are served').choices(PROXY_MODES).default('nftables'),
    )
    .addOption(
      new Option('--proxy-config <path>', 'a KubeProxyConfiguration for the service proxy').conflicts(
        'proxyMode',
      ),
    )
    .option('--reset-tcp', 'end TCP connections to endpoints that do not serve any more', false)
    .option('--count-connections', 'count the connections of each Service, with nftables', false)
    .option('--count-bytes', 'count the bytes of each Service', false)
    .option('--register-node', 'make the Node object where no kubelet does', false)
    .addOption(logLevelOption())
    .action(async (options: NodeOptions) => {
      const { runNode } = await import('./node-run.ts');
      await runNode(options);
    });
}
