import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** One plugin of a chain. */
export interface ChainLink {
  /** File with the configuration, an object of JSON. */
  readonly input: string;
  readonly program: string;
}

/** One run of a chain of plugins, as a runtime does it. */
export interface Job {
  /** Path of the network namespace that the plugins run in: a node's. */
  readonly namespace: string;
  /** In order; each but the first gets the result of the one before. */
  readonly chain: readonly ChainLink[];
  readonly env: Readonly<Record<string, string>>;
}

export interface Outcome {
  /** From before the first process was made until the last had ended. */
  readonly durationMs: number;
  readonly exitCode: number;
}

/** Compiles runner.c into the directory. */
export function buildRunner(directory: string): string {
  const program = join(directory, 'cnirun');
  const source = fileURLToPath(new URL('./runner.c', import.meta.url));
  execFileSync('cc', ['-O2', '-pthread', '-o', program, source]);
  return program;
}

/** Runs the jobs in order, `threads` at a time. */
export async function runJobs(runner: string, jobs: readonly Job[], threads = 1): Promise<Outcome[]> {
  const child = spawn(runner, [String(threads)], { stdio: ['pipe', 'pipe', 'inherit'] });
  const closed = once(child, 'close');
  child.stdin.end(jobs.map(lineOf).join(''));
  const chunks: Buffer[] = [];
  for await (const chunk of child.stdout) chunks.push(chunk);
  const [exitCode] = await closed;
  if (exitCode !== 0) throw new Error(`${runner}: exit code ${exitCode}`);
  return Buffer.concat(chunks).toString().trim().split('\n').map(parseOutcome);
}

function lineOf({ namespace, chain, env }: Job): string {
  const links = chain.flatMap(({ input, program }) => [input, program]);
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  return `${[namespace, chain.length, ...links, ...variables].join('\t')}\n`;
}

function parseOutcome(line: string): Outcome {
  const [nanoseconds = '', exitCode = ''] = line.split(' ');
  return { durationMs: Number(nanoseconds) / 1e6, exitCode: Number(exitCode) };
}
