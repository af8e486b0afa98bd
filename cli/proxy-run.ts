import { availableParallelism } from 'node:os';
import type { Logger } from 'pino';
import { CONNTRACK_ACCOUNTING } from '../kernel/conntrack-bytes.ts';
import { SysctlTable } from '../kernel/sysctl.ts';
import { KubeClient } from '../kube/client.ts';
import { loadKubeConfig } from '../kube/config.ts';
import type { Backend } from '../proxy/backend.ts';
import { removeOtherModes } from '../proxy/cleanup.ts';
import {
  detectCidrs,
  type ProxyConfig,
  parseProxyConfiguration,
  type ReadConfiguration,
} from '../proxy/config/config.ts';
import type { FlagTexts } from '../proxy/config/flags.ts';
import { untilFileChanged } from '../proxy/config/watch.ts';
import { writeConntrackSysctls, writeOomScore } from '../proxy/conntrack-sysctls.ts';
import { checkIpvs } from '../proxy/ipvs/check.ts';
import { ipvsSysctls } from '../proxy/ipvs/kernel-settings.ts';
import type { ProxyMetrics } from '../proxy/metrics.ts';
import type { ServiceProxy } from '../proxy/proxy.ts';
import { waitForPodCidrs, watchPodCidrs } from './proxy-node-cidrs.ts';
import { openParts } from './proxy-parts.ts';
import { readProxyRecord, restoreSetting, withSettings, writeProxyRecord } from './proxy-record.ts';

/** What one run of a service proxy goes by, in a process of its own or in the node's agent. */
export interface ProxyRun extends ReadConfiguration {
  readonly nodeName: string;
  /** A configuration file: its path, and its text as it was read. */
  readonly file?: { readonly path: string; readonly text: string } | undefined;
  readonly flags: FlagTexts;
  /** Every flag with its value, for `/flagz`. */
  readonly shownFlags: ReadonlyMap<string, string>;
  readonly resetTcp: boolean;
  /** In nftables only. */
  readonly countConnections?: boolean | undefined;
  readonly countBytes?: boolean | undefined;
  readonly serviceProxyName?: string | undefined;
  /** What a clean-up has to know is kept there. */
  readonly runDir: string;
  readonly log: Logger;
}

export interface ServeOptions {
  /** Not disposed here. Default: one as the configuration says. */
  readonly client?: KubeClient | undefined;
  readonly signal: AbortSignal;
  readonly onStarted?: ((proxy: ServiceProxy) => void) | undefined;
}

const ROUTE_LOCALNET = 'net/ipv4/conf/all/route_localnet';
const IP_FORWARD = 'net/ipv4/ip_forward';

