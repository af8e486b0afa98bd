import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command, Option } from 'commander';
import { type Logger, pino } from 'pino';
import {
  addressBits,
  type Cidr,
  families,
  familyOf,
  type Ip,
  ipOf,
  prefixLengthOf,
} from '../core/address.ts';
import { InputError, type Problem } from '../core/errors.ts';
import { type NetworkConfig, parseNetworkConfig } from '../daemon/config.ts';
import { startDaemon } from '../daemon/daemon.ts';
import { EtcdClient } from '../daemon/etcd.ts';
import type { LeaseStore, PerFamily } from '../daemon/lease.ts';
import { EtcdLeaseStore, etcdDefaults, readEtcdNetworkConfig } from '../daemon/store-etcd.ts';
import { KubeLeaseStore } from '../daemon/store-kube.ts';
import { staticLeaseStore } from '../daemon/store-static.ts';
import { selectUnderlay, type UnderlaySelector } from '../daemon/underlay.ts';
import { readUnderlayFacts } from '../daemon/underlay-facts.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../kernel/netlink/socket.ts';
import { KubeClient } from '../kube/client.ts';
import { loadKubeConfig } from '../kube/config.ts';
import { type ServiceProxy, startProxy } from '../proxy/proxy.ts';
import { installConflistWhenReady } from './install.ts';
import { serveStatus } from './node-status.ts';
import { cidrList, httpUrl, httpUrlList, logLevelOption, readOptionFile } from './options.ts';
import { untilStopped } from './signals.ts';
import { DEFAULT_RUN_DIR } from './status.ts';

const BACKENDS = ['vxlan', 'host-gw'];
const UNDERLAY_POLL_MS = 500;
/** How a cluster's network is cut into nodes' subnets when only its CIDR is given. */
const SUBNET_LENGTH = { 4: 24, 6: 64 } as const;

interface NodeOptions {
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
  readonly masquerade: boolean;
  readonly proxy: boolean;
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
    .option('--etcd-prefix <key>', 'where the network is described in etcd', etcdDefaults.prefix)
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
    .addOption(new Option('--backend <type>', 'how nodes are connected').choices(BACKENDS).default('vxlan'))
    .option('--iface <name>', 'interface, or an address on it, that carries traffic between nodes')
    .option('--subnet-file <path>', "write flannel's subnet.env here")
    .option('--cni-conf-dir <path>', "write the runtime's network here when the node is ready")
    .option('--no-masquerade', "leave pods' addresses on packets to the outside")
    .option('--no-proxy', 'do not serve Services')
    .option('--register-node', 'make the Node object where no kubelet does', false)
    .addOption(logLevelOption())
    .action((options: NodeOptions) => run(options));
}

async function run(options: NodeOptions): Promise<void> {
  const log = pino({ level: options.logLevel, base: { node: options.nodeName } });
  const startedAt = new Date().toISOString();
  const stop = new AbortController();
  const stopped = untilStopped();
  void stopped.then((signal) => stop.abort(new Error(`stopped by ${signal}`)));

  await using stack = new AsyncDisposableStack();
  const source = await openSource(options, stop.signal);
  stack.use(source);
  const underlay = underlaySelector(options);
  const daemon = await startDaemon({
    nodeName: options.nodeName,
    store: source.store,
    config: source.config,
    underlay,
    cni: { socketPath: `${options.runDir}/cni.sock`, stateDir: `${options.runDir}/cni` },
    stateDir: options.runDir,
    subnetFile: options.subnetFile,
    masquerade: options.masquerade,
    log: log.child({ part: 'daemon' }),
    signal: stop.signal,
  });
  stack.use(daemon);
  const { cniConfDir: directory } = options;
  const { ready } = daemon;
  if (directory !== undefined) {
    void installConflistWhenReady({ ready, directory, log: log.child({ part: 'cni' }), signal: stop.signal });
  }
  const { client } = source;
  const isProxy = options.proxy && client !== undefined;
  let proxy: ServiceProxy | undefined;
  const status = () => ({
    name: options.nodeName,
    pid: process.pid,
    ready: daemon.status().ready && (!isProxy || proxy?.status().synced === true),
    startedAt,
    daemon: daemon.status(),
    ...(proxy && { proxy: proxy.status() }),
  });
  stack.use(await serveStatus(`${options.runDir}/node.sock`, status));
  const nodeAddresses = isProxy
    ? await waitForNodeAddresses(source.config, underlay, stop.signal)
    : undefined;
  if (isProxy && nodeAddresses !== undefined) {
    proxy = stack.use(startServiceProxy({ options, config: source.config, client, nodeAddresses, log }));
  }
  log.info({ signal: await stopped }, 'stopping; the data plane stays');
}

/** Where leases come from, and what the cluster's network is. */
interface Source extends Disposable {
  readonly store: LeaseStore;
  readonly config: NetworkConfig;
  readonly client?: KubeClient;
}

async function openSource(options: NodeOptions, signal: AbortSignal): Promise<Source> {
  if (options.podCidr !== undefined) return openStaticSource(options, options.podCidr);
  if (options.etcdEndpoints !== undefined) return openEtcdSource(options, options.etcdEndpoints, signal);
  if (options.kubeconfig !== undefined || options.apiServer !== undefined) return openKubeSource(options);
  throw new InputError('options', [
    { path: '--kubeconfig', message: 'is missing, and so are --api-server, --etcd-endpoints and --pod-cidr' },
  ]);
}

