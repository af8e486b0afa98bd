import { hostname } from 'node:os';
import { Command, Option } from 'commander';
import type { Cidr } from '../core/address.ts';
import { type FlannelFlag, flannelFlags } from '../daemon/flannel-flag-table.ts';
import type { HostPort } from '../proxy/config/addresses.ts';
import { cidrList, hostPort, httpUrl, logLevelOption } from './options.ts';
import { DEFAULT_RUN_DIR } from './status.ts';

const PROXY_MODES = ['nftables', 'iptables'];

export interface NodeOptions {
  readonly nodeName: string;
  readonly runDir: string;
  readonly apiServer?: string;
  readonly tokenFile?: string;
  readonly kubeconfig?: string;
  readonly podCidr?: Cidr[];
  readonly netConfig?: string;
  readonly clusterCidr?: Cidr[];
  readonly backend: string;
  readonly cniConfDir?: string;
  readonly healthAddress?: HostPort;
  readonly masquerade: boolean;
  readonly proxy: boolean;
  readonly proxyMode: string;
  readonly proxyConfig?: string;
  readonly resetTcp: boolean;
  readonly countConnections: boolean;
  readonly countBytes: boolean;
  readonly registerNode: boolean;
  readonly logLevel: string;
  /** Those of flanneld's flags that are given, by name. */
  readonly flags: ReadonlyMap<string, readonly string[]>;
}

export function nodeCommand(): Command {
  const command = new Command('node')
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
    .option('--cni-conf-dir <path>', "write the runtime's network here when the node is ready")
    .addOption(
      new Option(
        '--health-address <host:port>',
        "serve the agent's /healthz, /readyz and /metrics here",
      ).argParser(hostPort),
    )
    .option('--no-masquerade', "leave pods' addresses on packets to the outside")
    .option('--no-proxy', 'do not serve Services')
    .addOption(
      new Option('--proxy-mode <mode>', 'how Services are served').choices(PROXY_MODES).default('nftables'),
    )
    .addOption(
      new Option('--proxy-config <path>', 'a KubeProxyConfiguration for the service proxy').conflicts(
        'proxyMode',
      ),
    )
    .option('--reset-tcp', 'end TCP connections to endpoints that are gone', false)
    .option('--count-connections', 'count the connections of each Service, with nftables', false)
    .option('--count-bytes', 'count the bytes of each Service', false)
    .option('--register-node', 'make the Node object where no kubelet does', false)
    .addOption(logLevelOption());
  for (const flag of sharedFlags) command.addOption(sharedOption(flag));
  return command.action(async (options: NodeOptions) => {
    const { runNode } = await import('./node-run.ts');
    await runNode({ ...options, flags: givenFlags(command) });
  });
}

const sharedFlags = flannelFlags.filter(({ shared }) => shared);

/** As in `fairlead flannel`; values are read and checked there. */
function sharedOption({ name, kind, absent, help }: FlannelFlag): Option {
  const value = { text: '<text>', texts: '<text>', number: '<number>', boolean: '[boolean]' }[kind];
  const by =
    absent === '' || name === 'etcd-endpoints' || name === 'subnet-file' ? '' : ` (default: ${absent})`;
  const option = new Option(`--${name} ${value}`, `${help}${by}`);
  if (kind === 'texts') option.argParser((text: string, before: string[] = []) => [...before, text]);
  return name === 'etcd-endpoints' ? option.conflicts(['kubeconfig', 'apiServer']) : option;
}

/** By name, those that the command line says. */
export function givenFlags(command: Command): Map<string, readonly string[]> {
  const given = new Map<string, readonly string[]>();
  for (const { name } of sharedFlags) {
    const value: unknown = command.getOptionValue(new Option(`--${name} <value>`).attributeName());
    if (value !== undefined) given.set(name, [value].flat().map(String));
  }
  return given;
}
