import { constants, fstatSync, unlinkSync } from 'node:fs';
import { type Descriptor, native } from '../native/index.ts';
import { KernelError } from './errors.ts';

/** An open network namespace: sockets and files can be opened inside it as long as it is not disposed. */
export interface Namespace extends Disposable {
  readonly fd: Descriptor;
  /** Tells namespaces apart; the same for every path to one namespace. */
  readonly inode: bigint;
}

/** Opens a namespace by path: `/run/netns/NAME`, `/proc/PID/ns/net`. Throws KernelError (ENOENT…). */
export function openNamespace(path: string): Namespace {
  try {
    return adoptNamespace(native.openFile(-1, path, constants.O_RDONLY));
  } catch (error) {
    throw KernelError.from(`open network namespace ${path}`, error);
  }
}

/** Takes over a descriptor of a namespace, such as one passed over a socket. */
export function adoptNamespace(fd: Descriptor): Namespace {
  const { ino } = fstatSync(fd, { bigint: true });
  return { fd, inode: ino, [Symbol.dispose]: () => native.close(fd) };
}

/** Makes a namespace and binds it to a new file at `path`, like `ip netns add`; its directory must be there. */
export function createNamespace(path: string): void {
  try {
    native.createNamespace(path);
  } catch (error) {
    throw KernelError.from(`create network namespace ${path}`, error);
  }
}

/** Takes the namespace off its file and removes the file, like `ip netns del`. What is gone is no failure. */
export function deleteNamespace(path: string): void {
  attempt(() => native.unmountNamespace(path), path, ['ENOENT', 'EINVAL']);
  attempt(() => unlinkSync(path), path, ['ENOENT']);
}

function attempt(action: () => void, path: string, expected: readonly string[]): void {
  try {
    action();
  } catch (error) {
    const failed = KernelError.from(`delete network namespace ${path}`, error);
    if (!(failed instanceof KernelError) || !expected.includes(failed.code)) throw failed;
  }
}
