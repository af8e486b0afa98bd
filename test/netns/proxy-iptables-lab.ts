import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { inNamespace } from '../../cli/cluster/workload-client.ts';

const run = promisify(execFile);

/** Runs a program in a named namespace; its output. */
export async function runIn(namespace: string, program: string, ...args: readonly string[]): Promise<string> {
  const [command, all] = inNamespace(namespace, [program, ...args]);
  return (await run(command, all)).stdout;
}
