/**
 * The program that stands in for an application in a pod or on a client machine: an ordinary Node process with
 * ordinary sockets, so that what it sees is what applications see. It takes commands as JSON lines on stdin and
 * answers each with one JSON line on stdout; it ends when stdin ends.
 */
import dgram from 'node:dgram';
import http from 'node:http';
import net from 'node:net';
import { hostname } from 'node:os';
import readline from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

/** What a server tells each caller about itself and about how the call arrived. */
export interface Answer {
  readonly name: string;
  /** The caller's address as the server saw it, IPv4 without the mapped prefix. */
  readonly peer: string;
}

export type Command =
  | { readonly op: 'serve'; readonly name: string; readonly port: number }
  | { readonly op: 'drain'; readonly quietMs: number; readonly timeoutMs: number }
  | { readonly op: 'get'; readonly url: string; readonly timeoutMs: number }
  | { readonly op: 'datagram'; readonly host: string; readonly port: number; readonly timeoutMs: number }
  | {
      readonly op: 'send';
      readonly host: string;
      readonly port: number;
      readonly bytes: number;
      readonly timeoutMs: number;
    }
  | { readonly op: 'load'; readonly url: string; readonly intervalMs: number; readonly timeoutMs: number }
  | { readonly op: 'hold'; readonly host: string; readonly port: number; readonly intervalMs: number }
  | { readonly op: 'report' };

export type Outcome =
  | { readonly ok: true; readonly ms: number; readonly answer?: Answer; readonly local?: string }
  | { readonly ok: false; readonly ms: number; readonly error: string };

/** What a `load` or `hold` saw since it began or since the last report. */
export interface LoadReport {
  readonly requests: number;
  readonly failures: readonly string[];
  /** Requests by the name of the server that answered. */
  readonly byServer: Readonly<Record<string, number>>;
  readonly maxMs: number;
}

const plain = (address: string | undefined) => (address ?? '').replace(/^::ffff:/, '');

/** HTTP connections that are open, and when the last one ended. */
const served = { open: 0, lastAtMs: 0 };

/** Goes on serving until there was no connection for so long, as a pod does that is told to end. */
async function drain(quietMs: number, timeoutMs: number): Promise<void> {
  const untilMs = performance.now() + timeoutMs;
  served.lastAtMs = performance.now();
  while (served.open > 0 || performance.now() < served.lastAtMs + quietMs) {
    if (performance.now() > untilMs) throw new Error(`still served after ${timeoutMs} ms`);
    await sleep(20);
  }
}

async function serve(name: string, port: number): Promise<void> {
  const web = http.createServer((request, response) => {
    const answer: Answer = { name, peer: plain(request.socket.remoteAddress) };
    request.resume().on('end', () => response.setHeader('connection', 'close').end(JSON.stringify(answer)));
  });
  web.on('connection', (socket) => {
    served.open += 1;
    socket.on('close', () => {
      served.open -= 1;
      served.lastAtMs = performance.now();
    });
  });
  const echo = net.createServer((socket) => socket.on('error', () => socket.destroy()).pipe(socket));
  const datagrams = dgram.createSocket('udp6');
  datagrams.on('message', (_, from) =>
    datagrams.send(JSON.stringify({ name, peer: plain(from.address) }), from.port, from.address),
  );
  await Promise.all([
    new Promise<void>((resolve) => web.listen(port, '::', resolve)),
    new Promise<void>((resolve) => echo.listen(port + 1, '::', resolve)),
    new Promise<void>((resolve) => datagrams.bind(port, '::', resolve)),
  ]);
}

function get(url: string, timeoutMs: number): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = http.get(url, { agent: false, signal: AbortSignal.timeout(timeoutMs) }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part) => {
        text += part;
      });
      response.on('end', () => {
        try {
          resolve(JSON.parse(text));
        } catch (error) {
          reject(error);
        }
      });
      response.on('error', reject);
    });
    request.on('error', reject);
  });
}

