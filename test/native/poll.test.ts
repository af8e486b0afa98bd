import { fileURLToPath } from 'node:url';
import test from 'ava';
import { native } from '../../native/index.ts';
import {
  addBridge,
  getLink,
  NETLINK_ADD_MEMBERSHIP,
  parseLinkNames,
  RTNLGRP_LINK,
  SOL_NETLINK,
  setLinkUp,
} from './netlink.ts';
import { openDescriptors, routeSocket, runScript, temporaryNamespace } from './setting.ts';

const empty = new Uint8Array();

/** A poll that a failing test stops too. */
function pollOf(fd: number, callback: () => void): Disposable & { stop: () => void } {
  const { stop } = native.poll(fd, callback);
  return { stop, [Symbol.dispose]: stop };
}

/** After it, what had come was told: a loop that was held up runs its timers before it looks at descriptors. */
const pause = (ms: number): Promise<void> =>
  new Promise((resolve) => setTimeout(() => setImmediate(() => setImmediate(resolve)), ms));

test.serial('the callback comes when something can be read', async (t) => {
  using namespace = temporaryNamespace();
  using socket = routeSocket(namespace.fd);
  using listener = routeSocket(namespace.fd);
  native.setOption(listener.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_LINK);
  const seen = new Set<string>();
  using poll = pollOf(listener.fd, () => {
    for (const name of parseLinkNames(native.exchange(listener.fd, empty))) seen.add(name);
  });
  await pause(20);
  t.deepEqual(seen, new Set());
  for (const name of ['p1', 'p2']) {
    native.exchange(socket.fd, addBridge(name));
    await pause(20);
  }
  t.deepEqual(seen, new Set(['p1', 'p2']));
  poll.stop();
  native.exchange(socket.fd, addBridge('p3'));
  await pause(20);
  t.deepEqual(seen, new Set(['p1', 'p2']));
});

test.serial('an overrun wakes the poll, is told once, and the poll goes on', async (t) => {
  using namespace = temporaryNamespace();
  using socket = routeSocket(namespace.fd, 8 << 20);
  using listener = routeSocket(namespace.fd, 4096);
  native.setOption(listener.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_LINK);
  const seen: unknown[] = [];
  using _poll = pollOf(listener.fd, () => {
    try {
      seen.push(...parseLinkNames(native.exchange(listener.fd, empty)));
    } catch (error) {
      seen.push((error as { code?: string }).code);
    }
  });
  native.exchange(socket.fd, Buffer.concat(Array.from({ length: 100 }, (_, i) => setLinkUp(1, i % 2 === 0))));
  await pause(20);
  t.deepEqual(seen, ['ENOBUFS']);
  native.exchange(socket.fd, addBridge('after'));
  await pause(20);
  t.deepEqual([...new Set(seen)], ['ENOBUFS', 'after']);
});

test.serial('a poll can be stopped in its own callback, and twice', async (t) => {
  using socket = routeSocket();
  native.send(socket.fd, getLink(1));
  let calls = 0;
  const { stop } = native.poll(socket.fd, () => {
    calls++;
    stop();
  });
  await pause(20);
  stop();
  t.is(calls, 1);
});

test.serial('promises of the callback run before the next callback', async (t) => {
  using socket = routeSocket();
  native.send(socket.fd, getLink(1));
  const order: string[] = [];
  using poll = pollOf(socket.fd, () => {
    order.push('callback');
    void Promise.resolve().then(() => order.push('promise'));
    if (order.length > 4) poll.stop();
  });
  await pause(20);
  t.deepEqual(order.slice(0, 4), ['callback', 'promise', 'callback', 'promise']);
});

test.serial('what cannot be polled is refused', (t) => {
  using socket = routeSocket();
  t.throws(() => native.poll(99_999, () => {}), { code: 'EBADF' });
  const poll = native.poll(socket.fd, () => {});
  t.throws(() => native.poll(socket.fd, () => {}), { code: 'EEXIST' });
  poll.stop();
  const regular = native.openFile(-1, '/proc/self/exe', 0);
  t.throws(() => native.poll(regular, () => {}), { code: 'EPERM' });
  native.close(regular);
});

test.serial('hundreds of polls leave nothing behind, and a descriptor can be polled again', async (t) => {
  using socket = routeSocket();
  const before = openDescriptors();
  for (let i = 0; i < 300; i++) {
    const poll = native.poll(socket.fd, () => {});
    poll.stop();
    if (i % 50 === 0) await pause(1);
  }
  t.deepEqual(openDescriptors(), before);
});

const route = `const { getLink } = await import(${JSON.stringify(fileURLToPath(new URL('./netlink.ts', import.meta.url)))});
const fd = native.openSocket(-1, 16, 3, 0, 0);`;

test('a poll keeps the process alive until it is stopped', async (t) => {
  const script = `${route} const poll = native.poll(fd, () => {});
    setTimeout(() => { poll.stop(); console.log('stopped'); }, 100).unref();`;
  const { code, stdout } = await runScript(script);
  t.deepEqual([code, stdout], [0, 'stopped\n']);
});

test('an error in the callback is an uncaught exception', async (t) => {
  const script = `${route} const poll = native.poll(fd, () => { poll.stop(); throw new Error('from the callback'); });
    process.on('uncaughtException', (error) => console.log(error.message)); native.send(fd, getLink(1));`;
  const { code, stdout } = await runScript(script);
  t.deepEqual([code, stdout], [0, 'from the callback\n']);
});
