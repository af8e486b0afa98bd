import type { Problem } from '../../core/errors.ts';
import {
  defaultDocument,
  HEALTHZ_PORT,
  type KubeProxyConfiguration,
  METRICS_PORT,
  withPort,
} from './document.ts';
import type { Flag } from './flag-kinds.ts';
import { otherFlags, proxyFlags } from './flag-table.ts';
import { modeOf } from './validate.ts';

/** What was written for each flag that was given, in order; a boolean without a value is "true". */
export type FlagTexts = ReadonlyMap<string, readonly string[]>;

/** Flags that were given and do not count because there is a file. */
export function ignoredBesideFile(flags: FlagTexts): string[] {
  const counts = new Set(['master', ...proxyFlags.filter((flag) => flag.besideFile).map(({ name }) => name)]);
  return [...flags.keys()].filter((name) => !counts.has(name));
}

export interface AppliedFlags {
  readonly document: KubeProxyConfiguration;
  readonly master: string | undefined;
  readonly problems: readonly Problem[];
  readonly warnings: readonly string[];
}

/** The document with what the flags say. Unknown names are problems. */
export function applyFlags(
  before: KubeProxyConfiguration,
  flags: FlagTexts,
  { hasFile }: { readonly hasFile: boolean },
): AppliedFlags {
  const document = structuredClone(before);
  const problems: Problem[] = [];
  const warnings: string[] = [];
  for (const [name, texts] of flags) {
    const flag = proxyFlags.find((known) => known.name === name);
    const known = flag ?? otherFlags.find((other) => other.name === name);
    if (known === undefined) problems.push({ path: `--${name}`, message: 'is not a flag' });
    if (known?.deprecated !== undefined) warnings.push(`--${name} is deprecated: ${known.deprecated}`);
    if (flag === undefined || (hasFile && flag.besideFile !== true)) continue;
    applyOne(document, flag, texts, problems);
  }
  if (!hasFile) {
    applyPorts(document, flags, problems);
    spreadOverModes(document, flags);
  }
  return { document, master: flags.get('master')?.at(-1) || undefined, problems, warnings };
}

function applyOne(
  document: KubeProxyConfiguration,
  { name, apply }: Flag,
  texts: readonly string[],
  problems: Problem[],
): void {
  for (const [index, text] of texts.entries()) {
    try {
      apply(document, text, index === 0);
    } catch (error) {
      problems.push({ path: `--${name}`, message: `${(error as Error).message}: "${text}"` });
    }
  }
}

/** The deprecated ports: zero stops a server, any other is for an address without one. */
function applyPorts(document: KubeProxyConfiguration, flags: FlagTexts, problems: Problem[]): void {
  const servers = [
    ['healthz-port', 'healthzBindAddress', HEALTHZ_PORT],
    ['metrics-port', 'metricsBindAddress', METRICS_PORT],
  ] as const;
  for (const [name, key, usual] of servers) {
    const text = flags.get(name)?.at(-1) ?? String(usual);
    const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN;
    if (Number.isNaN(port)) problems.push({ path: `--${name}`, message: `is not a port: "${text}"` });
    else document[key] = port === 0 ? '' : withPort(document[key], port);
  }
}

/** Some flags are named after iptables and count in nftables mode as well; a file has a section for each. */
function spreadOverModes(document: KubeProxyConfiguration, flags: FlagTexts): void {
  if (modeOf(document) !== 'nftables') return;
  const { iptables: from, nftables: to } = document;
  if (flags.has('masquerade-all')) to.masqueradeAll = from.masqueradeAll;
  if (flags.has('iptables-sync-period')) to.syncPeriod = from.syncPeriod;
  if (flags.has('iptables-min-sync-period')) to.minSyncPeriod = from.minSyncPeriod;
}

/** Every flag's value, for `/flagz`. */
export function flagValues(document: KubeProxyConfiguration, given: FlagTexts): Map<string, string> {
  const values = new Map(proxyFlags.map(({ name, show }) => [name, show(document)]));
  for (const { name } of otherFlags) values.set(name, given.get(name)?.at(-1) ?? '');
  return new Map([...values].toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

/** A flag's default as `--help` shows it. */
export function flagDefaults(): Map<string, string> {
  return flagValues(defaultDocument(), new Map());
}
