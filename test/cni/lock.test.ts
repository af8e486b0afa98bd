import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { LockedError, lockDirectory } from '../../cni/lock.ts';

const lockModule = fileURLToPath(new URL('../../cni/lock.ts', import.meta.url));

function directory(t: ExecutionContext): string {
  const path = mkdtempSync('/dev/shm/fairlead-lock-');
  t.teardown(() => rmSync(path, { recursive: true }));
  return path;
}

/** A process that holds the lock until it is killed. */
async function holder(t: ExecutionContext, path: string) {
  const script = `const { lockDirectory } = await import(${JSON.stringify(lockModule)});
    lockDirectory(${JSON.stringify(path)}); console.log('held'); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  return child;
}

test('a second process is told who holds the directory', async (t) => {
  const path = directory(t);
  const child = await holder(t, path);
  const error = t.throws(() => lockDirectory(path), { instanceOf: LockedError });
  t.is(error.message, `${path}/lock: process ${child.pid} uses this directory`);
});

test('the lock of a killed process is taken over', async (t) => {
  const path = directory(t);
  const child = await holder(t, path);
  child.kill('SIGKILL');
  await once(child, 'exit');
  using _lock = lockDirectory(path);
  t.true(readFileSync(join(path, 'lock'), 'utf8').startsWith(`${process.pid} `));
});

test('a process with the number of the dead holder is not taken for it', (t) => {
  const path = directory(t);
  writeFileSync(join(path, 'lock'), `${process.pid} 1`);
  using _lock = lockDirectory(path);
  t.pass();
});

test('an empty lock file, as a crash of the machine may leave it, is taken over', (t) => {
  const path = directory(t);
  writeFileSync(join(path, 'lock'), '');
  using _lock = lockDirectory(path);
  t.pass();
});

test('released, nothing of it is left', (t) => {
  const path = directory(t);
  lockDirectory(path)[Symbol.dispose]();
  t.deepEqual(readdirSync(path), []);
  t.false(existsSync(join(path, 'lock')));
});
