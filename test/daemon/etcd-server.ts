import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const startTimeoutMs = 60_000;
const CTL_ENVIRONMENT = { ...process.env, ETCDCTL_API: '3' };

export interface EtcdServerOptions {
  readonly host?: string;
  /** Runs it inside a named network namespace. */
  readonly namespace?: string;
  /** Paths of PEM files: it takes only clients with a certificate of this CA. */
  readonly tls?: { readonly ca: string; readonly cert: string; readonly key: string };
  /** More flags, such as `--auth-token-ttl=1`. */
  readonly flags?: readonly string[];
}

/** A real etcd with its own ports and directory. */
export class EtcdServer implements AsyncDisposable {
  readonly endpoint: string;
  readonly #directory = mkdtempSync(join(tmpdir(), 'fairlead-etcd-'));
  readonly #arguments: string[];
  readonly #inside: string[];
  #process: ChildProcess | undefined;

  readonly #clientFlags: readonly string[];

  constructor(
    { host = '127.0.0.1', namespace, tls, flags = [] }: EtcdServerOptions,
    client: number,
    peer: number,
  ) {
    this.endpoint = `${tls ? 'https' : 'http'}://${host}:${client}`;
    const serverFlags = tls && [
      `--cert-file=${tls.cert}`,
      `--key-file=${tls.key}`,
      `--trusted-ca-file=${tls.ca}`,
      '--client-cert-auth',
    ];
    this.#clientFlags = tls ? [`--cacert=${tls.ca}`, `--cert=${tls.cert}`, `--key=${tls.key}`] : [];
    this.#inside = namespace === undefined ? [] : ['nsenter', `--net=/run/netns/${namespace}`];
    const peers = `http://127.0.0.1:${peer}`;
    this.#arguments = [
      `--data-dir=${this.#directory}`,
      `--listen-client-urls=${this.endpoint}`,
      `--advertise-client-urls=${this.endpoint}`,
      `--listen-peer-urls=${peers}`,
      `--initial-advertise-peer-urls=${peers}`,
      `--initial-cluster=default=${peers}`,
      '--log-level=error',
      '--logger=zap',
      '--unsafe-no-fsync',
      ...(serverFlags ?? []),
      ...flags,
    ];
  }

  static async start(options: EtcdServerOptions = {}): Promise<EtcdServer> {
    const [client, peer] = [await freePort(), await freePort()];
    const server = new EtcdServer(options, client, peer);
    await server.run();
    return server;
  }

  /** Starts it, again after {@link stop}, with the same data and ports. */
  async run(...clientFlags: string[]): Promise<void> {
    const [command = 'etcd', ...rest] = [
      ...this.#inside,
      'setpriv',
      '--pdeathsig',
      'KILL',
      'etcd',
      ...this.#arguments,
    ];
    this.#process = spawn(command, rest, { stdio: ['ignore', 'ignore', 'inherit'] });
    const deadline = Date.now() + startTimeoutMs;
    while (!(await this.#answers(clientFlags))) {
      if (Date.now() > deadline || this.#process.exitCode !== null) throw new Error('etcd did not start');
      await sleep(50);
    }
  }

  async #answers(clientFlags: readonly string[]): Promise<boolean> {
    try {
      await this.ctlAsync(...clientFlags, 'endpoint', 'health', '--command-timeout=5s');
      return true;
    } catch {
      return false;
    }
  }

  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill(signal);
    await gone;
  }

  /** To others it looks as if the way to it were cut: connections stand, and nothing answers. */
  pause(): void {
    this.#process?.kill('SIGSTOP');
  }

  resume(): void {
    this.#process?.kill('SIGCONT');
  }

  /** etcdctl, the reference client. */
  ctl(...args: string[]): string {
    const [command, rest] = this.#ctlCommand(args);
    return execFileSync(command, rest, {
      encoding: 'utf8',
      env: CTL_ENVIRONMENT,
      stdio: ['ignore', 'pipe', 'pipe'],
    }).trimEnd();
  }

  /** The same without holding up this process, where clients in it are what is tested. */
  async ctlAsync(...args: string[]): Promise<string> {
    const [command, rest] = this.#ctlCommand(args);
    return (await promisify(execFile)(command, rest, { env: CTL_ENVIRONMENT })).stdout.trimEnd();
  }

  #ctlCommand(args: readonly string[]): [string, string[]] {
    const [command = '', ...rest] = [
      ...this.#inside,
      'etcdctl',
      `--endpoints=${this.endpoint}`,
      '--command-timeout=60s',
      '--dial-timeout=60s',
      ...this.#clientFlags,
      ...args,
    ];
    return [command, rest];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop('SIGKILL');
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** Below what the kernel gives to sockets that name no port: nobody gets it while etcd is not running, or not yet. */
const PORTS = { first: 12_000, count: 18_000 } as const;

async function freePort(): Promise<number> {
  for (;;) {
    const port = PORTS.first + randomInt(PORTS.count);
    if (await isFree(port)) return port;
  }
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  const isListening = await new Promise<boolean>((resolve) => {
    server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true));
  });
  if (isListening) await new Promise((resolve) => server.close(resolve));
  return isListening;
}

/** Waits until the condition holds. */
export async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  timeoutMs = 60_000,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await sleep(20);
  }
}
