import { readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, hostname } from 'node:os';
import { type Logger, pino } from 'pino';
import { stringify } from 'yaml';
import { InputError } from '../core/errors.ts';
import { removeAllModes } from '../proxy/cleanup.ts';
import { type ProxyConfig, parseProxyConfiguration, type ReadConfiguration } from '../proxy/config/config.ts';
import { writeDocument } from '../proxy/config/document.ts';
import { type FlagTexts, flagValues } from '../proxy/config/flags.ts';
import { writeConntrackSysctls, writeOomScore } from '../proxy/conntrack-sysctls.ts';
import type { ProxyCommandOptions } from './proxy.ts';

/** What one run goes by. */
export interface ProxyRun extends ReadConfiguration {
  readonly nodeName: string;
  readonly options: ProxyCommandOptions;
  readonly flags: FlagTexts;
  /** Every flag with its value, for `/flagz`. */
  readonly shownFlags: ReadonlyMap<string, string>;
  /** The configuration file as it was read; undefined: there is none. */
  readonly text: string | undefined;
  readonly log: Logger;
}

/** One run of `fairlead proxy`, to its end. */
export async function startProxyCommand(options: ProxyCommandOptions, flags: FlagTexts): Promise<void> {
  const text = options.config === undefined ? undefined : readConfigFile(options.config);
  const read = parseProxyConfiguration(text, { flags, ...(options.config && { name: options.config }) });
  if (options.writeConfigTo !== undefined) {
    writeFileSync(options.writeConfigTo, stringify(writeDocument(read.document)));
    return;
  }
  const nodeName = nodeNameOf(read.config);
  const log = pino({ level: levelOf(read.config.verbosity), base: { node: nodeName, part: 'proxy' } });
  for (const warning of read.warnings) log.warn({ warning }, 'configuration');
  if (options.cleanup) {
    log.info({ removed: await removeAllModes() }, 'cleaned up');
    return;
  }
  await preparePrivileged(read.config, log);
  if (options.initOnly) return;
  const { runProxy } = await import('./proxy-run.ts');
  await runProxy({
    ...read,
    nodeName,
    options,
    flags,
    shownFlags: shownFlags(read, options, flags),
    text,
    log,
  });
}

/** As it is, to be compared with what it says later. */
function readConfigFile(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new InputError('options', [{ path: '--config', message: (error as Error).message }]);
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

/** Fails where the kernel's parameters cannot be set, as kube-proxy does; the score is not worth that. */
async function preparePrivileged({ conntrack, oomScoreAdj }: ProxyConfig, log: Logger): Promise<void> {
  try {
    writeOomScore(oomScoreAdj);
  } catch (error) {
    log.warn({ oomScoreAdj, error: (error as Error).message }, 'the out-of-memory score stays');
  }
  const { written, warnings } = await writeConntrackSysctls(conntrack, { cpus: availableParallelism() });
  for (const warning of warnings) log.warn({ warning }, 'conntrack');
  if (written.size > 0) log.info(Object.fromEntries(written), 'conntrack settings');
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
    'init-only': String(options.initOnly),
    'reset-tcp': String(options.resetTcp),
    'service-proxy-name': options.serviceProxyName ?? '',
    'write-config-to': '',
  });
  return new Map([...flagValues(document, flags), ...own].toSorted(([a], [b]) => (a < b ? -1 : 1)));
}
