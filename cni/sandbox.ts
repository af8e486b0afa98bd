import { fstatSync, lstatSync, statSync } from 'node:fs';

/** A container's namespace by a name that lasts as long as the container. */
export interface Sandbox {
  /** Of a file that the namespace is mounted on. */
  readonly path: string;
  readonly inode: number;
  /** Number of the mount namespace that the path was seen in. */
  readonly mounts: number;
}

/**
 * By its path as the runtime gave it, if that is a mount that this process sees. A path below /proc ends with a thread or
 * a process, and a symbolic link may lead there: neither says anything about the namespace.
 */
export function sandboxOf(path: string, namespaceFd: number | undefined): Sandbox | undefined {
  if (namespaceFd === undefined || !path.startsWith('/')) return undefined;
  const there = inodeAt(path);
  if (typeof there !== 'number' || path.startsWith('/proc/') || fstatSync(namespaceFd).ino !== there) {
    return undefined;
  }
  return { path, inode: there, mounts: ownMounts() };
}

/** Whether the namespace is still where it was; undefined: nobody can tell from here. */
export function isThere({ path, inode, mounts }: Sandbox): boolean | undefined {
  const there = inodeAt(path);
  if (there === inode) return true;
  return there === 'hidden' || mounts !== ownMounts() ? undefined : false;
}

let mountsNumber: number | undefined;

function ownMounts(): number {
  mountsNumber ??= statSync('/proc/self/ns/mnt').ino;
  return mountsNumber;
}

/** "hidden": something else than its absence keeps it from being seen. */
function inodeAt(path: string): number | 'missing' | 'hidden' {
  try {
    const stat = lstatSync(path);
    return stat.isSymbolicLink() ? 'hidden' : stat.ino;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'missing' : 'hidden';
  }
}