/** Serves until aborted, which leaves the rules. Rejects when it has to be started again. */
export async function serveProxy(
  run: ProxyRun,
  { client: given, signal, onStarted }: ServeOptions,
): Promise<void> {
  const { config } = run;
  const { mode = 'nftables' } = config;
  const fatal = Promise.withResolvers<never>();
  fatal.promise.catch(() => {});
  const stop = new AbortController();
  await using stack = new AsyncDisposableStack();
  stack.defer(() => stop.abort());
  const ends = AbortSignal.any([signal, stop.signal]);
  const client = given ?? stack.use(await openClient(config));
  const nodeCidrs = config.detectsNodeCidrs ? await waitForPodCidrs(client, run, ends) : undefined;
  if (ends.aborted) return;
  if (mode === 'ipvs') await checkIpvs(config.ipvs);
  const policy = nodeCidrs ? { ...config.policy, detectLocal: detectCidrs(nodeCidrs) } : config.policy;
  await recordMode(run, mode);
  if (config.policy.localhostNodePorts && mode !== 'iptables')
    run.log.warn(
      { mode },
      'node ports do not answer on 127.0.0.1 in this mode: use mode iptables for that, or set localhostNodePorts to false',
    );
  const { proxy, metrics } = openParts({ run, client, policy, mode, stack, onFatal: fatal.reject });
  onStarted?.(proxy);
  void proxy.synced.then(() => removeOthers({ mode, metrics }, run, ends)).catch(() => {});
  if (nodeCidrs) watchPodCidrs(proxy, nodeCidrs, ends, fatal.reject);
  await Promise.race([untilAborted(ends), fatal.promise, untilReconfigured(run, ends)]);
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

async function openClient({ clientConnection: { kubeconfig, master } }: ProxyConfig): Promise<KubeClient> {
  if (master !== undefined && kubeconfig === undefined) return new KubeClient({ server: master });
  const access = await loadKubeConfig(kubeconfig);
  return new KubeClient(master === undefined ? access : { ...access, server: master });
}

/** Whose rules there will be, and the settings that go with them. */
async function recordMode(
  { runDir, config, countBytes, log }: ProxyRun,
  mode: Backend['name'],
): Promise<void> {
  try {
    const record = { ...readProxyRecord(runDir), mode };
    const settings = new Map([
      ...(opensLocalhost(mode, config) ? ([[ROUTE_LOCALNET, '1']] as const) : []),
      ...(countBytes ? ([[CONNTRACK_ACCOUNTING, '1']] as const) : []),
      ...(mode === 'ipvs' ? ipvsSysctls(config.ipvs) : []),
    ]);
    // A node that is one forwards, whatever becomes of the proxy.
    settings.delete(IP_FORWARD);
    const before = await new SysctlTable({ keys: [...settings.keys()] }).read();
    const written = new Map([...settings].filter(([key]) => before.has(key)));
    writeProxyRecord(runDir, withSettings(record, written, before));
  } catch (error) {
    log.warn({ runDir, error: (error as Error).message }, 'not on record for a clean-up');
  }
}

/**
 * What needs full privileges: the out-of-memory score, which is not worth a failure, and the settings of connection
 * tracking. Throws KernelError where these cannot be written.
 */
export async function preparePrivileged({ config, runDir, log }: ProxyRun): Promise<void> {
  const { conntrack, oomScoreAdj } = config;
  try {
    writeOomScore(oomScoreAdj);
  } catch (error) {
    log.warn({ oomScoreAdj, error: (error as Error).message }, 'the out-of-memory score stays');
  }
  const cpus = availableParallelism();
  const { written, replaced, warnings } = await writeConntrackSysctls(conntrack, { cpus });
  for (const warning of warnings) log.warn({ warning }, 'conntrack');
  if (written.size === 0) return;
  log.info(Object.fromEntries(written), 'conntrack settings');
  try {
    writeProxyRecord(runDir, withSettings(readProxyRecord(runDir), written, replaced));
  } catch (error) {
    log.warn({ runDir, error: (error as Error).message }, 'not on record for a clean-up');
  }
}

/** Packets are routed to 127.0.0.1, so that node ports answer there. */
function opensLocalhost(mode: Backend['name'], { policy }: ProxyConfig): boolean {
  return mode === 'iptables' && policy.localhostNodePorts;
}

/** When nobody's rules need it any more. */
export async function closeLocalhost(runDir: string, log: Logger): Promise<void> {
  try {
    if (await restoreSetting(runDir, ROUTE_LOCALNET))
      log.info({ setting: ROUTE_LOCALNET }, 'as it was before');
  } catch (error) {
    log.warn({ setting: ROUTE_LOCALNET, error: (error as Error).message }, 'the setting stays');
  }
}

async function removeOthers(
  { mode, metrics }: { readonly mode: Backend['name']; readonly metrics: ProxyMetrics },
  { config, runDir, log }: ProxyRun,
  signal: AbortSignal,
): Promise<void> {
  await removeOtherModes(mode, {
    signal,
    onRemoved: (removed) => log.info({ removed }, 'another mode left this, it is gone'),
    onFailure: ({ message }, isNew) => {
      metrics.cleanupFailed();
      if (isNew) log.warn({ error: message }, 'what another mode left cannot be removed yet, trying again');
    },
  });
  if (!signal.aborted && !opensLocalhost(mode, config)) await closeLocalhost(runDir, log);
}

/** Rejects when the file says something new that can be used. */
async function untilReconfigured({ file, flags, log }: ProxyRun, signal: AbortSignal): Promise<void> {
  if (file === undefined) return await untilAborted(signal);
  const { path, text } = file;
  const isChanged = await untilFileChanged({
    path,
    text,
    validate: (next) => void parseProxyConfiguration(next, { flags, name: path }),
    onInvalid: (error) => log.error({ error: error.message }, 'the new configuration cannot be used'),
    signal,
  });
  if (isChanged) throw new Error(`${path} has changed: this process ends, to be started with it`);
}
