import { constants } from 'node:os';
import test from 'ava';
import { native } from '../../native/index.ts';
import {
  addBridge,
  addUnreachable,
  countRoutes,
  deleteLink,
  dumpLinks,
  dumpRoutes,
  getLink,
  NETLINK_ADD_MEMBERSHIP,
  parseErrors,
  parseLinkNames,
  RTNLGRP_LINK,
  SOL_NETLINK,
  setLinkUp,
} from './netlink.ts';
import { openDescriptors, routeSocket, temporaryNamespace } from './setting.ts';

const empty = new Uint8Array();

/** Link changes of lo, as many notifications. */
const flaps = (count: number): Buffer =>
  Buffer.concat(Array.from({ length: count }, (_, i) => setLinkUp(1, i % 2 === 0)));

const manyRoutes = (count: number): Buffer =>
  Buffer.concat(
    Array.from({ length: count }, (_, i) => addUnreachable([10, i >> 16, (i >> 8) & 255, i & 255])),
  );

test('every message of a batch has its own answer', (t) => {
  using namespace = temporaryNamespace();
  using socket = routeSocket(namespace.fd);
  const batch = Buffer.concat([
    addBridge('a'),
    addBridge('a'),
    getLink(9999),
    addBridge('b'),
    deleteLink('a'),
  ]);
  const { EEXIST, ENODEV } = constants.errno;
  t.deepEqual(parseErrors(native.exchange(socket.fd, batch)), [0, EEXIST, ENODEV, 0, 0]);
  t.true(parseLinkNames(native.exchange(socket.fd, dumpLinks())).includes('b'));
});

test('an answer larger than any buffer at hand comes whole', async (t) => {
  using namespace = temporaryNamespace();
  using socket = routeSocket(namespace.fd, 64 << 20);
  const count = 30_000;
  t.deepEqual(new Set(parseErrors(native.exchange(socket.fd, manyRoutes(count)))), new Set([0]));
  const answer = native.exchange(socket.fd, dumpRoutes());
  t.true(answer.length > 1 << 20);
  t.is(countRoutes(answer), count);
  const lane = native.lane();
  const [again] = await native.run(lane, [{ fd: socket.fd, data: dumpRoutes() }]);
  t.is(countRoutes(again ?? Buffer.alloc(0)), count);
  lane.close();
});

test('empty data reads the notifications that wait', (t) => {
  using namespace = temporaryNamespace();
  using socket = routeSocket(namespace.fd);
  using listener = routeSocket(namespace.fd);
  native.setOption(listener.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_LINK);
  t.is(native.exchange(listener.fd, empty).length, 0);
  native.exchange(socket.fd, addBridge('seen'));
  t.deepEqual(new Set(parseLinkNames(native.exchange(listener.fd, empty))), new Set(['seen']));
  t.is(native.exchange(listener.fd, empty).length, 0);
});

test('lost notifications are ENOBUFS once, and the socket goes on', (t) => {
  using namespace = temporaryNamespace();
  using socket = routeSocket(namespace.fd, 8 << 20);
  using listener = routeSocket(namespace.fd, 4096);
  native.setOption(listener.fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_LINK);
  native.exchange(socket.fd, flaps(100));
  const error = t.throws(() => native.exchange(listener.fd, empty), { code: 'ENOBUFS' });
  t.like(error, { syscall: 'recvfrom' });
  t.is(native.exchange(listener.fd, empty).length, 0);
  native.exchange(socket.fd, addBridge('later'));
  t.deepEqual(new Set(parseLinkNames(native.exchange(listener.fd, empty))), new Set(['later']));
});

test('an answer that does not fit is ENOBUFS, and nothing of it reaches the next request', (t) => {
  using socket = routeSocket(-1, 4096);
  const batch = Buffer.concat(Array.from({ length: 60 }, () => getLink(1)));
  t.throws(() => native.exchange(socket.fd, batch), { code: 'ENOBUFS' });
  t.deepEqual(parseErrors(native.exchange(socket.fd, getLink(1))), [0]);
});

test('the buffer that comes back is the callers own', (t) => {
  using socket = routeSocket();
  const first = native.exchange(socket.fd, getLink(1));
  const copy = Buffer.from(first);
  native.exchange(socket.fd, getLink(9999));
  t.deepEqual(first, copy);
});

test('hundreds of exchanges leave no descriptor open', (t) => {
  using socket = routeSocket();
  const before = openDescriptors();
  for (let i = 0; i < 500; i++) {
    native.exchange(socket.fd, getLink(1));
    t.throws(() => native.exchange(0, getLink(1)));
  }
  t.deepEqual(openDescriptors(), before);
});
