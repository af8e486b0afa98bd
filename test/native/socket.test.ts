import { readFileSync, readlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { constants } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { native } from '../../native/index.ts';
import {
  AF_NETLINK,
  addBridge,
  deleteLink,
  dumpLinks,
  dumpLinksWithBadHeader,
  NETLINK_ROUTE,
  parseDumpEnd,
  parseErrors,
  parseLinkNames,
  parseMessages,
  SOCK_RAW,
  touchLink,
} from './netlink.ts';
import {
  openDescriptors,
  routeSocket,
  temporaryDirectory,
  temporaryNamespace,
  threadNamespaces,
} from './setting.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOL_SOCKET = 1;
const SO_PASSCRED = 16;
const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;

const unixAddress = (path: string): Buffer =>
  Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(`${path}\0`)]);

const flagsOf = (fd: number): number =>
  Number.parseInt(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8').match(/flags:\s*(\d+)/)?.[1] ?? '', 8);

const tick = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 1));

async function eventually<T>(read: () => T | undefined): Promise<T> {
  for (let tries = 0; tries < 30_000; tries++) {
    const value = read();
    if (value !== undefined) return value;
    await tick();
  }
  throw new Error('nothing came within half a minute');
}

/** A listening unix socket of the addon's and a client of Node's. */
async function connectedPair(path: string) {
  const listener = native.openSocket(-1, AF_UNIX, SOCK_STREAM, 0, 0);
  native.bind(listener, unixAddress(path), 8);
  const client = connect(path);
  const fd = await eventually(() => native.accept(listener));
  return {
    fd,
    client,
    listener,
    async [Symbol.asyncDispose]() {
      const closed = new Promise((resolve) => client.once('close', resolve));
      client.destroy();
      native.close(fd);
      native.close(listener);
      await closed;
    },
  };
}

test.serial('a socket opened inside a namespace is there, and nowhere else', (t) => {
  using namespace = temporaryNamespace();
  using outside = routeSocket();
  using inside = routeSocket(namespace.fd);
  t.deepEqual(parseErrors(native.exchange(inside.fd, addBridge('only-inside'))), [0]);
  t.true(parseLinkNames(native.exchange(inside.fd, dumpLinks())).includes('only-inside'));
  t.false(parseLinkNames(native.exchange(outside.fd, dumpLinks())).includes('only-inside'));
});

test.serial('no thread of the process is ever left in another namespace', (t) => {
  using namespace = temporaryNamespace();
  const before = readlinkSync('/proc/thread-self/ns/net');
  for (let i = 0; i < 50; i++)
    native.close(native.openSocket(namespace.fd, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE, 0));
  t.is(readlinkSync('/proc/thread-self/ns/net'), before);
  t.deepEqual(threadNamespaces(), new Set([before]));
});

test.serial('sockets are non-blocking and close-on-exec', (t) => {
  using socket = routeSocket();
  t.is(flagsOf(socket.fd) & (O_NONBLOCK | O_CLOEXEC), O_NONBLOCK | O_CLOEXEC);
});

test.serial('buffers are forced above the limit of the system', (t) => {
  const batch = Buffer.concat(Array.from({ length: 40_000 }, () => touchLink(1)));
  using small = routeSocket(-1, 0);
  t.throws(() => native.exchange(small.fd, batch), { code: 'EMSGSIZE' });
  using large = routeSocket(-1, 32 << 20);
  t.is(parseErrors(native.exchange(large.fd, batch)).length, 40_000);
});

test.serial('strict checks are on and refusals carry the text of the kernel', (t) => {
  using socket = routeSocket();
  const answer = native.exchange(socket.fd, dumpLinksWithBadHeader());
  const end = parseDumpEnd(answer);
  t.is(end?.error, constants.errno.EINVAL);
  t.regex(String(end?.payload.toString('latin1')), /Invalid values in header for link dump request/);
});

test.serial('an acknowledgement does not carry the request back', (t) => {
  using socket = routeSocket();
  const [ack] = parseMessages(native.exchange(socket.fd, touchLink(1)));
  t.is(ack?.payload.length, 4 + 16);
  const [refusal] = parseMessages(native.exchange(socket.fd, deleteLink('x'.repeat(15))));
  t.deepEqual([refusal?.payload.readInt32LE(0), refusal?.payload.length], [-constants.errno.ENODEV, 4 + 16]);
});

test.serial('a descriptor that is no namespace is refused by setns', (t) => {
  using directory = temporaryDirectory();
  const fd = native.openFile(-1, directory.path, 0);
  t.throws(() => native.openSocket(fd, AF_NETLINK, SOCK_RAW, 0, 0), { code: 'EINVAL', message: /setns/ });
  native.close(fd);
  t.throws(() => native.openSocket(fd, AF_NETLINK, SOCK_RAW, 0, 0), { code: 'EBADF', message: /setns/ });
});

