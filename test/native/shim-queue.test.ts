import { execFileSync, spawn } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { parseFrame } from '../../cni/frame.ts';
import { type Outcome, outcomeOf, shimPath, temporaryDirectory } from './setting.ts';

interface Call {
  readonly environment?: Record<string, string | undefined>;
  readonly input?: string;
  /** argv[0]. */
  readonly name?: string;
}

const variables = {
  CNI_COMMAND: 'DEL',
  CNI_CONTAINERID: 'pod-1',
  CNI_IFNAME: 'eth0',
  CNI_NETNS: '/gone',
  CNI_PATH: '/opt/cni/bin',
};

function del(directory: string, { environment = {}, input = '{"name":"n"}', name = 'fairlead' }: Call = {}) {
  const env = { FAIRLEAD_SOCKET: join(directory, 'cni.sock'), ...variables, ...environment };
  const child = spawn(shimPath, [], { argv0: name, env, stdio: ['pipe', 'pipe', 'pipe'] });
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  return outcomeOf(child);
}

const queued = (directory: string) => readdirSync(join(directory, 'cni-queue'));

/** Success, and nothing is printed. */
function assertKept(t: ExecutionContext, { code, signal, stdout, stderr }: Outcome): void {
  t.deepEqual({ code, signal, stdout, stderr }, { code: 0, signal: null, stdout: '', stderr: '' });
}

function assertNotKept(t: ExecutionContext, outcome: Outcome, code: number, text: RegExp): void {
  t.deepEqual([outcome.code, outcome.signal, outcome.stderr], [1, null, '']);
  const error = JSON.parse(outcome.stdout);
  t.is(error.code, code, outcome.stdout);
  t.regex(`${error.msg} ${error.details}`, text);
}

/** Whoever connects meets this; its connections are cut off at the end. */
async function listen(path: string, meet: (socket: Socket) => void): Promise<AsyncDisposable> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => {}));
    meet(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

test('without the daemon a DEL succeeds, and its request lies in the queue', async (t) => {
  using directory = temporaryDirectory();
  assertKept(t, await del(directory.path, { input: '{"name":"ü"}', name: '/opt/cni/bin/bridge' }));
  const [name = '', ...more] = queued(directory.path);
  t.deepEqual(more, []);
  t.regex(name, /^pod-1\.eth0\.[0-9a-f]{16}$/);
  const frame = parseFrame(readFileSync(join(directory.path, 'cni-queue', name)));
  if (typeof frame === 'string') return t.fail(frame);
  t.is(Buffer.from(frame.stdin).toString(), '{"name":"ü"}');
  t.deepEqual(Object.fromEntries(frame.env), {
    ...variables,
    FAIRLEAD_PLUGIN: 'bridge',
    FAIRLEAD_SOCKET: join(directory.path, 'cni.sock'),
  });
});

test('the queue and what is in it are for their owner alone', async (t) => {
  using directory = temporaryDirectory();
  // After a boot not even the directory of the socket is there.
  const path = join(directory.path, 'run');
  assertKept(t, await del(path));
  const modeOf = (file: string) => statSync(file).mode & 0o777;
  t.is(modeOf(path), 0o700);
  t.is(modeOf(join(path, 'cni-queue')), 0o700);
  t.is(modeOf(join(path, 'cni-queue', queued(path)[0] ?? '')), 0o600);
});

test('the same DEL again is one entry, another plugin, interface or configuration is one of its own', async (t) => {
  using directory = temporaryDirectory();
  const calls: Call[] = [
    {},
    {},
    { environment: { TRACEPARENT: '00-1-2-01' } },
    { name: 'portmap' },
    { environment: { CNI_IFNAME: 'eth1' } },
    { environment: { CNI_CONTAINERID: 'pod-2' } },
    { input: '{"name":"m"}' },
  ];
  for (const call of calls) assertKept(t, await del(directory.path, call));
  t.is(queued(directory.path).length, 5);
});

test('whatever the container is called, its entry is a plain file of the queue', async (t) => {
  using directory = temporaryDirectory();
  for (const id of ['../../escaped', '.hidden', 'ü/\n']) {
    const outcome = await del(directory.path, { environment: { CNI_CONTAINERID: id } });
    assertNotKept(t, outcome, 4, /^invalid characters in containerID /);
  }
  for (const id of ['x'.repeat(300), 'a..b']) {
    assertKept(t, await del(directory.path, { environment: { CNI_CONTAINERID: id } }));
  }
  const names = queued(directory.path);
  t.is(names.length, 2);
  for (const name of names) t.regex(name, /^[\w-][\w.-]{1,63}\.eth0\.[0-9a-f]{16}$/);
  t.deepEqual(readdirSync(directory.path), ['cni-queue']);
});

for (const [what, meet] of [
  ['that ends without an answer', (socket) => socket.end()],
  ['that ends in the middle of its answer', (socket) => socket.end(Buffer.from([0, 0, 0, 0, 9]))],
  ['that breaks off', (socket) => socket.pause().destroy()],
  ['that does not answer', () => {}],
] as const satisfies [string, (socket: Socket) => void][]) {
  test(`a DEL that met a daemon ${what} is queued`, async (t) => {
    using directory = temporaryDirectory();
    await using _daemon = await listen(join(directory.path, 'cni.sock'), meet);
    const outcome = await del(directory.path);
    assertKept(t, outcome);
    t.true(outcome.elapsedMs < 29_000);
    t.is(queued(directory.path).length, 1);
  });
}

test('what the daemon answers to a DEL is passed on, and nothing is queued', async (t) => {
  const answer = Buffer.from([1, 0, 0, 0, 2, 0, 0, 0, 0x7b, 0x7d]);
  for (let isLate = true, tries = 1; isLate; tries += 1) {
    using directory = temporaryDirectory();
    await using _daemon = await listen(join(directory.path, 'cni.sock'), (socket) =>
      socket.once('data', () => socket.end(answer)),
    );
    const outcome = await del(directory.path);
    // This daemon has much else to do: where it needs as long as the shim waits, it is asked once more.
    isLate = outcome.elapsedMs > 2_000 && tries < 20;
    if (isLate) continue;
    t.like(outcome, { code: 1, stdout: '{}' });
    t.false(readdirSync(directory.path).includes('cni-queue'));
  }
});

test('a DEL that no daemon would take is refused with the names of what is missing', async (t) => {
  using directory = temporaryDirectory();
  const environment = { CNI_CONTAINERID: undefined, CNI_IFNAME: '' };
  assertNotKept(
    t,
    await del(directory.path, { environment }),
    4,
    /^required env variables \[CNI_CONTAINERID,CNI_IFNAME\] missing $/,
  );
  const all = { ...environment, CNI_PATH: undefined };
  assertNotKept(
    t,
    await del(directory.path, { environment: all }),
    4,
    /\[CNI_CONTAINERID,CNI_IFNAME,CNI_PATH\]/,
  );
  t.deepEqual(readdirSync(directory.path), []);
});

test('the longest request that there can be is kept', async (t) => {
  using directory = temporaryDirectory();
  const input = 'x'.repeat(1 << 20);
  assertKept(t, await del(directory.path, { input }));
  const [name = ''] = queued(directory.path);
  const frame = parseFrame(readFileSync(join(directory.path, 'cni-queue', name)));
  t.is(typeof frame === 'string' ? frame : frame.stdin.length, input.length);
});

test('a queue with its greatest number of entries takes no more', async (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 'cni-queue');
  mkdirSync(path);
  for (let i = 0; i < 16_384; i += 1) writeFileSync(join(path, `f${i}`), '');
  assertNotKept(t, await del(directory.path), 11, /cni-queue: it is full, with 16384 entries/);
  t.is(queued(directory.path).length, 16_384);
});

