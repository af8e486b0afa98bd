import { spawn } from 'node:child_process';
import { closeSync, fstatSync, openSync, statSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { native } from '../../native/index.ts';
import { dumpLinks, parseLinkNames } from './netlink.ts';
import {
  type Outcome,
  openDescriptors,
  outcomeOf,
  routeSocket,
  runScript,
  shimPath,
  temporaryDirectory,
  temporaryNamespace,
} from './setting.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const MAX_INPUT_BYTES = 1 << 20;

interface Call {
  readonly environment?: Record<string, string>;
  readonly input?: string | Uint8Array;
  /** Keeps stdin open for as long as the shim runs. */
  readonly holdInput?: boolean;
  /** argv[0]. */
  readonly name?: string;
}

/** Without these the plugin says so at once. */
const usual = {
  CNI_CONTAINERID: 'pod-1',
  CNI_NETNS: '/none',
  CNI_IFNAME: 'eth0',
  CNI_PATH: '/opt/cni/bin',
};

function callShim(
  socketPath: string,
  { environment = {}, input = '{}', holdInput, name = shimPath }: Call = {},
): Promise<Outcome> {
  const child = spawn(shimPath, [], {
    argv0: name,
    env: { FAIRLEAD_SOCKET: socketPath, CNI_COMMAND: 'ADD', ...usual, ...environment },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  child.stdin.on('error', () => {}); // the shim may end before it has read everything
  if (!holdInput) child.stdin.end(input);
  return outcomeOf(child).finally(() => child.stdin.destroy());
}

function reply(code: number, output: string): Buffer {
  const buffer = Buffer.alloc(8 + Buffer.byteLength(output));
  buffer.writeUInt32LE(code, 0);
  buffer.writeUInt32LE(buffer.length - 8, 4);
  buffer.write(output, 8);
  return buffer;
}

interface Request {
  readonly magic: number;
  readonly environment: string[];
  readonly input: string;
}

function parseRequest(bytes: Buffer): Request | undefined {
  if (bytes.length < 12) return undefined;
  const inputAt = 12 + bytes.readUInt32LE(4);
  const end = inputAt + bytes.readUInt32LE(8);
  if (bytes.length < end) return undefined;
  if (bytes.length > end) throw new Error(`${bytes.length - end} bytes after the request`);
  return {
    magic: bytes.readUInt32LE(0),
    environment: bytes.toString('utf8', 12, inputAt).split('\0').slice(0, -1),
    input: bytes.toString('utf8', inputAt, end),
  };
}

/** A daemon that answers each request with these bytes and hangs up. */
async function serve(path: string, answer: (request: Request) => Uint8Array | undefined) {
  const requests: Request[] = [];
  const server: Server = createServer((socket) => {
    let bytes = Buffer.alloc(0);
    socket.on('error', () => {});
    socket.on('data', (part) => {
      bytes = Buffer.concat([bytes, part]);
      const request = parseRequest(bytes);
      if (request === undefined) return;
      requests.push(request);
      const answered = answer(request);
      if (answered !== undefined) socket.end(answered);
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    requests,
    async [Symbol.asyncDispose]() {
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
    },
  };
}

/** Exactly one JSON error on stdout, and exit code 1. */
function assertError(t: ExecutionContext, outcome: Outcome, code: number, details: RegExp): void {
  t.deepEqual([outcome.code, outcome.signal, outcome.stderr], [1, null, '']);
  const error = JSON.parse(outcome.stdout);
  t.is(error.cniVersion, '1.1.0');
  t.is(error.code, code);
  t.true(error.msg.length > 0);
  t.regex(error.details, details);
}

test('the request carries the environment of CNI and of tracing, and the input', async (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 's');
  await using daemon = await serve(path, () => reply(0, '{"ok":true}'));
  const environment = {
    CNI_CONTAINERID: 'pod-2',
    CNI_ARGS: 'IgnoreUnknown=1;K8S_POD_NAME=a=b',
    CNI_UNKNOWN: '',
    TRACEPARENT: '00-1-2-01',
    TRACESTATE: 'x=y',
    BAGGAGE: 'k=v',
    PATH: '/bin',
    XCNI_NO: '1',
  };
  const input = JSON.stringify({ cniVersion: '1.0.0', name: 'ünïcode' });
  const outcome = await callShim(path, { environment, input });
  t.like(outcome, { code: 0, stdout: '{"ok":true}', stderr: '' });
  const { PATH: _path, XCNI_NO: _no, ...passed } = environment;
  const added = { CNI_COMMAND: 'ADD', ...usual, FAIRLEAD_PLUGIN: 'fairlead-cni', FAIRLEAD_SOCKET: path };
  const wanted = Object.entries({ ...added, ...passed }).map(([name, value]) => `${name}=${value}`);
  t.is(daemon.requests[0]?.magic, 0x464c4431);
  t.is(daemon.requests[0]?.input, input);
  t.deepEqual(daemon.requests[0]?.environment.toSorted(), wanted.toSorted());
});

test('the name that the plugin is called by goes with the request, and nobody else can give one', async (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 's');
  await using daemon = await serve(path, () => reply(0, ''));
  for (const [name, passed] of [
    ['/opt/cni/bin/host-local', 'host-local'],
    ['portmap', 'portmap'],
    ['./bin/', ''],
    ['', ''],
  ] as const) {
    await callShim(path, { name, environment: { FAIRLEAD_PLUGIN: 'other' } });
    const sent = daemon.requests.at(-1)?.environment.filter((entry) => entry.startsWith('FAIRLEAD_P'));
    t.deepEqual(sent, [`FAIRLEAD_PLUGIN=${passed}`]);
  }
});

test('the output and the exit code of the daemon are those of the plugin', async (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 's');
  const large = `{"text":"${'x'.repeat(3 << 20)}"}`;
  const answers = [reply(0, ''), reply(1, '{"code":7}'), reply(42, 'x'), reply(256, 'x'), reply(0, large)];
  await using _daemon = await serve(path, () => answers.shift());
  t.like(await callShim(path), { code: 0, stdout: '' });
  t.like(await callShim(path), { code: 1, stdout: '{"code":7}' });
  t.like(await callShim(path), { code: 42, stdout: 'x' });
  t.like(await callShim(path), { code: 1, stdout: 'x' });
  t.deepEqual((await callShim(path)).stdout.length, large.length);
});

test.serial('the descriptors of both namespaces arrive and work', async (t) => {
  using directory = temporaryDirectory();
  using namespace = temporaryNamespace();
  const path = join(directory.path, 's');
  const before = openDescriptors();
  for (const [netns, passed] of [
    [namespace.path, 2],
    [join(directory.path, 'gone'), 1],
    ['', 1],
  ] as const) {
    const environment = { CNI_COMMAND: 'DEL', CNI_NETNS: netns };
    const received = await receiveOnce(path, () => callShim(path, { environment }));
    t.is(received.outcome.code, 0);
    t.is(received.fds.length, passed);
    t.is(fstatSync(received.fds[0] ?? -1).ino, statSync('/proc/self/ns/net').ino);
    if (passed === 2) {
      const fd = received.fds[1] ?? -1;
      t.is(fstatSync(fd).ino, statSync(namespace.path).ino);
      using socket = routeSocket(fd);
      t.true(parseLinkNames(native.exchange(socket.fd, dumpLinks())).includes('lo'));
    }
    for (const fd of received.fds) native.close(fd);
  }
  t.deepEqual(
    openDescriptors().filter((name) => !name.includes('pipe:')),
    before.filter((name) => !name.includes('pipe:')),
  );
});

/** Takes one call with the addon, as the daemon does, and answers it. */
async function receiveOnce(
  path: string,
  call: () => Promise<Outcome>,
): Promise<{ outcome: Outcome; fds: number[] }> {
  const listener = native.openSocket(-1, AF_UNIX, SOCK_STREAM, 0, 0);
  const file = `${path}-${listener}-${Math.random()}`.slice(0, 100);
  native.bind(listener, Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(`${path}\0`)]), 8);
  const ended = call();
  const connection = await readable(listener, () => native.accept(listener));
  const { fds } = await readable(connection, () => native.receive(connection, 1 << 21));
  native.send(connection, reply(0, file));
  const outcome = await ended;
  native.close(connection);
  native.close(listener);
  const { unlinkSync } = await import('node:fs');
  unlinkSync(path);
  return { outcome, fds };
}

function readable<T>(fd: number, read: () => T | undefined): Promise<T> {
  return new Promise((resolve) => {
    const poll = native.poll(fd, () => {
      const value = read();
      if (value === undefined) return;
      poll.stop();
      resolve(value);
    });
  });
}

test('descriptors that find no room are closed, and the call is EMFILE', async (t) => {
  using directory = temporaryDirectory();
  using namespace = temporaryNamespace();
  const path = join(directory.path, 's');
  const script = `
    const { openSync, closeSync, readdirSync } = await import('node:fs');
    const listener = native.openSocket(-1, 1, 1, 0, 0);
    native.bind(listener, Buffer.concat([Buffer.from([1, 0]), Buffer.from(${JSON.stringify(path)} + '\\0')]), 8);
    const poll = native.poll(listener, () => {
      poll.stop();
      const connection = native.accept(listener);
      const data = native.poll(connection, () => {
        data.stop();
        const filled = [];
        try { for (;;) filled.push(openSync('/dev/null')); } catch {}
        closeSync(filled.pop());
        let code;
        try { native.receive(connection, 4096); } catch (error) { code = error.code; }
        let free = 0;
        try { for (;;) { filled.push(openSync('/dev/null')); free++; } } catch {}
        for (const fd of filled) closeSync(fd);
        console.log(code, free);
        native.close(connection);
      });
    });
    console.error('ready');
  `;
  const daemon = runScript(script, ['sh', '-c', 'ulimit -n 64; exec "$@"', 'sh']);
  while (!isSocket(path)) await new Promise((resolve) => setTimeout(resolve, 10));
  const outcome = await callShim(path, { environment: { CNI_NETNS: namespace.path } });
  assertError(t, outcome, 11, /ended before|ECONNRESET/);
  t.is((await daemon).stdout, 'EMFILE 1\n');
});

const isSocket = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isSocket() ?? false;

test('VERSION is answered without the daemon and without the input', async (t) => {
  const outcome = await callShim('/nowhere', { environment: { CNI_COMMAND: 'VERSION' }, holdInput: true });
  t.like(outcome, { code: 0, stderr: '' });
  t.deepEqual(JSON.parse(outcome.stdout), {
    cniVersion: '1.1.0',
    supportedVersions: ['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'],
  });
});

test('without a command the plugin says what it is', async (t) => {
  const outcome = await callShim('/nowhere', { environment: { CNI_COMMAND: '' }, holdInput: true });
  t.like(outcome, { code: 0, stdout: '' });
  t.regex(outcome.stderr, /^CNI protocol versions supported: 0\.1\.0, .*1\.1\.0$/m);
});

test('without the daemon every command but DEL is an error with a next step', async (t) => {
  using directory = temporaryDirectory();
  const missing = join(directory.path, 'missing');
  for (const command of ['ADD', 'CHECK', 'GC']) {
    const outcome = await callShim(missing, { environment: { CNI_COMMAND: command } });
    assertError(t, outcome, 11, /missing: ENOENT; check that `fairlead node` runs/);
  }
  assertError(t, await callShim(missing, { environment: { CNI_COMMAND: 'STATUS' } }), 50, /ENOENT/);
});

test('a socket that nobody serves any more is an error', async (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 's');
  const fd = native.openSocket(-1, AF_UNIX, SOCK_STREAM, 0, 0);
  native.bind(fd, Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(`${path}\0`)]), 0);
  native.close(fd);
  assertError(t, await callShim(path), 11, /ECONNREFUSED/);
});

