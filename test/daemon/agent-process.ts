/**
 * A node agent as a process of its own, for tests that start it inside a network namespace and kill it. Its
 * argument is JSON. It writes one line of JSON for each line of its log, and its status for each line it reads;
 * told "clock 60", it believes that it is a minute later.
 */
import readline from 'node:readline';
import { parseCidr } from '../../core/address.ts';
import { parseNetworkConfig } from '../../daemon/config.ts';
import { fileConfigSource } from '../../daemon/config-source.ts';
import { startDaemon } from '../../daemon/daemon.ts';
import { EtcdClient } from '../../daemon/etcd.ts';
import { EtcdLeaseStore } from '../../daemon/store-etcd.ts';
import { KubeLeaseStore } from '../../daemon/store-kube.ts';
import { KubeClient } from '../../kube/client.ts';

export interface AgentArguments {
  readonly nodeName: string;
  readonly endpoint: string;
  readonly config: string;
  readonly directory: string;
  /** What outlives a reboot; by default with the rest. */
  readonly keptDirectory?: string;
  readonly ttlSeconds?: number;
  readonly blackholeRoute?: boolean;
  readonly nonMasqueradeCidrs?: readonly string[];
  /** Leases are Nodes of this API server, not keys of etcd. */
  readonly api?: { readonly server: string; readonly token: string };
  /** A file whose changes are followed; it begins as `config`. */
  readonly configFile?: string;
}

const {
  nodeName,
  endpoint,
  config: text,
  directory,
  keptDirectory,
  ttlSeconds,
  configFile,
  blackholeRoute,
  nonMasqueradeCidrs = [],
  api,
} = JSON.parse(process.argv[2] ?? '') as AgentArguments;
const write = (line: object) => process.stdout.write(`${JSON.stringify(line)}\n`);
const logged = (level: string) => (fields: object, message: string) =>
  write({ level, message, atMs: Math.round(performance.now()), ...fields });
const stop = new AbortController();
process.once('SIGTERM', () => stop.abort(new Error('SIGTERM')));

/** The clock on the wall jumps by so much, for this process alone. */
function setClock(jumpSeconds: number): void {
  const now = Date.now;
  Date.now = () => now() + jumpSeconds * 1000;
}

const config = parseNetworkConfig(text, undefined, api && { givesSubnets: false });
using client = new EtcdClient({ endpoints: [endpoint] });
using kube = new KubeClient(api ?? { server: 'http://127.0.0.1:1' });
const { networks } = config;
const store = api
  ? new KubeLeaseStore({ client: kube, nodeName, networks, registerNode: true })
  : new EtcdLeaseStore({ client, networks, ...(ttlSeconds ? { ttlSeconds } : {}) });
{
  await using daemon = await startDaemon({
    nodeName,
    store,
    config,
    configSource: configFile === undefined ? undefined : fileConfigSource(configFile, { pollMs: 50 }),
    cni: { socketPath: `${directory}/cni.sock`, stateDir: `${directory}/state` },
    keptDir: keptDirectory,
    subnetFile: `${directory}/subnet.env`,
    blackholeRoute,
    nonMasqueradeCidrs: nonMasqueradeCidrs.flatMap((text) => parseCidr(text) ?? []),
    log: { info: logged('info'), warn: logged('warn'), error: logged('error') },
    signal: stop.signal,
    // What others break is found by what the kernel tells, however long tests wait for it.
    timing: { resyncMs: 600_000, retryMs: 50, retryMostMs: 500 },
  });
  const commands = readline.createInterface({ input: process.stdin });
  commands.on('line', (line) => {
    const [, jumpSeconds] = /^clock (\S+)$/.exec(line) ?? [];
    if (jumpSeconds === undefined) write({ status: daemon.status() });
    else setClock(Number(jumpSeconds));
  });
  commands.on('close', () => stop.abort(new Error('stdin ended')));
  await new Promise((resolve) => stop.signal.addEventListener('abort', resolve));
  commands.close();
}
process.exit();
