import { randomBytes } from 'node:crypto';
import { existsSync, statSync } from 'node:fs';
import test from 'ava';
import { createNamespace, deleteNamespace, openNamespace } from '../../kernel/netns.ts';
import { openSpace } from './kernel-space.ts';

test('a new namespace has a file, an inode of its own, and can be opened by either path', (t) => {
  const space = openSpace(t);
  using namespace = openNamespace(space.path);
  using again = openNamespace(`/proc/self/fd/${namespace.fd}`);
  using own = openNamespace('/proc/self/ns/net');
  t.is(namespace.inode, again.inode);
  t.is(namespace.inode, statSync(space.path, { bigint: true }).ino);
  t.not(namespace.inode, own.inode);
});

test('a deleted namespace leaves no file, and deleting it again is no failure', (t) => {
  const path = `/run/netns/fl-test-${randomBytes(4).toString('hex')}`;
  t.teardown(() => deleteNamespace(path));
  createNamespace(path);
  deleteNamespace(path);
  t.false(existsSync(path));
  t.notThrows(() => deleteNamespace(path));
});

test('a namespace that is not there is named in the error', (t) => {
  t.throws(() => openNamespace('/run/netns/fl-test-nowhere'), {
    message: /^open network namespace \/run\/netns\/fl-test-nowhere: ENOENT/,
    code: 'ENOENT',
  });
  t.throws(() => createNamespace('/run/netns/no/such/folder'), { code: 'ENOENT' });
});