test('the path of the socket is quoted in the error', async (t) => {
  assertError(t, await callShim('/no/"such"\\pl\ta\u00e4ce'), 11, /\/no\/"such"\\pl\?a\?\?ce: ENOENT/);
  assertError(t, await callShim(`/${'x'.repeat(108)}`), 4, /^\/x+$/);
});

test('a daemon that ends in the middle of its answer leaves no half output', async (t) => {
  using directory = temporaryDirectory();
  const whole = reply(0, '{"cniVersion":"1.0.0"}');
  for (const length of [0, 3, 8, 15]) {
    const path = join(directory.path, `s${length}`);
    await using _daemon = await serve(path, () => whole.subarray(0, length));
    assertError(t, await callShim(path), 11, /ended before the whole answer/);
  }
});

test('an answer above the limit is refused', async (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 's');
  const header = Buffer.from([0, 0, 0, 0, 1, 0, 0x40, 0]);
  await using _daemon = await serve(path, () => header);
  assertError(t, await callShim(path), 11, /too long an answer/);
});

test('input up to the limit arrives, input above it is refused', async (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 's');
  await using daemon = await serve(path, () => reply(0, 'taken'));
  const largest = 'x'.repeat(MAX_INPUT_BYTES);
  t.is((await callShim(path, { input: largest })).stdout, 'taken');
  t.is(daemon.requests[0]?.input.length, MAX_INPUT_BYTES);
  assertError(t, await callShim(path, { input: `${largest}x` }), 5, /more than 1048576 bytes/);
  t.is(daemon.requests.length, 1);
});

