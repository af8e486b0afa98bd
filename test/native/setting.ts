/** What the tests of native/ stand on: namespaces and directories that go away, and counts of what is open. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { native } from '../../native/index.ts';
import { AF_NETLINK, NETLINK_ROUTE, SOCK_RAW } from './netlink.ts';

export const shimPath = fileURLToPath(new URL('../../.cache/native/fairlead-cni', import.meta.url));
const root = fileURLToPath(new URL('../..', import.meta.url));

export function temporaryDirectory(): Disposable & { path: string } {
  const path = mkdtempSync(join(tmpdir(), 'fairlead-native-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** A fresh network namespace: its file, and a descriptor of it. */
export function temporaryNamespace(): Disposable & { path: string; fd: number } {
  const directory = temporaryDirectory();
  const path = join(directory.path, 'net');
  native.createNamespace(path);
  const fd = openSync(path, 'r');
  return {
    path,
    fd,
    [Symbol.dispose]() {
      closeSync(fd);
      native.unmountNamespace(path);
      directory[Symbol.dispose]();
    },
  };
}

/** A route socket; inside the namespace when one is given. */
export function routeSocket(namespaceFd = -1, bufferBytes = 1 << 20): Disposable & { fd: number } {
  const fd = native.openSocket(namespaceFd, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE, bufferBytes);
  return { fd, [Symbol.dispose]: () => native.close(fd) };
}

/** What every open descriptor of this process points to, without the one that reads the list. */
export function openDescriptors(): string[] {
  const targets: string[] = [];
  for (const name of readdirSync('/proc/self/fd')) {
    try {
      targets.push(`${name} ${readlinkSync(`/proc/self/fd/${name}`)}`);
    } catch {
      // The descriptor of the listing itself is closed by now.
    }
  }
  return targets;
}

/** The network namespaces of all threads of this process. */
export function threadNamespaces(): Set<string> {
  const inodes = new Set<string>();
  for (const thread of readdirSync('/proc/self/task')) {
    try {
      inodes.add(readlinkSync(`/proc/self/task/${thread}/ns/net`));
    } catch {
      // The thread has ended since.
    }
  }
  return inodes;
}

export interface Outcome {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly elapsedMs: number;
}

/** Waits for the end of a child and collects what it prints. */
export async function outcomeOf(child: ChildProcess): Promise<Outcome> {
  const started = performance.now();
  const read = async (stream: Readable | null): Promise<string> => {
    const parts: Buffer[] = [];
    if (!stream?.destroyed) for await (const part of stream ?? []) parts.push(part);
    return Buffer.concat(parts).toString();
  };
  const ended = new Promise<[number | null, string | null]>((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code, signal) => resolve([code, signal]));
  });
  const [[code, signal], stdout, stderr] = await Promise.all([ended, read(child.stdout), read(child.stderr)]);
  return { code, signal, stdout, stderr, elapsedMs: performance.now() - started };
}

/** Runs a module text in a Node process of its own, with `native` in scope. */
export function runScript(source: string, wrap: readonly string[] = []): Promise<Outcome> {
  const head = `const { native } = await import(${JSON.stringify(join(root, 'native/index.ts'))});\n`;
  const command = [...wrap, process.execPath, '--input-type=module', '-e', head + source];
  return outcomeOf(
    spawn(command[0] ?? process.execPath, command.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] }),
  );
}