function openStaticSource(options: NodeOptions, podCidrs: Cidr[]): Source {
  const subnets: PerFamily<Cidr> = Object.fromEntries(podCidrs.map((cidr) => [familyOf(cidr), cidr]));
  const config = readConfig({ ...options, clusterCidr: options.clusterCidr ?? podCidrs }, false);
  return { store: staticLeaseStore(options.nodeName, subnets), config, [Symbol.dispose]: () => undefined };
}

async function openEtcdSource(
  options: NodeOptions,
  endpoints: readonly string[],
  signal: AbortSignal,
): Promise<Source> {
  const client = new EtcdClient({ endpoints });
  const { etcdPrefix: prefix } = options;
  try {
    const config = isConfigGiven(options)
      ? readConfig(options, true)
      : await readEtcdNetworkConfig(client, prefix, signal);
    const store = new EtcdLeaseStore({ client, networks: config.networks, prefix });
    return { store, config, [Symbol.dispose]: () => client[Symbol.dispose]() };
  } catch (error) {
    client[Symbol.dispose]();
    throw error;
  }
}

async function openKubeSource(options: NodeOptions): Promise<Source> {
  const config = readConfig(options, true);
  const { nodeName, registerNode, kubeconfig, apiServer, tokenFile } = options;
  const client = new KubeClient(
    apiServer === undefined
      ? await loadKubeConfig(kubeconfig)
      : { server: apiServer, ...(tokenFile && { token: readOptionFile('--token-file', tokenFile) }) },
  );
  const store = new KubeLeaseStore({ client, nodeName, networks: config.networks, registerNode });
  return { store, config, client, [Symbol.dispose]: () => client[Symbol.dispose]() };
}

function isConfigGiven({ netConfig, clusterCidr }: NodeOptions): boolean {
  return netConfig !== undefined || clusterCidr !== undefined;
}

/** The network from its file, or from the short options in the same format. */
function readConfig(options: NodeOptions, isCut: boolean): NetworkConfig {
  const { netConfig, clusterCidr, backend } = options;
  if (netConfig !== undefined)
    return parseNetworkConfig(readOptionFile('--net-config', netConfig), netConfig);
  if (clusterCidr === undefined) {
    throw new InputError('options', [
      { path: '--net-config', message: 'is missing, and so is --cluster-cidr: the pods have no network' },
    ]);
  }
  const problems: Problem[] = clusterCidr
    .filter((cidr) => prefixLengthOf(cidr) > addressBits(familyOf(cidr)) - 4)
    .map((cidr) => ({ path: '--cluster-cidr', message: `${cidr} is too small for pods on several nodes` }));
  if (problems.length > 0) throw new InputError('options', problems);
  return parseNetworkConfig(JSON.stringify(shortConfig(clusterCidr, backend, isCut)), '--cluster-cidr');
}

function shortConfig(clusterCidr: readonly Cidr[], backend: string, isCut: boolean): object {
  const [v4, v6] = families.map((family) => clusterCidr.find((cidr) => familyOf(cidr) === family));
  const length = (cidr: Cidr | undefined, family: 4 | 6) =>
    cidr && isCut && prefixLengthOf(cidr) + 2 <= SUBNET_LENGTH[family] ? SUBNET_LENGTH[family] : 0;
  return {
    Network: v4,
    IPv6Network: v6,
    EnableIPv4: v4 !== undefined,
    EnableIPv6: v6 !== undefined,
    SubnetLen: length(v4, 4),
    IPv6SubnetLen: length(v6, 6),
    Backend: { Type: backend },
  };
}

function underlaySelector({ iface }: NodeOptions): UnderlaySelector {
  return iface === undefined ? {} : { interface: iface };
}

function startServiceProxy({
  options: { nodeName },
  config,
  client,
  nodeAddresses,
  log,
}: {
  options: NodeOptions;
  config: NetworkConfig;
  client: KubeClient;
  nodeAddresses: readonly Ip[];
  log: Logger;
}): ServiceProxy {
  const clusterCidrs = families.flatMap((family) => config.networks[family]?.network ?? []);
  return startProxy({ client, nodeName, nodeAddresses, clusterCidrs, log: log.child({ part: 'proxy' }) });
}

/** A node may start before its own network is up; the daemon says so in its log. Undefined when stopped before. */
async function waitForNodeAddresses(
  config: NetworkConfig,
  selector: UnderlaySelector,
  signal: AbortSignal,
): Promise<Ip[] | undefined> {
  while (!signal.aborted) {
    const addresses = await readNodeAddresses(config, selector);
    if (addresses !== undefined) return addresses;
    await sleep(UNDERLAY_POLL_MS, undefined, { signal }).catch(() => undefined);
  }
  return undefined;
}

/** Node ports are open on the addresses that other nodes know this one by. */
async function readNodeAddresses(
  config: NetworkConfig,
  selector: UnderlaySelector,
): Promise<Ip[] | undefined> {
  using socket = NetlinkSocket.open(NETLINK_ROUTE);
  const wanted = families.filter((family) => config.networks[family] !== undefined);
  const underlay = selectUnderlay(await readUnderlayFacts(socket), wanted, selector);
  if ('problem' in underlay) return undefined;
  return families.flatMap((family) => {
    const address = underlay.addresses[family];
    return address === undefined ? [] : [ipOf(address)];
  });
}
