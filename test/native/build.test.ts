import { spawn } from 'node:child_process';
import { cpSync, existsSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { type Outcome, outcomeOf, temporaryDirectory } from './setting.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** A copy of native/ that builds into a directory of its own. */
function copyOfSources(): Disposable & { path: string; build: (cc?: string) => Promise<Outcome> } {
  const directory = temporaryDirectory();
  cpSync(join(root, 'native'), join(directory.path, 'native'), { recursive: true });
  symlinkSync(join(root, 'node_modules'), join(directory.path, 'node_modules'));
  const build = (cc = 'gcc'): Promise<Outcome> =>
    outcomeOf(spawn('sh', [join(directory.path, 'native/build.sh')], { env: { ...process.env, CC: cc } }));
  return { path: directory.path, build, [Symbol.dispose]: () => directory[Symbol.dispose]() };
}

const outputs = ['fairlead-cni', 'fairlead.node', 'stamp'];

test('builds once, again when a source has changed, and again when an output is missing', async (t) => {
  using copy = copyOfSources();
  const built = /^native: built fairlead\.node \(\d+ bytes\) and fairlead-cni \(\d+ bytes\)\n$/;
  t.regex((await copy.build()).stdout, built);
  t.is((await copy.build()).stdout, 'native: up to date\n');
  writeFileSync(join(copy.path, 'native/errno.c'), '// changed\n', { flag: 'a' });
  t.regex((await copy.build()).stdout, built);
  rmSync(join(copy.path, '.cache/native/fairlead-cni'));
  t.regex((await copy.build()).stdout, built);
  t.deepEqual(readdirSync(join(copy.path, '.cache/native')).sort(), outputs);
});

test('two builds at the same time do not disturb each other', async (t) => {
  using copy = copyOfSources();
  const builds = await Promise.all([copy.build(), copy.build(), copy.build()]);
  t.deepEqual(
    builds.map(({ code, stderr }) => [code, stderr]),
    builds.map(() => [0, '']),
  );
  t.deepEqual(readdirSync(join(copy.path, '.cache/native')).sort(), outputs);
  t.is((await copy.build()).stdout, 'native: up to date\n');
});

test('a missing compiler is named together with what to install, unless nothing is to be built', async (t) => {
  using copy = copyOfSources();
  const refused = await copy.build('no-such-compiler');
  t.is(refused.code, 1);
  t.is(
    refused.stderr,
    'native: no C compiler (no-such-compiler); install one with `apt-get install gcc libc6-dev`\n',
  );
  t.false(existsSync(join(copy.path, '.cache/native/fairlead.node')));
  await copy.build();
  t.is((await copy.build('no-such-compiler')).stdout, 'native: up to date\n');
});

test('a source that does not compile leaves the last good build in place', async (t) => {
  using copy = copyOfSources();
  await copy.build();
  const before = statSync(join(copy.path, '.cache/native/fairlead.node')).mtimeMs;
  writeFileSync(join(copy.path, 'native/errno.c'), 'no C\n', { flag: 'a' });
  const refused = await copy.build();
  t.not(refused.code, 0);
  t.regex(refused.stderr, /errno\.c/);
  t.is(statSync(join(copy.path, '.cache/native/fairlead.node')).mtimeMs, before);
  t.deepEqual(readdirSync(join(copy.path, '.cache/native')).sort(), outputs);
});
