import { constants, readFileSync } from 'node:fs';
import { native } from '../native/index.ts';
import { KernelError } from './errors.ts';

/** A file of /proc/net, of a namespace; undefined where the kernel has none of this name. */
export function readProcNet(name: string, namespaceFd = -1): string | undefined {
  try {
    // That of the thread, which is in the namespace when it opens it.
    const fd = native.openFile(namespaceFd, `/proc/thread-self/net/${name}`, constants.O_RDONLY);
    try {
      return readFileSync(fd, 'utf8');
    } finally {
      native.close(fd);
    }
  } catch (error) {
    const failed = KernelError.from(`/proc/net/${name}`, error);
    if (failed instanceof KernelError && failed.code === 'ENOENT') return undefined;
    throw failed;
  }
}
