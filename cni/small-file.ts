import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';

/** Far more than any file that a configuration names has. */
export const smallFileBytesMax = 64 << 10;

/**
 * The text of a file that a configuration names. Nothing else is read: a pipe would hold up the agent for ever, a device
 * fill its memory. Throws Error.
 */
export function readSmallFile(path: string): string {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    if (!fstatSync(fd).isFile()) throw new Error(`${path} is no regular file`);
    const bytes = Buffer.alloc(smallFileBytesMax + 1);
    let length = 0;
    for (let got = -1; got !== 0 && length < bytes.length; length += got)
      got = readSync(fd, bytes, { offset: length });
    if (length > smallFileBytesMax) throw new Error(`${path} has more than ${smallFileBytesMax} bytes`);
    return bytes.toString('utf8', 0, length);
  } finally {
    closeSync(fd);
  }
}
