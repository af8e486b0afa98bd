import { closeSync, linkSync, openSync, readFileSync, renameSync, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';

/** Another process holds the state directory. */
export class LockedError extends Error {
  override readonly name = 'LockedError';
}

/** Times that a lock left by a dead process is taken away before giving up on a race for it. */
const attemptsMax = 5;

/**
 * Makes this process the only user of the directory until it is disposed of or the process ends. The lock is a
 * file `lock` with the process's number and start time, so a number used again does not look alive.
 */
export function lockDirectory(directory: string): Disposable {
  const path = join(directory, 'lock');
  const own = join(directory, `lock.${process.pid}`);
  writeOwn(own, `${process.pid} ${startTime(process.pid) ?? ''}`);
  try {
    for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
      if (tryLink(own, path)) return { [Symbol.dispose]: () => unlinkIfThere(path) };
      removeStale(path, own);
    }
    throw new LockedError(`${path}: other processes take this lock at the same time`);
  } finally {
    unlinkIfThere(own);
  }
}

function writeOwn(path: string, text: string): void {
  const fd = openSync(path, 'w', 0o600);
  try {
    writeSync(fd, text);
  } finally {
    closeSync(fd);
  }
}

/** The content of the file and its name appear together: nobody ever reads a half-written lock. */
function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false;
    throw error;
  }
}

/** Throws {@link LockedError} when the holder is alive. */
function removeStale(path: string, own: string): void {
  const holder = readIfThere(path);
  if (holder === undefined) return;
  const [pid = '', started = ''] = holder.split(' ');
  if (started !== '' && startTime(Number(pid)) === started) {
    throw new LockedError(`${path}: process ${pid} uses this directory`);
  }
  const aside = `${own}.stale`;
  try {
    renameSync(path, aside);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    throw error;
  }
  // Someone was quicker and this is their new lock: give it back.
  if (readIfThere(aside) !== holder) tryLink(aside, path);
  unlinkIfThere(aside);
}

/** In clock ticks since boot (field 22 of proc(5)'s stat); undefined when there is no such process. */
function startTime(pid: number): string | undefined {
  const stat = readIfThere(`/proc/${pid}/stat`);
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ESRCH') return undefined;
    throw error;
  }
}

function unlinkIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
  }
}

function codeOf(error: unknown): unknown {
  return (error as NodeJS.ErrnoException).code;
}
