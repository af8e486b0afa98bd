import { writeFileSync } from 'node:fs';
import { reconcile } from '../core/reconcile.ts';
import { layer } from '../core/rows.ts';
import { openConntrackSocket, readFlows } from '../kernel/conntrack.ts';
import { SysctlTable } from '../kernel/sysctl.ts';
import type { ConntrackSettings } from './config/config.ts';

/*
 * How many connections the kernel remembers, and for how long (kube-proxy's conntrack/sysctls.go). What a process
 * needs full privileges for is here: `--init-only` does it and ends, and the proxy can run with less.
 */

const PREFIX = 'net/netfilter/nf_conntrack';
/** However many processors there are; `min` may ask for more. */
const MAX_OF_CORES = 1_048_576;
/** One list of the hash table for so many connections. */
const FLOWS_PER_BUCKET = 4;

/** No connection has it. */
const IPPROTO_RAW = 255;

/** Keys of all parameters that a plan can have. */
export const conntrackSysctls = {
  max: `${PREFIX}_max`,
  buckets: `${PREFIX}_buckets`,
  tcpEstablished: `${PREFIX}_tcp_timeout_established`,
  tcpCloseWait: `${PREFIX}_tcp_timeout_close_wait`,
  tcpBeLiberal: `${PREFIX}_tcp_be_liberal`,
  udp: `${PREFIX}_udp_timeout`,
  udpStream: `${PREFIX}_udp_timeout_stream`,
} as const;

/**
 * Values by key, for a machine with so many processors and a hash table of so many lists now (undefined: unknown).
 * What a setting of zero leaves as it is has no key.
 */
export function planConntrackSysctls(
  settings: ConntrackSettings,
  { cpus, buckets }: { readonly cpus: number; readonly buckets?: number | undefined },
): Map<string, string> {
  const wanted = new Map<string, string>();
  const max = conntrackMax(settings, cpus);
  const set = (key: string, value: number) => value > 0 && wanted.set(key, String(Math.round(value)));
  set(conntrackSysctls.max, max);
  const bucketsWanted = Math.ceil(max / FLOWS_PER_BUCKET);
  if (buckets !== undefined && buckets < bucketsWanted) set(conntrackSysctls.buckets, bucketsWanted);
  // The kernel counts seconds; half a second asked for is not "as it is".
  const seconds = (key: string, ms: number) => set(key, ms > 0 ? Math.max(1, ms / 1000) : 0);
  seconds(conntrackSysctls.tcpEstablished, settings.tcpEstablishedTimeoutMs);
  seconds(conntrackSysctls.tcpCloseWait, settings.tcpCloseWaitTimeoutMs);
  set(conntrackSysctls.tcpBeLiberal, settings.tcpBeLiberal ? 1 : 0);
  seconds(conntrackSysctls.udp, settings.udpTimeoutMs);
  seconds(conntrackSysctls.udpStream, settings.udpStreamTimeoutMs);
  return wanted;
}

/** Zero: as it is. */
function conntrackMax({ maxPerCore, min }: ConntrackSettings, cpus: number): number {
  return maxPerCore > 0 ? Math.max(min, Math.min(maxPerCore * cpus, MAX_OF_CORES)) : 0;
}

/** What was written, and what could not be although the proxy works without. */
export interface ConntrackSysctlsResult {
  readonly written: ReadonlyMap<string, string>;
  /** What was there before, of the same keys. */
  readonly replaced: ReadonlyMap<string, string>;
  readonly warnings: readonly string[];
}

/**
 * Sets what is not as wanted. Throws KernelError, except for the size of the hash table, which only the machine's
 * first namespace may set: too few lists make the kernel slower, not wrong.
 */
export async function writeConntrackSysctls(
  settings: ConntrackSettings,
  { cpus, namespaceFd }: { readonly cpus: number; readonly namespaceFd?: number | undefined },
): Promise<ConntrackSysctlsResult> {
  const open = (keys: readonly string[]) =>
    new SysctlTable({ keys, ...(namespaceFd !== undefined && { namespaceFd }) });
  const table = open(Object.values(conntrackSysctls));
  let actual = await table.read();
  if (!actual.has(conntrackSysctls.max)) {
    await loadConntrack(namespaceFd);
    actual = await table.read();
  }
  const text = actual.get(conntrackSysctls.buckets);
  const wanted = planConntrackSysctls(settings, {
    cpus,
    buckets: text === undefined ? undefined : Number(text),
  });
  const written = new Map([...wanted].filter(([key, value]) => actual.get(key) !== value));
  const { failures } = await reconcile([layer(open([...wanted.keys()]), wanted)]);
  const warnings: string[] = [];
  for (const { key, error } of failures) {
    if (key !== conntrackSysctls.buckets) throw error;
    written.delete(key);
    warnings.push(`${key} is too small and cannot be raised: ${error.message}`);
  }
  const replaced = new Map([...actual].filter(([key]) => written.has(key)));
  return { written, replaced, warnings };
}

/** Parameters appear with the kernel's module, and a question about connections loads it. */
async function loadConntrack(namespaceFd: number | undefined): Promise<void> {
  using socket = openConntrackSocket({ namespaceFd });
  await readFlows(socket, [{ family: 4, protocol: IPPROTO_RAW }]).catch(() => undefined);
}

/** How late the kernel's out-of-memory killer picks this process. Throws where it may not be set (proc(5)). */
export function writeOomScore(score: number): void {
  writeFileSync('/proc/self/oom_score_adj', String(score));
}