function datagram(host: string, port: number, timeoutMs: number): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const socket = dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4');
    const finish = (act: () => void) => {
      clearTimeout(timer);
      socket.close();
      act();
    };
    const timer = setTimeout(() => finish(() => reject(new Error('ETIMEDOUT'))), timeoutMs);
    socket.on('error', (error) => finish(() => reject(error)));
    socket.on('message', (text) => finish(() => resolve(JSON.parse(text.toString()))));
    socket.connect(port, host, () => socket.send('?'));
  });
}

/** Sends `bytes` to the echo port and waits until all of them are back: full-size packets both ways. */
function send(host: string, port: number, bytes: number, timeoutMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    let back = 0;
    const socket = net.connect(port, host, () => socket.end(Buffer.alloc(bytes, 7)));
    socket.setTimeout(timeoutMs, () => socket.destroy(new Error('ETIMEDOUT')));
    socket.on('data', (part) => {
      back += part.length;
    });
    socket.on('error', reject);
    socket.on('close', () =>
      back === bytes ? resolve() : reject(new Error(`${back} of ${bytes} bytes came back`)),
    );
  });
}

const LOAD_CONNECTIONS_MAX = 32;
const load = { requests: 0, failures: [] as string[], byServer: {} as Record<string, number>, maxMs: 0 };

function startLoad(url: string, intervalMs: number, timeoutMs: number): void {
  let open = 0;
  setInterval(async () => {
    // Where others use the processors, more would only make all of them late.
    if (open === LOAD_CONNECTIONS_MAX) return;
    const start = performance.now();
    load.requests += 1;
    open += 1;
    try {
      const { name } = await get(url, timeoutMs);
      load.byServer[name] = (load.byServer[name] ?? 0) + 1;
    } catch (error) {
      load.failures.push(describe(error));
    }
    open -= 1;
    load.maxMs = Math.max(load.maxMs, performance.now() - start);
  }, intervalMs);
}

/** One long TCP connection to the echo port with a byte every interval: it must never break. */
function hold(host: string, port: number, intervalMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, host, () => {
      resolve();
      let sentAt = 0;
      socket.on('data', (part) => {
        load.maxMs = Math.max(load.maxMs, performance.now() - sentAt);
        // On a slow machine several come at once.
        load.byServer.held = (load.byServer.held ?? 0) + part.length;
      });
      setInterval(() => {
        sentAt = performance.now();
        load.requests += 1;
        socket.write('.');
      }, intervalMs);
    });
    socket.on('error', (error) => {
      load.failures.push(describe(error));
      reject(error);
    });
    socket.on('close', () => load.failures.push('the held connection closed'));
  });
}

function report(): LoadReport {
  const seen = { ...load, failures: [...load.failures], byServer: { ...load.byServer } };
  Object.assign(load, { requests: 0, failures: [], byServer: {}, maxMs: 0 });
  return seen;
}

function describe(error: unknown): string {
  const { code, message, name } = error as NodeJS.ErrnoException;
  return name === 'TimeoutError' || code === 'ABORT_ERR' ? 'ETIMEDOUT' : (code ?? message);
}

async function run(command: Command): Promise<object> {
  switch (command.op) {
    case 'serve':
      return { answer: await serve(command.name, command.port) };
    case 'drain':
      return { answer: await drain(command.quietMs, command.timeoutMs) };
    case 'get':
      return { answer: await get(command.url, command.timeoutMs) };
    case 'datagram':
      return { answer: await datagram(command.host, command.port, command.timeoutMs) };
    case 'send':
      return { answer: await send(command.host, command.port, command.bytes, command.timeoutMs) };
    case 'load':
      return { answer: startLoad(command.url, command.intervalMs, command.timeoutMs) };
    case 'hold':
      return { answer: await hold(command.host, command.port, command.intervalMs) };
    case 'report':
      return { report: report() };
  }
}

async function main(): Promise<void> {
  process.title = `workload ${process.argv[2] ?? hostname()}`;
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { id, ...command } = JSON.parse(line) as Command & { id: number };
    const start = performance.now();
    void run(command as Command)
      .then(
        (result) => ({ id, ok: true, ms: performance.now() - start, ...result }),
        (error) => ({ id, ok: false, ms: performance.now() - start, error: describe(error) }),
      )
      .then((outcome) => process.stdout.write(`${JSON.stringify(outcome)}\n`));
  }
  process.exit(0);
}

if (import.meta.main) await main();
