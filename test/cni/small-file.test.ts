import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { readSmallFile, smallFileBytesMax } from '../../cni/small-file.ts';

test('a file is read up to its limit, and neither a pipe nor a device nor a directory is', (t) => {
  const directory = mkdtempSync('/tmp/fairlead-test-');
  t.teardown(() => rmSync(directory, { recursive: true }));
  const path = (name: string) => join(directory, name);
  writeFileSync(path('empty'), '');
  writeFileSync(path('full'), 'x'.repeat(smallFileBytesMax));
  writeFileSync(path('long'), 'x'.repeat(smallFileBytesMax + 1));
  execFileSync('mkfifo', [path('pipe')]);
  t.is(readSmallFile(path('empty')), '');
  t.is(readSmallFile(path('full')).length, smallFileBytesMax);
  t.regex(readSmallFile('/proc/self/status'), /^Name:/);
  t.throws(() => readSmallFile(path('long')), { message: /has more than 65536 bytes$/ });
  for (const other of [path('pipe'), '/dev/zero', directory]) {
    t.throws(() => readSmallFile(other), { message: /is no regular file$/ });
  }
  t.throws(() => readSmallFile(path('none')), { code: 'ENOENT' });
});
