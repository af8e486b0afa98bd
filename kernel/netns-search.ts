import { closeSync, fstatSync, openSync, readdirSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Descriptor } from '../native/index.ts';

/** Where `ip netns` has its names. */
const namesDirectory = '/run/netns';

/**
 * Opens the network namespace with this number where a process of this machine is in it, or `ip netns` has a name for
 * it. Undefined: neither; it need not be gone.
 */
export function findNamespace(inode: number): Descriptor | undefined {
  for (const path of candidates(inode)) {
    const fd = openIfThere(path);
    if (fd === undefined) continue;
    // The process may be another one by now.
    if (fstatSync(fd).ino === inode) return fd;
    closeSync(fd);
  }
  return undefined;
}

/** Of the machine's first namespace of processes (PROC_PID_INIT_INO). */
const firstProcessesInode = 0xefff_fffc;

/** Whether {@link findNamespace} looks at all processes of the machine, not only at those of a container. */
export function seesAllProcesses(): boolean {
  return attempt(() => statSync('/proc/self/ns/pid').ino) === firstProcessesInode;
}

function* candidates(inode: number): Generator<string> {
  const link = `net:[${inode}]`;
  for (const name of namesIn('/proc')) {
    const path = `/proc/${name}/ns/net`;
    if (/^\d+$/.test(name) && attempt(() => readlinkSync(path)) === link) yield path;
  }
  for (const name of namesIn(namesDirectory)) {
    const path = join(namesDirectory, name);
    if (attempt(() => statSync(path).ino) === inode) yield path;
  }
}

function namesIn(directory: string): string[] {
  return attempt(() => readdirSync(directory)) ?? [];
}

function openIfThere(path: string): Descriptor | undefined {
  return attempt(() => openSync(path, 'r'));
}

/** Processes and names come and go. */
function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}
