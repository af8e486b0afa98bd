import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { CniError } from '../../cni/error.ts';
import { parseRequest } from '../../cni/request.ts';
import { type Outcome, outcomeOf, shimPath, temporaryDirectory } from './setting.ts';

type Variables = Readonly<Record<string, string>>;

const usual = {
  CNI_CONTAINERID: 'pod-1',
  CNI_NETNS: '/none',
  CNI_IFNAME: 'eth0',
  CNI_PATH: '/opt/cni/bin',
};

/** `hold`: standard input stays open, and nothing comes. */
function call(env: Variables, hold = false): Promise<Outcome> {
  const child = spawn(shimPath, [], { argv0: 'fairlead', env });
  child.stdin.on('error', () => {});
  if (!hold) child.stdin.end('no JSON');
  return outcomeOf(child).finally(() => child.stdin.destroy());
}

/** The refusal of the variables that the daemon would give, before it looks at the input. */
function refusalOf(env: Variables): CniError | undefined {
  const refused = parseRequest(new Map(Object.entries(env)), Buffer.from('no JSON'));
  return refused instanceof CniError && refused.code === 4 ? refused : undefined;
}

test('variables are refused before the input is read, in the words of the daemon, and with none', async (t) => {
  using directory = temporaryDirectory();
  const values = fc.oneof(
    fc.constantFrom(
      '',
      '.',
      '..',
      'a/b',
      'a:b',
      'a b',
      'a\tb',
      'eth0',
      'pod-1',
      '-x',
      'a_.-',
      'x'.repeat(16),
    ),
    fc.string({ unit: 'grapheme-ascii', maxLength: 20 }),
  );
  const variables = fc.record(
    {
      CNI_COMMAND: fc.constantFrom('ADD', 'DEL', 'CHECK', 'GC', 'STATUS'),
      ...Object.fromEntries(
        Object.entries(usual).map(([name, value]) => [name, fc.oneof(fc.constant(value), values)]),
      ),
    },
    { requiredKeys: ['CNI_COMMAND'] },
  );
  const property = fc.asyncProperty(variables, async (drawn) => {
    const env: Variables = { ...drawn, FAIRLEAD_SOCKET: join(directory.path, 'cni.sock') };
    const refused = refusalOf(env);
    const { code, stdout, stderr } = await call(env, refused !== undefined);
    t.is(stderr, '');
    if (refused !== undefined) {
      t.like(JSON.parse(stdout), { code: 4, msg: refused.message });
      t.is(code, 1);
    } else if (env.CNI_COMMAND === 'DEL') t.deepEqual([code, stdout], [0, '']);
    else t.is(JSON.parse(stdout).code, env.CNI_COMMAND === 'STATUS' ? 50 : 11);
  });
  await fc.assert(property, { numRuns: 150 });
});

test('a verb that nobody knows is told as such without the daemon, too', async (t) => {
  using directory = temporaryDirectory();
  const env = { CNI_COMMAND: 'BO"GUS', FAIRLEAD_SOCKET: join(directory.path, 'cni.sock') };
  const { code, stdout } = await call(env);
  t.is(code, 1);
  t.like(JSON.parse(stdout), { code: 4, msg: 'unknown CNI_COMMAND: BO"GUS' });
});

test('a DEL whose own namespace cannot be opened is passed on without namespaces; an ADD is an error', async (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 'cni.sock');
  const server = createServer((socket) => socket.once('data', () => socket.end(Buffer.alloc(8))));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const withoutProc = (command: string) => {
    const env = { ...usual, CNI_COMMAND: command, FAIRLEAD_SOCKET: path };
    const child = spawn('/usr/bin/unshare', ['-m', 'sh', '-c', `umount -l /proc && exec ${shimPath}`], {
      env,
    });
    child.stdin.end('{}');
    return outcomeOf(child);
  };
  try {
    t.like(await withoutProc('DEL'), { code: 0, stdout: '', stderr: '' });
    const { stdout } = await withoutProc('ADD');
    t.like(JSON.parse(stdout), { code: 5, msg: 'cannot open /proc/self/ns/net' });
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
});
