import { execFile } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { CniError, cniCode } from './error.ts';
import { foldKeys, isObject } from './fields.ts';
import { type IpamResult, parseIpamResult } from './ipam-result.ts';
import { parsePrinted } from './prev-result.ts';
import type { Environment } from './request.ts';
import type { Result } from './result.ts';
import type { CniVersion } from './version.ts';

/** A plugin that has not ended by then is killed. A DHCP server may take a while. */
export const foreignTimeoutMs = 30_000;
/** Of the DEL after an ADD that failed, which the caller waits for too. */
export const foreignCleanupTimeoutMs = 10_000;
const stdoutBytesMax = 1 << 20;
/** A plugin that is being written right now (text file busy) is tried again. */
const busyAttemptsMax = 5;
const busyDelayMs = 200;

export type ForeignVerb = 'ADD' | 'DEL' | 'CHECK' | 'GC' | 'STATUS';

/** A call of the plugin that is to be passed on. */
export interface ForeignCall {
  /** `ipam.type`: the name of the program. */
  readonly type: string;
  /** As it came from the runtime; all of it is passed on. */
  readonly env: Environment;
  /** The complete configuration, as it came. */
  readonly configText: string;
  readonly timeoutMs?: number;
  /** Words before the program's own: `enterWords` of kernel/program.ts. */
  readonly enter?: readonly string[] | undefined;
  /** What the program says on standard error, if anything. */
  readonly onLog?: (text: string) => void;
}

/** Addresses from a foreign IPAM plugin. See {@link addForeign}. */
export function addForeignIpam(call: ForeignCall): Promise<IpamResult> {
  return addForeign(call, parseIpamResult);
}

/** An interface from a foreign plugin, whose result is of the shape of the version. See {@link addForeign}. */
export function addForeignInterface(call: ForeignCall, version: CniVersion): Promise<Result> {
  return addForeign(call, (text) => parsePrinted(text, version));
}

/**
 * What a foreign plugin gives. If it fails, or its result cannot be used, it is told to take back what it may have
 * given. Throws CniError: the plugin's own, if it printed one.
 */
async function addForeign<T>(call: ForeignCall, parse: (text: string) => T | CniError): Promise<T> {
  const path = await findPlugin(call.type, call.env.get('CNI_PATH') ?? '');
  try {
    const result = parse(await run(path, 'ADD', call));
    if (result instanceof CniError) throw result;
    return result;
  } catch (error) {
    await takeBack(path, call);
    throw error;
  }
}

/** Every verb that has no result; also the DEL after an ADD that failed later. Throws CniError. */
export async function callForeign(verb: Exclude<ForeignVerb, 'ADD'>, call: ForeignCall): Promise<void> {
  await run(await findPlugin(call.type, call.env.get('CNI_PATH') ?? ''), verb, call);
}

/** The error of the ADD is the one to be told. */
async function takeBack(path: string, call: ForeignCall): Promise<void> {
  const timeoutMs = Math.min(call.timeoutMs ?? foreignTimeoutMs, foreignCleanupTimeoutMs);
  try {
    await run(path, 'DEL', { ...call, timeoutMs });
  } catch (error) {
    call.onLog?.(`${call.type}: DEL after a failed ADD: ${(error as Error).message}`);
  }
}

/** The first regular file of that name in the folders of CNI_PATH, as runtimes look for plugins. Throws CniError. */
export async function findPlugin(type: string, cniPath: string): Promise<string> {
  const refuse = (message: string) => new CniError(cniCode.invalidConfig, message);
  if (type === '') throw refuse('no plugin name provided');
  if (type.includes('/') || type === '.' || type === '..') throw refuse(`invalid plugin name: ${type}`);
  const folders = cniPath.split(':').filter((folder) => folder !== '');
  for (const folder of folders) {
    const path = join(folder, type);
    const found = await stat(path).catch(() => undefined);
    if (found?.isFile() === true) return path;
  }
  throw refuse(`failed to find plugin "${type}" in path [${folders.join(' ')}]`);
}

interface Outcome {
  readonly error: (Error & { readonly code?: unknown; readonly killed?: boolean }) | null;
  readonly stdout: string;
  readonly stderr: string;
}

async function run(path: string, verb: ForeignVerb, call: ForeignCall): Promise<string> {
  let outcome = await execute(path, verb, call);
  for (let attempt = 1; outcome.error?.code === 'ETXTBSY' && attempt < busyAttemptsMax; attempt += 1) {
    await setTimeout(busyDelayMs);
    outcome = await execute(path, verb, call);
  }
  const { error, stdout, stderr } = outcome;
  if (stderr !== '') call.onLog?.(`${call.type}: ${stderr.trimEnd()}`);
  if (error === null) return stdout;
  if (error.killed === true && error.code === null) {
    const timeoutMs = call.timeoutMs ?? foreignTimeoutMs;
    throw new CniError(cniCode.tryAgain, `plugin ${call.type} did not end ${verb} within ${timeoutMs} ms`);
  }
  throw foreignError(outcome, call.type);
}

/** A program, never a shell: nothing in the configuration can become a command. */
function execute(path: string, verb: ForeignVerb, call: ForeignCall): Promise<Outcome> {
  const [program = path, ...args] = [...(call.enter ?? []), path];
  return new Promise((resolve) => {
    const child = execFile(
      program,
      args,
      {
        env: { PATH: process.env.PATH, ...Object.fromEntries(call.env), CNI_COMMAND: verb },
        cwd: '/',
        timeout: call.timeoutMs ?? foreignTimeoutMs,
        killSignal: 'SIGKILL',
        maxBuffer: stdoutBytesMax,
      },
      (error, stdout, stderr) => resolve({ error: error as Outcome['error'], stdout, stderr }),
    );
    // A plugin need not read what it does not want to know.
    child.stdin?.on('error', () => {});
    child.stdin?.end(call.configText);
  });
}

/** What the plugin printed is what the runtime is told. */
function foreignError({ error, stdout, stderr }: Outcome, type: string): CniError {
  const printed = parseError(stdout);
  if (printed !== undefined) return printed;
  const said = stdout.trim() || stderr.trim() || 'it said nothing';
  return new CniError(cniCode.internal, `plugin ${type} failed: ${said} (${exitText(error)})`);
}

function exitText(error: Outcome['error']): string {
  const { code, signal } = (error ?? {}) as { code?: unknown; signal?: unknown };
  if (typeof signal === 'string') return signal;
  return typeof code === 'number' ? `exit status ${code}` : String(code ?? error?.message);
}

function parseError(stdout: string): CniError | undefined {
  let value: unknown;
  try {
    value = JSON.parse(stdout);
  } catch {
    return undefined;
  }
  if (!isObject(value)) return undefined;
  const fields = foldKeys(value);
  const [code, message, details] = [fields.get('code'), fields.get('msg'), fields.get('details')];
  if (typeof message !== 'string') return undefined;
  const knownCode = Number.isSafeInteger(code) && (code as number) > 0 ? (code as number) : cniCode.internal;
  return new CniError(knownCode, message, typeof details === 'string' ? details : '');
}
