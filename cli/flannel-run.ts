import { execFile } from 'node:child_process';
import { hostname } from 'node:os';
import { type Logger, pino } from 'pino';
import { InputError } from '../core/errors.ts';
import { startDaemon } from '../daemon/daemon.ts';
import { type FlannelOptions, parseFlannelFlags } from '../daemon/flannel-flags.ts';
import { openFlannelSource } from '../daemon/flannel-source.ts';
import { daemonPlaces } from './node-places.ts';
import { serveStatus, statusSockets } from './node-status.ts';
import { settle } from './settle.ts';
import { untilStopped } from './signals.ts';
import { DEFAULT_RUN_DIR } from './status.ts';
import { VERSION } from './version.ts';

/** One run with flanneld's command line (without the program's name), to its end. Throws InputError. */
export async function runFlannel(words: readonly string[]): Promise<void> {
  const options = parseFlannelFlags(words, process.env);
  if (options.version) {
    process.stdout.write(`${VERSION}\n`);
    return;
  }
  const log = pino({ level: flannelLogLevel(options.verbosity), base: {} });
  for (const warning of options.warnings) log.warn({ warning }, 'options');
  const stop = new AbortController();
  const stopped = untilStopped();
  void stopped.then((signal) => stop.abort(new Error(`stopped by ${signal}`)));
  try {
    await serve(options, log, stop.signal);
  } catch (error) {
    if (!stop.signal.aborted) throw error;
  }
  log.info({ signal: await stopped }, 'stopped; the data plane stays');
}

async function serve(options: FlannelOptions, log: Logger, signal: AbortSignal): Promise<void> {
  const startedAt = new Date().toISOString();
  const runDir = process.env.FAIRLEAD_RUN_DIR || DEFAULT_RUN_DIR;
  await using stack = new AsyncDisposableStack();
  const isEtcd = options.store.kind === 'etcd'; // else Kubernetes knows the node's name
  const home = { hostname: isEtcd ? ownName(process.env.NODE_NAME || hostname()) : '', log, signal };
  const source = stack.use(await openFlannelSource(options, home));
  const { nodeName: name, store, config, configSource } = source;
  if (config.ignored.length > 0) log.warn({ keys: config.ignored }, 'keys of the network without effect');
  const { underlay, subnetFile, masquerade, nonMasqueradeCidrs } = options;
  const { randomPorts, forwardRules, blackholeRoute } = options;
  const daemon = stack.use(
    await startDaemon({
      ...{ nodeName: name, store, config, configSource },
      ...{ underlay, subnetFile, masquerade, nonMasqueradeCidrs },
      ...{ randomPorts, forwardRules, blackholeRoute },
      ...daemonPlaces(runDir),
      log,
      signal,
    }),
  );
  const { pid } = process;
  const status = () => ({ name, pid, ready: daemon.status().ready, startedAt, daemon: daemon.status() });
  stack.use(await serveStatus(`${runDir}/${statusSockets.node}`, status));
  if (options.health !== undefined) {
    const { serveHealth } = await import('./node-health.ts');
    const { ip: host, port } = options.health;
    stack.use(serveHealth(daemon, { host, port }, log));
  }
  await daemon.ready;
  notifySystemd(log);
  void settle({ ready: daemon.ready, signal, log });
  await new Promise((resolve) => signal.addEventListener('abort', resolve));
}

/** Tunnels' ends have their MAC addresses by the node's name, so two nodes must not have the same. */
export function ownName(name: string): string {
  const own = name.trim().toLowerCase();
  if (!/^localhost(\.|$)/.test(own)) return own;
  throw new InputError('environment', [
    { path: 'NODE_NAME', message: `is missing, and the host's name ${own} is not this node's alone` },
  ]);
}

/** klog's 0 is what flanneld runs with; its debugging begins above 2. */
export function flannelLogLevel(verbosity: number): string {
  if (verbosity >= 6) return 'trace';
  return verbosity >= 3 ? 'debug' : 'info';
}

/** Units of flanneld's are of the type "notify": without the word systemd would end us. */
function notifySystemd(log: Logger): void {
  if (!process.env.NOTIFY_SOCKET) return;
  execFile('systemd-notify', ['--ready'], (error) => {
    if (error !== null) log.warn({ error: error.message }, 'systemd was not told that the node is ready');
  });
}
