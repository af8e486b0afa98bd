/**
 * Clients of UDP that ask all the time, each question in a flow of its own: a socket with a port that was never used
 * before. `held` asks from one socket for ever, as resolvers do. Run as a program it is told where to, and answers each
 * line of stdin with what it saw since the last.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import dgram from 'node:dgram';
import { once } from 'node:events';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { LoadReport } from '../../cli/cluster/workload.ts';
import { inNamespace } from '../../cli/cluster/workload-client.ts';

export type DatagramReport = Omit<LoadReport, 'maxMs'>;

export interface DatagramTarget {
  readonly host: string;
  readonly port: number;
  readonly intervalMs: number;
  readonly kind: 'new flows' | 'held';
}

/** What is lost is lost: nobody asks again. An answer may be this late. */
const ANSWER_LIMIT_MS = 10_000;
const FIRST_PORT = 1_100;
const OPEN_MAX = 64;

export class DatagramClient implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(namespace: string, target: DatagramTarget) {
    const program = [process.execPath, fileURLToPath(import.meta.url), JSON.stringify(target)];
    const [command, args] = inNamespace(namespace, program);
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    if (this.#child.stdout === null) throw new Error('no stdout');
    this.#lines = readline.createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  /** What was asked and answered since the last report. Of a held flow what is not answered is no failure. */
  async report(): Promise<DatagramReport> {
    this.#child.stdin?.write('\n');
    const { value } = await this.#lines.next();
    if (value === undefined) throw new Error('the client ended before its report');
    return JSON.parse(value) as DatagramReport;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exit = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exit;
  }
}

const seen = { requests: 0, failures: [] as string[], byServer: {} as Record<string, number> };

function answered(text: Buffer): void {
  const { name } = JSON.parse(text.toString()) as { name: string };
  seen.byServer[name] = (seen.byServer[name] ?? 0) + 1;
}

function openSocket(host: string): dgram.Socket {
  return host.includes(':')
    ? dgram.createSocket({ type: 'udp6', ipv6Only: true })
    : dgram.createSocket('udp4');
}

function askAnew({ host, port, intervalMs }: DatagramTarget): void {
  let [own, open] = [FIRST_PORT, 0];
  setInterval(() => {
    if (open >= OPEN_MAX) return;
    const socket = openSocket(host);
    open += 1;
    seen.requests += 1;
    const finish = (failure?: string) => {
      clearTimeout(timer);
      socket
        .removeAllListeners()
        .on('error', () => {})
        .close();
      open -= 1;
      if (failure !== undefined) seen.failures.push(failure);
    };
    const timer = setTimeout(() => finish('no answer'), ANSWER_LIMIT_MS);
    socket.on('error', ({ message }) => finish(message));
    socket.on('message', (text) => {
      answered(text);
      finish();
    });
    own += 1;
    socket.bind(own, () => socket.connect(port, host, () => socket.send('?')));
  }, intervalMs);
}

function askFromOne({ host, port, intervalMs }: DatagramTarget): void {
  const socket = openSocket(host);
  socket.on('error', () => {}).on('message', answered);
  socket.bind(FIRST_PORT, () => {
    setInterval(() => {
      seen.requests += 1;
      socket.send('?', port, host);
    }, intervalMs);
  });
}

async function main(target: DatagramTarget): Promise<void> {
  if (target.kind === 'held') askFromOne(target);
  else askAnew(target);
  for await (const _ of readline.createInterface({ input: process.stdin })) {
    process.stdout.write(`${JSON.stringify(seen)}\n`);
    Object.assign(seen, { requests: 0, failures: [], byServer: {} });
  }
  process.exit(0);
}

if (import.meta.main) await main(JSON.parse(process.argv[2] ?? '{}') as DatagramTarget);