test('an environment above the limit is refused', async (t) => {
  const environment = {
    CNI_ARGS: 'x'.repeat(100_000),
    CNI_A: 'x'.repeat(100_000),
    CNI_B: 'x'.repeat(100_000),
  };
  assertError(t, await callShim('/nowhere', { environment }), 4, /more than 262144 bytes/);
});

test('input that cannot be read is an error', async (t) => {
  const directory = openSync('/', 'r');
  const child = spawn(shimPath, [], {
    env: { CNI_COMMAND: 'ADD', ...usual },
    stdio: [directory, 'pipe', 'pipe'],
  });
  assertError(t, await outcomeOf(child), 5, /EISDIR/);
  closeSync(directory);
});

test('a reader that has gone is a failed exit and no signal', async (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 's');
  await using _daemon = await serve(path, () => reply(0, 'x'.repeat(1 << 20)));
  const child = spawn(shimPath, [], {
    env: { CNI_COMMAND: 'ADD', FAIRLEAD_SOCKET: path, ...usual },
    stdio: 'pipe',
  });
  child.stdout.destroy();
  child.stdin.end('{}');
  t.like(await outcomeOf(child), { code: 1, signal: null });
});

test('a daemon that does not answer costs STATUS five seconds', async (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 's');
  await using _daemon = await serve(path, () => undefined);
  const outcome = await callShim(path, { environment: { CNI_COMMAND: 'STATUS' } });
  assertError(t, outcome, 50, /no answer within 5 s/);
  t.true(outcome.elapsedMs < 29_000);
});

test('a daemon that does not accept costs five seconds', async (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 's');
  const listener = native.openSocket(-1, AF_UNIX, SOCK_STREAM, 0, 0);
  native.bind(listener, Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(`${path}\0`)]), 1);
  const calls = Array.from({ length: 4 }, () => callShim(path, { environment: { CNI_COMMAND: 'STATUS' } }));
  for (const outcome of await Promise.all(calls)) assertError(t, outcome, 50, /no answer within 5 s/);
  native.close(listener);
});

test('the plugin is small and needs no library', (t) => {
  t.true(statSync(shimPath).size < 16 << 10);
});
