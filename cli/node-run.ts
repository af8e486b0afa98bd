import { pino } from 'pino';
import { addressBits, type Cidr, families, familyOf, prefixLengthOf } from '../core/address.ts';
import { InputError, type Problem } from '../core/errors.ts';
import { type NetworkConfig, type NetworkConfigUse, parseNetworkConfig } from '../daemon/config.ts';
import { type ConfigSource, etcdConfigSource, fileConfigSource } from '../daemon/config-source.ts';
import { startDaemon } from '../daemon/daemon.ts';
import { type FlannelEtcd, type NodeFlags, parseNodeFlags } from '../daemon/flannel-flags.ts';
import { openEtcdClient } from '../daemon/flannel-source.ts';
import type { LeaseStore, PerFamily } from '../daemon/lease.ts';
import { EtcdLeaseStore, readEtcdNetworkConfig } from '../daemon/store-etcd.ts';
import { KubeLeaseStore } from '../daemon/store-kube.ts';
import { staticLeaseStore } from '../daemon/store-static.ts';
import { KubeClient } from '../kube/client.ts';
import { loadKubeConfig } from '../kube/config.ts';
import { installConflistWhenReady } from './install.ts';
import type { NodeOptions } from './node.ts';
import { daemonPlaces } from './node-places.ts';
import type { NodeProxy, NodeProxyOptions } from './node-proxy.ts';
import { serveStatus, statusSockets } from './node-status.ts';
import { readOptionFile } from './options.ts';
import { settle } from './settle.ts';
import { untilStopped } from './signals.ts';
import { tracePages } from './status-pages.ts';

/** With an API server, Kubernetes cuts the network in subnets. */
const KUBERNETES_USE: NetworkConfigUse = { givesSubnets: false };

/** How a cluster's network is cut into nodes' subnets when only its CIDR is given. */
const SUBNET_LENGTH = { 4: 24, 6: 64 } as const;

