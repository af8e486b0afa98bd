import { existsSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Log } from '../cni/server.ts';
import { InputError } from '../core/errors.ts';
import { KubeClient } from '../kube/client.ts';
import { type KubeConfig, loadKubeConfig } from '../kube/config.ts';
import { type NetworkConfig, parseNetworkConfig } from './config.ts';
import { type ConfigSource, etcdConfigSource, fileConfigSource } from './config-source.ts';
import { EtcdClient } from './etcd.ts';
import type { FlannelEtcd, FlannelKubernetes, FlannelOptions } from './flannel-flags.ts';
import type { LeaseStore } from './lease.ts';
import { EtcdLeaseStore, readEtcdNetworkConfig } from './store-etcd.ts';
import { KubeLeaseStore, readPodNodeName } from './store-kube.ts';

/** flanneld asks for its network this often until there is one. */
const configRetryMs = 1_000;
/** flannel's words (flannel, pkg/subnet/kube). */
const flannelIsUp = Object.freeze({ reason: 'FlannelIsUp', message: 'Flannel is running on this node' });
const serviceAccountDir = '/var/run/secrets/kubernetes.io/serviceaccount';
/** With kube-subnet-mgr, Kubernetes cuts the network in subnets. */
const kubernetesUse = Object.freeze({ givesSubnets: false });

/** Where a node with flanneld's options has its lease and its network from. Disposing of it closes connections. */
export interface FlannelSource extends Disposable {
  readonly nodeName: string;
  readonly store: LeaseStore;
  readonly config: NetworkConfig;
  readonly configSource: ConfigSource;
  /** Of the API server, with kube-subnet-mgr. */
  readonly client?: KubeClient;
}

export interface FlannelHome {
  /** The node's name where neither a variable nor Kubernetes says one. */
  readonly hostname: string;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** Where a pod has its account's token and CA. */
  readonly accountDir?: string;
}

/** Throws InputError for files that cannot be used. A store that does not answer, or has no network yet, is waited for. */
export async function openFlannelSource(
  { store }: Pick<FlannelOptions, 'store'>,
  home: FlannelHome,
): Promise<FlannelSource> {
  return store.kind === 'etcd' ? await openEtcd(store, home) : await openKubernetes(store, home);
}

async function openEtcd(
  options: FlannelEtcd,
  { hostname, log, signal }: FlannelHome,
): Promise<FlannelSource> {
  const { prefix, renewMarginSeconds } = options;
  using stack = new DisposableStack();
  const client = stack.use(openEtcdClient(options));
  const config = await untilThere(() => readEtcdNetworkConfig(client, prefix, signal), log, signal);
  const store = new EtcdLeaseStore({ client, networks: config.networks, prefix, renewMarginSeconds });
  const configSource = etcdConfigSource(client, prefix);
  const owned = stack.move();
  return { nodeName: hostname, store, config, configSource, [Symbol.dispose]: () => owned.dispose() };
}

/** Throws InputError for files that cannot be read. */
export function openEtcdClient(options: FlannelEtcd): EtcdClient {
  const { endpoints, caFile, certFile, keyFile, username, password } = options;
  return new EtcdClient({
    endpoints,
    ...(caFile && { ca: readOption('etcd-cafile', caFile) }),
    ...(certFile && { cert: readOption('etcd-certfile', certFile) }),
    ...(keyFile && { key: readOption('etcd-keyfile', keyFile) }),
    ...(username !== undefined && { username, password: password ?? '' }),
  });
}

async function openKubernetes(
  options: FlannelKubernetes,
  { log, signal, accountDir = serviceAccountDir }: FlannelHome,
): Promise<FlannelSource> {
  const { annotationPrefix, setNetworkUnavailable, netConfigPath: path } = options;
  const config = parseNetworkConfig(readOption('net-config-path', path), path, kubernetesUse);
  using stack = new DisposableStack();
  const client = stack.use(new KubeClient(await kubeConfig(options, accountDir)));
  const nodeName = await untilThere(() => nodeNameOf(options, client), log, signal);
  const { networks } = config;
  const announced = { annotationPrefix, setNetworkUnavailable, readyReason: flannelIsUp };
  const store = new KubeLeaseStore({ client, nodeName, networks, ...announced });
  const configSource = fileConfigSource(path, { use: kubernetesUse });
  const owned = stack.move();
  return { nodeName, store, config, configSource, client, [Symbol.dispose]: () => owned.dispose() };
}

/**
 * The URL wins over the server that a kubeconfig names; with neither, the pod's service account says all. A URL by
 * itself gets the account's token and CA, where there is an account; in the clear no token is sent.
 */
async function kubeConfig(
  { apiUrl: server, kubeconfig }: FlannelKubernetes,
  accountDir: string,
): Promise<KubeConfig> {
  if (server === undefined) return await loadKubeConfig(kubeconfig);
  if (kubeconfig !== undefined) return { ...(await loadKubeConfig(kubeconfig)), server };
  const token = join(accountDir, 'token');
  if (!server.startsWith('https:') || !existsSync(token)) return { server };
  const ca = join(accountDir, 'ca.crt');
  return {
    server,
    // Kubernetes writes another one there before it runs out.
    authorization: async () => `Bearer ${(await readFile(token, 'utf8')).trim()}`,
    ...(existsSync(ca) && { ca: readFileSync(ca, 'utf8') }),
  };
}

async function nodeNameOf({ nodeName, pod }: FlannelKubernetes, client: KubeClient): Promise<string> {
  if (nodeName !== undefined) return nodeName;
  if (pod !== undefined) return await readPodNodeName(client, pod.name, pod.namespace);
  throw new InputError('environment', [
    { path: 'NODE_NAME', message: 'is missing, and so are POD_NAME and POD_NAMESPACE' },
  ]);
}

/** Asks until the store has an answer; each reason to wait is told once. What cannot be used is thrown. */
async function untilThere<T>(ask: () => Promise<T>, log: Log, signal: AbortSignal): Promise<T> {
  for (let told = ''; ; await sleep(configRetryMs, undefined, { signal })) {
    try {
      return await ask();
    } catch (error) {
      signal.throwIfAborted();
      const { message } = error as Error;
      if (error instanceof InputError) throw error;
      if (message !== told) log.warn({ problem: message }, 'waiting for the store');
      told = message;
    }
  }
}

function readOption(flag: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new InputError('options', [{ path: `--${flag}`, message: (error as Error).message }]);
  }
}
