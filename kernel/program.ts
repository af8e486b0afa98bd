import { spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import type { Descriptor } from '../native/index.ts';

const OUTPUT_CHARS_MAX = 512 << 20;
const ERROR_CHARS_MAX = 64 << 10;
/** What nsenter(1) and env(1) end with when there is no such program. */
const NOT_FOUND_STATUS = '127';

export interface ProgramOptions {
  /** What it reads; nothing by default. */
  readonly input?: string | undefined;
  readonly timeoutMs: number;
  /** Words before the program's own that lead it somewhere else; see {@link enterWords}. */
  readonly enter?: readonly string[] | undefined;
}

/** What became of a program. */
export interface ProgramEnd {
  /** The exit status, the name of a signal (SIGKILL: not in time), or that of the error that kept it from starting. */
  readonly code: string;
  readonly stdout: string;
  readonly stderr: string;
}

/** Programs of the host run in the network namespace of the process, unless they are led into another. */
export function enterWords(namespaceFd: Descriptor | undefined): string[] {
  return namespaceFd === undefined ? [] : ['nsenter', `--net=/proc/${process.pid}/fd/${namespaceFd}`, '--'];
}

/**
 * Runs a program of the host, such as those of iptables, where the kernel's own interface is not for us to write. It is
 * started directly: no shell reads what is given to it. One that cannot be started is an end, too.
 */
export async function runProgram(
  words: readonly string[],
  { input = '', timeoutMs, enter = [] }: ProgramOptions,
): Promise<ProgramEnd> {
  const [program = '', ...args] = [...enter, ...words];
  const { promise, resolve } = Promise.withResolvers<string>();
  // Where such programs are, whatever the caller's path; what they say is read in one language.
  const env = { PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin:/usr/bin:/bin`, LC_ALL: 'C' };
  const child = spawn(program, args, { stdio: 'pipe', env, timeout: timeoutMs, killSignal: 'SIGKILL' });
  child.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
  child.on('close', (status, signal) => resolve(signal ?? `${status}`));
  // A program that ended early says why itself.
  child.stdin.on('error', () => undefined).end(input);
  const [stdout, stderr] = [collect(child.stdout, OUTPUT_CHARS_MAX), collect(child.stderr, ERROR_CHARS_MAX)];
  const code = await promise;
  return { code, stdout: stdout(), stderr: stderr() };
}

/** Whether there is no such program, here or where it was led to. */
export function isNotFound({ code }: Pick<ProgramEnd, 'code'>): boolean {
  return code === 'ENOENT' || code === NOT_FOUND_STATUS;
}

/** Reads to the end, and keeps the beginning. */
function collect(stream: Readable, charsMax: number): () => string {
  const parts: string[] = [];
  let length = 0;
  stream.setEncoding('utf8').on('data', (part: string) => {
    if (length < charsMax) parts.push(part);
    length += part.length;
  });
  return () => parts.join('');
}