/** One run of `fairlead node`, to its end. */
export async function runNode(options: NodeOptions): Promise<void> {
  const log = pino({ level: options.logLevel, base: { node: options.nodeName } });
  const startedAt = new Date().toISOString();
  const stop = new AbortController();
  const stopped = untilStopped();
  void stopped.then((signal) => stop.abort(new Error(`stopped by ${signal}`)));

  await using stack = new AsyncDisposableStack();
  const flags = parseNodeFlags(options.flags, process.env);
  const source = stack.use(await openSource(options, flags, stop.signal));
  const { underlay, subnetFile, randomPorts, forwardRules, blackholeRoute, nonMasqueradeCidrs } = flags;
  const daemon = await startDaemon({
    nodeName: options.nodeName,
    store: source.store,
    config: source.config,
    configSource: source.configSource,
    ...{ underlay, subnetFile, randomPorts, forwardRules, blackholeRoute, nonMasqueradeCidrs },
    ...daemonPlaces(options.runDir),
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
  const { networks } = source.config;
  const proxy =
    options.proxy && client !== undefined
      ? stack.use(await openProxy({ ...options, networks, client, log: log.child({ part: 'proxy' }) }))
      : undefined;
  void settle({ ready, also: proxy?.synced, signal: stop.signal, log });
  const status = () => ({
    name: options.nodeName,
    pid: process.pid,
    ready: daemon.status().ready && (proxy === undefined || proxy.isSynced),
    startedAt,
    daemon: daemon.status(),
    ...(proxy && { proxy: proxy.report() }),
  });
  const pages = tracePages(() => proxy?.running);
  stack.use(await serveStatus(`${options.runDir}/${statusSockets.node}`, status, pages));
  if (options.healthAddress !== undefined) {
    const { serveHealth } = await import('./node-health.ts');
    stack.use(serveHealth(daemon, options.healthAddress, log.child({ part: 'health' })));
  }
  log.info({ signal: await stopped }, 'stopping; the data plane stays');
}

/** An agent without a proxy is smaller by its code. */
async function openProxy(options: NodeProxyOptions): Promise<NodeProxy> {
  const { NodeProxy } = await import('./node-proxy.ts');
  return new NodeProxy(options);
}

/** Where leases come from, and what the cluster's network is. */
interface Source extends Disposable {
  readonly store: LeaseStore;
  readonly config: NetworkConfig;
  /** Undefined: the configuration is that of the command line. */
  readonly configSource?: ConfigSource | undefined;
  readonly client?: KubeClient;
}

/** What the command line says wins over a variable that names etcd. */
async function openSource(options: NodeOptions, flags: NodeFlags, signal: AbortSignal): Promise<Source> {
  if (options.podCidr !== undefined) return openStaticSource(options, options.podCidr);
  if (options.kubeconfig !== undefined || options.apiServer !== undefined)
    return openKubeSource(options, flags);
  if (flags.etcd !== undefined) return openEtcdSource(options, flags.etcd, signal);
  throw new InputError('options', [
    { path: '--kubeconfig', message: 'is missing, and so are --api-server, --etcd-endpoints and --pod-cidr' },
  ]);
}

function openStaticSource(options: NodeOptions, podCidrs: Cidr[]): Source {
  const subnets: PerFamily<Cidr> = Object.fromEntries(podCidrs.map((cidr) => [familyOf(cidr), cidr]));
  const config = readConfig({ ...options, clusterCidr: options.clusterCidr ?? podCidrs }, false);
  const store = staticLeaseStore(options.nodeName, subnets);
  return { store, config, configSource: configFile(options), [Symbol.dispose]: () => undefined };
}

async function openEtcdSource(options: NodeOptions, etcd: FlannelEtcd, signal: AbortSignal): Promise<Source> {
  const client = openEtcdClient(etcd);
  const { prefix, renewMarginSeconds } = etcd;
  try {
    const config = isConfigGiven(options)
      ? readConfig(options, true)
      : await readEtcdNetworkConfig(client, prefix, signal);
    const store = new EtcdLeaseStore({ client, networks: config.networks, prefix, renewMarginSeconds });
    const configSource = isConfigGiven(options) ? configFile(options) : etcdConfigSource(client, prefix);
    return { store, config, configSource, [Symbol.dispose]: () => client[Symbol.dispose]() };
  } catch (error) {
    client[Symbol.dispose]();
    throw error;
  }
}

async function openKubeSource(options: NodeOptions, flags: NodeFlags): Promise<Source> {
  const config = readConfig(options, true, KUBERNETES_USE);
  const configSource = configFile(options, KUBERNETES_USE);
  const { nodeName, registerNode, kubeconfig, apiServer, tokenFile } = options;
  const client = new KubeClient(
    apiServer === undefined
      ? await loadKubeConfig(kubeconfig)
      : { server: apiServer, ...(tokenFile && { token: readOptionFile('--token-file', tokenFile) }) },
  );
  const { networks } = config;
  const { annotationPrefix, setNetworkUnavailable } = flags;
  const wishes = { registerNode, annotationPrefix, setNetworkUnavailable };
  const store = new KubeLeaseStore({ client, nodeName, networks, ...wishes });
  return { store, config, configSource, client, [Symbol.dispose]: () => client[Symbol.dispose]() };
}

function isConfigGiven({ netConfig, clusterCidr }: NodeOptions): boolean {
  return netConfig !== undefined || clusterCidr !== undefined;
}

/** Undefined: there is no file that could change. */
function configFile({ netConfig }: NodeOptions, use?: NetworkConfigUse): ConfigSource | undefined {
  return netConfig === undefined ? undefined : fileConfigSource(netConfig, use && { use });
}

/** The network from its file, or from the short options in the same format. */
function readConfig(options: NodeOptions, isCut: boolean, use?: NetworkConfigUse): NetworkConfig {
  const { netConfig, clusterCidr, backend } = options;
  if (netConfig !== undefined)
    return parseNetworkConfig(readOptionFile('--net-config', netConfig), netConfig, use);
  if (clusterCidr === undefined) {
    throw new InputError('options', [
      { path: '--net-config', message: 'is missing, and so is --cluster-cidr: the pods have no network' },
    ]);
  }
  const problems: Problem[] = clusterCidr
    .filter((cidr) => prefixLengthOf(cidr) > addressBits(familyOf(cidr)) - 4)
    .map((cidr) => ({ path: '--cluster-cidr', message: `${cidr} is too small for pods on several nodes` }));
  if (problems.length > 0) throw new InputError('options', problems);
  return parseNetworkConfig(JSON.stringify(shortConfig(clusterCidr, backend, isCut)), '--cluster-cidr', use);
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
