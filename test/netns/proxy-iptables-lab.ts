import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { inNamespace } from '../../cli/cluster/workload-client.ts';
import type { Variant } from '../../proxy/iptables/program.ts';

const run = promisify(execFile);

/** Runs a program in a named namespace; its output. */
export async function runIn(namespace: string, program: string, ...args: readonly string[]): Promise<string> {
  const [command, all] = inNamespace(namespace, [program, ...args]);
  return (await run(command, all)).stdout;
}

/** Why this kind of iptables cannot be tested here; undefined: it can. */
export async function missingIptables(namespace: string, variant: Variant): Promise<string | undefined> {
  for (const program of [`iptables-${variant}`, `ip6tables-${variant}`]) {
    try {
      await runIn(namespace, `/usr/sbin/${program}`, '-t', 'nat', '-S');
    } catch (error) {
      return `${program} does not work on this kernel: ${(error as Error).message}`;
    }
  }
  return undefined;
}
