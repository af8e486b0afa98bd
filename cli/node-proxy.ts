import type { Logger } from 'pino';
import { type Cidr, families } from '../core/address.ts';
import type { NetworkConfig } from '../daemon/config.ts';
import { Backoff } from '../kube/backoff.ts';
import type { KubeClient } from '../kube/client.ts';
import type { ReadConfiguration } from '../proxy/config/config.ts';
import { flagValues } from '../proxy/config/flags.ts';
import type { ServiceProxy } from '../proxy/proxy.ts';
import { type ProxyRun, preparePrivileged, serveProxy } from './proxy-run.ts';
import { readConfiguration } from './proxy-start.ts';
import { type ProxyReport, proxyReport } from './proxy-status.ts';

const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 30_000;

export interface NodeProxyOptions {
  readonly nodeName: string;
  readonly runDir: string;
  /** A KubeProxyConfiguration; its access to the API does not count. */
  readonly proxyConfig?: string | undefined;
  /** Without a file. */
  readonly proxyMode: string;
  readonly resetTcp: boolean;
  readonly countConnections: boolean;
  readonly countBytes: boolean;
  readonly networks: NetworkConfig['networks'];
  readonly client: KubeClient;
  readonly log: Logger;
}

/**
 * The service proxy in the node's agent: as `fairlead proxy`, except that what ends that process (a new configuration,
 * a port in use) starts it here anew, and the agent goes on.
 */
export class NodeProxy implements AsyncDisposable {
  readonly #options: NodeProxyOptions;
  readonly #stop = new AbortController();
  readonly #ended: Promise<void>;
  readonly #synced = Promise.withResolvers<void>();
  #proxy: ServiceProxy | undefined;
  #error: Error | undefined;

  /** Throws InputError where the configuration cannot be used. */
  constructor(options: NodeProxyOptions) {
    this.#options = options;
    this.#ended = this.#run(readRun(options));
  }

  /** Fulfilled when it has been so for the first time. */
  get synced(): Promise<void> {
    return this.#synced.promise;
  }

  get isSynced(): boolean {
    return this.#proxy?.status().synced === true;
  }

  /** Undefined while it begins anew. */
  get running(): ServiceProxy | undefined {
    return this.#proxy;
  }

  report(): ProxyReport {
    return proxyReport(this.#proxy, this.#error);
  }

  async #run(first: ProxyRun): Promise<void> {
    const { signal } = this.#stop;
    const { log } = this.#options;
    const backoff = new Backoff(FIRST_RETRY_MS, LONGEST_RETRY_MS);
    for (let run: ProxyRun | undefined = first; !signal.aborted; run = undefined) {
      try {
        await this.#serve(run ?? readRun(this.#options), () => {
          backoff.reset();
          this.#synced.resolve();
        });
      } catch (error) {
        this.#error = error as Error;
        log.warn({ reason: this.#error.message }, 'the service proxy begins anew');
      }
      await backoff.wait(signal).catch(() => {});
    }
  }

  async #serve(run: ProxyRun, onSynced: () => void): Promise<void> {
    const { client, log } = this.#options;
    for (const warning of run.warnings) log.warn({ warning }, 'configuration');
    await preparePrivileged(run).catch((error: Error) => {
      log.warn({ error: error.message }, 'settings of connection tracking stay as they are');
    });
    const onStarted = (proxy: ServiceProxy) => {
      this.#proxy = proxy;
      this.#error = undefined;
      void proxy.synced.then(onSynced).catch(() => {});
    };
    try {
      await serveProxy(run, { client, signal: this.#stop.signal, onStarted });
    } finally {
      this.#proxy = undefined;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#ended;
  }
}

function readRun(options: NodeProxyOptions): ProxyRun {
  const { nodeName, runDir, proxyConfig, proxyMode, networks, log } = options;
  const { resetTcp, countConnections, countBytes } = options;
  const flags = new Map(proxyConfig === undefined ? [['proxy-mode', [proxyMode]]] : []);
  const { read, file } = readConfiguration(proxyConfig, flags, '--proxy-config');
  const shownFlags = flagValues(read.document, flags);
  const config = withNetworks(read.config, networks);
  const counts = { countConnections, countBytes };
  return { ...read, config, nodeName, file, flags, shownFlags, resetTcp, ...counts, runDir, log };
}

/** The agent knows where pods have their addresses, unless the configuration tells them in another way. */
function withNetworks(
  config: ReadConfiguration['config'],
  networks: NetworkConfig['networks'],
): ReadConfiguration['config'] {
  const { policy, detectsNodeCidrs } = config;
  if (policy.detectLocal.mode !== 'none' || detectsNodeCidrs) return config;
  const cidrs: readonly Cidr[] = families.flatMap((family) => networks[family]?.network ?? []);
  return { ...config, policy: { ...policy, detectLocal: { mode: 'cidrs', cidrs } } };
}
