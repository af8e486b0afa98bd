import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { InputError } from '../../../core/errors.ts';
import { untilFileChanged } from '../../../proxy/config/watch.ts';

function folder(t: ExecutionContext): string {
  const path = mkdtempSync(join(tmpdir(), 'fairlead-config-'));
  t.teardown(() => rmSync(path, { recursive: true }));
  return path;
}

/** Watches a file that says "one"; texts with "bad" in them cannot be used. */
function watched(t: ExecutionContext, path: string, pollIntervalMs = 60_000) {
  const stop = new AbortController();
  t.teardown(() => stop.abort());
  const invalid: string[] = [];
  const changed = untilFileChanged({
    path,
    text: 'one',
    validate(text) {
      if (text.includes('bad')) throw new InputError(text, []);
    },
    onInvalid: ({ message }) => invalid.push(message),
    signal: stop.signal,
    pollIntervalMs,
  });
  return { changed, invalid, stop };
}

test('a file that is written anew is noticed; what cannot be used is told of once', async (t) => {
  const path = join(folder(t), 'config.conf');
  writeFileSync(path, 'one');
  const { changed, invalid } = watched(t, path);
  writeFileSync(path, 'bad');
  for (let tries = 0; tries < 3_000 && invalid.length === 0; tries += 1) await sleep(10);
  writeFileSync(path, 'bad');
  await sleep(400);
  t.deepEqual(invalid, ['bad: ']);
  writeFileSync(path, 'two');
  t.true(await changed);
});

test('a file that is renamed into place is noticed; one that is touched, or back as it was, is not', async (t) => {
  const path = join(folder(t), 'config.conf');
  writeFileSync(path, 'one');
  const { changed, stop } = watched(t, path);
  writeFileSync(path, 'one');
  rmSync(path);
  await sleep(300);
  writeFileSync(path, 'one');
  const early = await Promise.race([changed, sleep(500, 'not yet')]);
  t.is(early, 'not yet');
  writeFileSync(`${path}.new`, 'two');
  renameSync(`${path}.new`, path);
  t.true(await changed);
  t.false(stop.signal.aborted);
});

test('the link that Kubernetes swaps in a ConfigMap’s volume is noticed', async (t) => {
  const root = folder(t);
  for (const [name, text] of [
    ['..1', 'one'],
    ['..2', 'two'],
  ] as const) {
    mkdirSync(join(root, name));
    writeFileSync(join(root, name, 'config.conf'), text);
  }
  symlinkSync('..1', join(root, '..data'));
  symlinkSync('..data/config.conf', join(root, 'config.conf'));
  const { changed } = watched(t, join(root, 'config.conf'));
  symlinkSync('..2', join(root, '..data_tmp'));
  renameSync(join(root, '..data_tmp'), join(root, '..data'));
  t.true(await changed);
});

test('a change from before the watch counts, and where nothing tells of changes the file is looked at', async (t) => {
  const root = folder(t);
  const path = join(root, 'away', 'config.conf');
  const { changed } = watched(t, path, 50);
  mkdirSync(join(root, 'away'));
  writeFileSync(path, 'two');
  t.true(await changed);
  t.true(await watched(t, path).changed);
});

test('an end of watching is no change', async (t) => {
  const path = join(folder(t), 'config.conf');
  writeFileSync(path, 'one');
  const { changed, stop } = watched(t, path);
  stop.abort();
  t.false(await changed);
});
