import { existsSync, readFileSync, readlinkSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { native } from '../../native/index.ts';
import { dumpLinks, parseLinkNames } from './netlink.ts';
import {
  openDescriptors,
  routeSocket,
  runScript,
  temporaryDirectory,
  temporaryNamespace,
  threadNamespaces,
} from './setting.ts';

const O_RDWR = 2;

test.serial('a new namespace is bound to its file and has nothing but what the kernel puts there', (t) => {
  using namespace = temporaryNamespace();
  t.not(statSync(namespace.path).ino, statSync('/proc/thread-self/ns/net').ino);
  using socket = routeSocket(namespace.fd);
  t.true(parseLinkNames(native.exchange(socket.fd, dumpLinks())).includes('lo'));
});

test.serial('an existing empty file is used, and stays after the unmount', (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 'net');
  writeFileSync(path, '');
  const { ino } = statSync(path);
  native.createNamespace(path);
  t.not(statSync(path).ino, ino);
  native.unmountNamespace(path);
  t.is(statSync(path).ino, ino);
});

test.serial('the caller stays in its namespace', (t) => {
  const before = readlinkSync('/proc/thread-self/ns/net');
  using _namespace = temporaryNamespace();
  t.is(readlinkSync('/proc/thread-self/ns/net'), before);
  t.is(threadNamespaces().size, 1);
});

test.serial('a path that cannot be is refused by name of the call', (t) => {
  using directory = temporaryDirectory();
  t.throws(() => native.createNamespace(join(directory.path, 'no', 'net')), {
    code: 'ENOENT',
    message: /open/,
  });
  t.throws(() => native.createNamespace(directory.path), { code: 'ENOTDIR', message: /mount/ });
  t.throws(() => native.unmountNamespace(join(directory.path, 'no')), { code: 'ENOENT', message: /umount2/ });
  t.throws(() => native.unmountNamespace(directory.path), { code: 'EINVAL', message: /umount2/ });
});

test.serial('a refused namespace takes the file that was made for it along', async (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 'net');
  const script = `try { native.createNamespace(${JSON.stringify(path)}); } catch (error) { console.log(error.code, error.syscall); }`;
  const { stdout } = await runScript(script, ['setpriv', '--bounding-set=-sys_admin']);
  t.is(stdout, 'EPERM unshare\n');
  t.false(existsSync(path));
});

test.serial('a sysctl opened inside is the one of that namespace', (t) => {
  using namespace = temporaryNamespace();
  const path = '/proc/sys/net/ipv4/conf/lo/tag';
  const outside = readFileSync(path, 'utf8');
  const fd = native.openFile(namespace.fd, path, O_RDWR);
  writeSync(fd, '4711');
  native.close(fd);
  const again = native.openFile(namespace.fd, path, 0);
  t.is(readFileSync(again, 'utf8'), '4711\n');
  native.close(again);
  t.is(readFileSync(path, 'utf8'), outside);
});

test.serial('a file that is not there is ENOENT, inside and outside', (t) => {
  using namespace = temporaryNamespace();
  for (const fd of [-1, namespace.fd]) {
    const error = t.throws(() => native.openFile(fd, '/proc/sys/net/ipv4/no', 0), { code: 'ENOENT' });
    t.like(error, { syscall: 'open', errno: 2 });
  }
});

test.serial('a hundred namespaces come and go without a descriptor or a mount left', (t) => {
  using directory = temporaryDirectory();
  const before = openDescriptors();
  for (let i = 0; i < 100; i++) {
    const path = join(directory.path, 'net');
    native.createNamespace(path);
    const fd = native.openFile(-1, path, 0);
    native.close(native.openFile(fd, '/proc/sys/net/ipv4/ip_forward', 0));
    native.close(fd);
    native.unmountNamespace(path);
    t.throws(() => native.createNamespace(directory.path));
  }
  t.deepEqual(openDescriptors(), before);
  t.false(readFileSync('/proc/self/mounts', 'utf8').includes(directory.path));
});