test.serial('errors carry code, errno and the system call', (t) => {
  const error = t.throws(() => native.openSocket(-1, 12345, 1, 0, 0), { code: 'EAFNOSUPPORT' });
  t.like(error, { errno: constants.errno.EAFNOSUPPORT, syscall: 'socket' });
  t.like(
    t.throws(() => native.close(99_999)),
    { code: 'EBADF', syscall: 'close' },
  );
  t.like(
    t.throws(() => native.accept(99_999)),
    { code: 'EBADF', syscall: 'accept' },
  );
  t.like(
    t.throws(() => native.receive(99_999, 1)),
    { code: 'EBADF', syscall: 'recvmsg' },
  );
  t.like(
    t.throws(() => native.send(99_999, Buffer.from('x'))),
    { code: 'EBADF', syscall: 'send' },
  );
  t.like(
    t.throws(() => native.exchange(99_999, Buffer.from('x'))),
    { code: 'EBADF', syscall: 'sendmsg' },
  );
  t.like(
    t.throws(() => native.exchange(99_999, new Uint8Array())),
    { code: 'EBADF', syscall: 'recvfrom' },
  );
  t.like(
    t.throws(() => native.bind(99_999, unixAddress('/x'), 0)),
    { code: 'EBADF', syscall: 'bind' },
  );
  t.like(
    t.throws(() => native.setOption(99_999, 1, 1, 1)),
    { code: 'EBADF', syscall: 'setsockopt' },
  );
  using socket = routeSocket();
  t.throws(() => native.setOption(socket.fd, 270, 9999, 1), { code: 'ENOPROTOOPT' });
});

test.serial('accept says undefined when nobody waits, and takes one connection at a time', async (t) => {
  using directory = temporaryDirectory();
  await using pair = await connectedPair(join(directory.path, 's'));
  t.is(native.accept(pair.listener), undefined);
  t.is(flagsOf(pair.fd) & (O_NONBLOCK | O_CLOEXEC), O_NONBLOCK | O_CLOEXEC);
});

test.serial('bytes go both ways, and the end of the stream is empty data', async (t) => {
  using directory = temporaryDirectory();
  await using pair = await connectedPair(join(directory.path, 's'));
  t.is(native.receive(pair.fd, 100), undefined);
  pair.client.write('hello');
  const first = await eventually(() => native.receive(pair.fd, 3));
  t.deepEqual([first.data.toString(), first.fds, first.uid], ['hel', [], undefined]);
  t.is(native.receive(pair.fd, 100)?.data.toString(), 'lo');
  const answer = new Promise((resolve) => pair.client.once('data', (data) => resolve(data.toString())));
  t.is(native.send(pair.fd, Buffer.from('answer')), 6);
  t.is(await answer, 'answer');
  pair.client.end();
  t.is((await eventually(() => native.receive(pair.fd, 100))).data.length, 0);
});

test.serial('the uid of the sender comes along when it is asked for', async (t) => {
  using directory = temporaryDirectory();
  const path = join(directory.path, 's');
  await using pair = await connectedPair(path);
  native.setOption(pair.fd, SOL_SOCKET, SO_PASSCRED, 1);
  pair.client.write('x');
  t.is((await eventually(() => native.receive(pair.fd, 100))).uid, process.getuid?.());
});

test.serial('a full socket takes a part, then nothing', async (t) => {
  using directory = temporaryDirectory();
  await using pair = await connectedPair(join(directory.path, 's'));
  pair.client.pause();
  const data = new Uint8Array(64 << 10);
  let sent = 0;
  for (let taken = native.send(pair.fd, data); taken !== undefined; taken = native.send(pair.fd, data))
    sent += taken;
  t.true(sent > data.length);
  t.is(native.send(pair.fd, data), undefined);
});

test.serial('sending to a peer that has gone is EPIPE and no signal', async (t) => {
  using directory = temporaryDirectory();
  await using pair = await connectedPair(join(directory.path, 's'));
  pair.client.destroy();
  await eventually(() => native.receive(pair.fd, 1));
  t.throws(() => native.send(pair.fd, Buffer.from('x')), { code: 'EPIPE' });
});

test.serial('hundreds of calls, refused ones too, leave no descriptor open', async (t) => {
  using directory = temporaryDirectory();
  using namespace = temporaryNamespace();
  const before = openDescriptors();
  for (let i = 0; i < 300; i++) {
    native.close(native.openSocket(-1, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE, 1 << 20));
    native.close(native.openSocket(namespace.fd, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE, 1 << 20));
    t.throws(() => native.openSocket(namespace.fd, AF_NETLINK, SOCK_RAW, 200, 0));
    t.throws(() => native.openSocket(0, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE, 0));
  }
  for (let i = 0; i < 20; i++) {
    await using pair = await connectedPair(join(directory.path, `s${i}`));
    pair.client.write('x');
    await eventually(() => native.receive(pair.fd, 10));
  }
  t.deepEqual(openDescriptors(), before);
});