test('a queue that is no directory of ours is an error that names it', async (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 'cni-queue');
  writeFileSync(path, '');
  assertNotKept(t, await del(directory.path), 11, /cni-queue: cannot be opened: ENOTDIR/);
  rmSync(path);
  symlinkSync('/tmp', path);
  assertNotKept(t, await del(directory.path), 11, /cni-queue: cannot be opened: (ELOOP|ENOTDIR)/);
});

test('whoever may not write there is told so', async (t) => {
  using directory = temporaryDirectory();
  chmodSync(directory.path, 0o755);
  const environment = { ...variables, FAIRLEAD_SOCKET: join(directory.path, 'cni.sock') };
  // The checkout may lie where only root can go.
  const shim = join(directory.path, 'shim');
  copyFileSync(shimPath, shim);
  const child = spawn(shim, [], { env: environment, uid: 65_534, gid: 65_534 });
  child.stdin.end('{}');
  assertNotKept(t, await outcomeOf(child), 11, /cni-queue: cannot be made: EACCES/);
});

test('a full file system is an error, and nothing half written stays', async (t) => {
  using directory = temporaryDirectory();
  execFileSync('/bin/mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', directory.path]);
  try {
    const input = JSON.stringify({ name: 'n', filling: 'x'.repeat(10_000) });
    const codes: (number | null)[] = [];
    for (let i = 0; i < 8; i += 1) {
      const outcome = await del(directory.path, { input, environment: { CNI_CONTAINERID: `pod-${i}` } });
      codes.push(outcome.code);
      if (outcome.code !== 0) assertNotKept(t, outcome, 11, /cni-queue: no file can be \w+ in it: ENOSPC/);
    }
    t.true(codes.includes(0) && codes.includes(1), `${codes}`);
    const names = queued(directory.path);
    t.is(names.length, codes.filter((code) => code === 0).length);
    for (const name of names) {
      t.is(typeof parseFrame(readFileSync(join(directory.path, 'cni-queue', name))), 'object');
    }
  } finally {
    execFileSync('/bin/umount', [directory.path]);
  }
});
