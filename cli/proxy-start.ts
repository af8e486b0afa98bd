import { readFileSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { type Logger, pino } from 'pino';
import { stringify } from 'yaml';
import { InputError } from '../core/errors.ts';
import { removeAllModes } from '../proxy/cleanup.ts';
import { type ProxyConfig, parseProxyConfiguration, type ReadConfiguration } from '../proxy/config/config.ts';
import { writeDocument } from '../proxy/config/document.ts';
import { type FlagTexts, flagValues } from '../proxy/config/flags.ts';
import type { ServiceProxy } from '../proxy/proxy.ts';
import { serveStatus, statusSockets } from './node-status.ts';
import type { ProxyCommandOptions } from './proxy.ts';
import { readProxyRecord, writeProxyRecord } from './proxy-record.ts';
import { closeLocalhost, type ProxyRun, preparePrivileged, serveProxy } from './proxy-run.ts';
import { proxyReport } from './proxy-status.ts';
import { untilStopped } from './signals.ts';
import { tracePages } from './status-pages.ts';

/** One run of `fairlead proxy`, to its end. */
export async function startProxyCommand(options: ProxyCommandOptions, flags: FlagTexts): Promise<void> {
  const { read, file } = readConfiguration(options.config, flags, '--config');
  if (options.writeConfigTo !== undefined) {
    writeFileSync(options.writeConfigTo, stringify(writeDocument(read.document)));
    return;
  }
  const nodeName = nodeNameOf(read.config);
  const log = pino({ level: levelOf(read.config.verbosity), base: { node: nodeName, part: 'proxy' } });
  for (const warning of read.warnings) log.warn({ warning }, 'configuration');
  if (options.cleanup) {
    log.info({ removed: await removeAllModes() }, 'cleaned up');
    await closeLocalhost(options.runDir, log);
    forgetMode(options.runDir, log);
    return;
  }
  const { runDir, resetTcp, countConnections, countBytes, serviceProxyName } = options;
  const shown = shownFlags(read, options, flags);
  const run = {
    ...read,
    nodeName,
    file,
    flags,
    shownFlags: shown,
    resetTcp,
    countConnections,
    countBytes,
    serviceProxyName,
    runDir,
    log,
  };
  await preparePrivileged(run);
  if (!options.initOnly) await runProxy(run);
}

/** Serves until stopped by a signal, which leaves the rules. Rejects when it has to be started again. */
async function runProxy(run: ProxyRun): Promise<void> {
  const { nodeName, runDir, log } = run;
  const stop = new AbortController();
  void untilStopped().then((signal) => {
    stop.abort(new Error(`stopped by ${signal}`));
    log.info({ signal }, 'stopping; the rules stay');
  });
  let proxy: ServiceProxy | undefined;
  const startedAt = new Date().toISOString();
  await using stack = new AsyncDisposableStack();
  try {
    const status = () => ({
      name: nodeName,
      pid: process.pid,
      ready: proxy?.status().synced === true,
      startedAt,
      proxy: proxyReport(proxy),
    });
    const pages = tracePages(() => proxy);
    stack.use(await serveStatus(`${runDir}/${statusSockets.proxy}`, status, pages));
  } catch (error) {
    log.warn({ runDir, error: (error as Error).message }, 'no status is served');
  }
  await serveProxy(run, {
    signal: stop.signal,
    onStarted(started) {
      proxy = started;
    },
  });
}

/** Rules of whatever mode there are from now on are not ours. */
function forgetMode(runDir: string, log: Logger): void {
  const { mode, sysctls } = readProxyRecord(runDir);
  if (mode === undefined) return;
  try {
    writeProxyRecord(runDir, { sysctls });
  } catch (error) {
    log.warn({ runDir, error: (error as Error).message }, 'the record of the mode stays');
  }
}

/** A file, if there is one, and flags. `option` is what named the file. Throws InputError. */
export function readConfiguration(
  path: string | undefined,
  flags: FlagTexts,
  option: string,
): { readonly read: ReadConfiguration; readonly file: ProxyRun['file'] } {
  if (path === undefined) return { read: parseProxyConfiguration(undefined, { flags }), file: undefined };
  const text = readConfigFile(path, option);
  return { read: parseProxyConfiguration(text, { flags, name: path }), file: { path, text } };
}

/** As it is, to be compared with what it says later. */
function readConfigFile(path: string, option: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new InputError('options', [{ path: option, message: (error as Error).message }]);
  }
}

function nodeNameOf({ hostnameOverride }: ProxyConfig): string {
  return hostnameOverride ?? hostname().trim().toLowerCase();
}

/** klog's 2 is what most clusters run with, and no debugging. */
function levelOf(verbosity: number): string {
  if (verbosity >= 6) return 'trace';
  return verbosity >= 4 ? 'debug' : 'info';
}

/** Every flag with its value. */
function shownFlags(
  { document }: ReadConfiguration,
  options: ProxyCommandOptions,
  flags: FlagTexts,
): Map<string, string> {
  const own = Object.entries({
    config: options.config ?? '',
    cleanup: String(options.cleanup),
    'count-bytes': String(options.countBytes),
    'count-connections': String(options.countConnections),
    'init-only': String(options.initOnly),
    'reset-tcp': String(options.resetTcp),
    'run-dir': options.runDir,
    'service-proxy-name': options.serviceProxyName ?? '',
    'write-config-to': '',
  });
  return new Map([...flagValues(document, flags), ...own].toSorted(([a], [b]) => (a < b ? -1 : 1)));
}
