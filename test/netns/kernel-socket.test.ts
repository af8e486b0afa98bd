import { setImmediate as immediate } from 'node:timers/promises';
import test from 'ava';
import type { Cidr, Ip } from '../../core/address.ts';
import { KernelError } from '../../kernel/errors.ts';
import { type NetlinkMessage, NLM_F_ACK, NLM_F_CREATE } from '../../kernel/netlink/message.ts';
import {
  decodeLink,
  encodeLink,
  getLinkMessage,
  IFF_UP,
  type Link,
} from '../../kernel/netlink/route/link.ts';
import { decodeRoute, encodeRoute, encodeRouteDump } from '../../kernel/netlink/route/route.ts';
import { RTM_GETROUTE, RTM_NEWLINK, RTM_NEWROUTE } from '../../kernel/netlink/route/rtnetlink.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { native } from '../../native/index.ts';
import { openSpace, type Space } from './kernel-space.ts';

function route(destination: string, gateway: string): NetlinkMessage {
  const payload = encodeRoute({
    destination: destination as Cidr,
    gateway: gateway as Ip,
    table: 254,
    protocol: 88,
    scope: 0,
    type: 1,
  });
  return { type: RTM_NEWROUTE, flags: NLM_F_CREATE, payload, operation: `RTM_NEWROUTE ${destination}` };
}

const dumpRoutes: NetlinkMessage = {
  type: RTM_GETROUTE,
  flags: 0,
  payload: encodeRouteDump(4, { protocol: 88 }),
};

function openRouted(t: Parameters<typeof openSpace>[0]): Space {
  const space = openSpace(t);
  space.ip(`
    link add one type veth peer name two
    link set two up
    link set one up
    address add 10.0.0.1/24 dev one`);
  return space;
}

/** Every seventh of many routes has a gateway that the kernel refuses. */
const many = Array.from({ length: 3000 }, (_, index) => {
  const destination = `10.${100 + (index >> 8)}.${index & 255}.0/24`;
  return route(destination, index % 7 === 0 ? '172.31.0.1' : '10.0.0.2');
});

for (const withLane of [false, true]) {
  const how = withLane ? 'on a lane' : 'on the calling thread';

  test(`thousands of messages in several datagrams each have their outcome, ${how}`, async (t) => {
    const space = openRouted(t);
    const lane = withLane ? native.lane() : undefined;
    t.teardown(() => lane?.close());
    using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd: space.fd, lane });
    const outcomes = await socket.submit(many);
    t.is(outcomes.length, many.length);
    outcomes.forEach((error, index) => {
      if ((error !== undefined) !== (index % 7 === 0)) t.fail(`${index}: ${error?.message}`);
    });
    t.is(outcomes[7]?.message, 'RTM_NEWROUTE 10.100.7.0/24: ENETUNREACH: Nexthop has invalid gateway');
    const rows = await socket.dump(dumpRoutes);
    t.is(rows.length, many.length - Math.ceil(many.length / 7));
    t.true(rows.every(({ payload }) => decodeRoute(payload).protocol === 88));
  });

  test(`requests made at the same time are each answered with their own, ${how}`, async (t) => {
    const space = openRouted(t);
    const lane = withLane ? native.lane() : undefined;
    t.teardown(() => lane?.close());
    using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd: space.fd, lane });
    const names = ['one', 'two', 'lo', 'nowhere'];
    const answers = await Promise.allSettled(
      Array.from({ length: 40 }, (_, index) => socket.request(getLinkMessage({ name: names[index % 4] }))),
    );
    answers.forEach((answer, index) => {
      const name = names[index % 4];
      if (answer.status === 'rejected') {
        t.is(name, 'nowhere');
        t.is((answer.reason as KernelError).code, 'ENODEV');
      } else t.is(decodeLink(answer.value[0]?.payload ?? new Uint8Array()).name, name);
    });
  });
}

test('a refused request throws what the kernel said', async (t) => {
  const { socket } = openRouted(t);
  const error = await t.throwsAsync(socket.request(route('10.1.0.0/24', '172.31.0.1')), {
    instanceOf: KernelError,
  });
  t.like(error, { code: 'ENETUNREACH', detail: 'Nexthop has invalid gateway' });
});

test('a dump that the kernel refuses throws what it said', async (t) => {
  const { socket } = openRouted(t);
  const payload = encodeRouteDump(4, { table: 4242 });
  await t.throwsAsync(socket.dump({ type: RTM_GETROUTE, flags: 0, payload, operation: 'RTM_GETROUTE' }), {
    message: 'RTM_GETROUTE: ENOENT: ipv4: FIB table does not exist',
  });
});

test('a transaction goes out with the flags its messages have', async (t) => {
  const { socket } = openRouted(t);
  t.deepEqual(await socket.transaction([]), []);
  const messages = [
    route('10.1.0.0/24', '10.0.0.2'),
    { ...route('10.2.0.0/24', '172.31.0.1'), flags: NLM_F_ACK | NLM_F_CREATE },
    { ...route('10.3.0.0/24', '10.0.0.2'), flags: NLM_F_ACK | NLM_F_CREATE },
  ];
  const outcomes = await socket.transaction(messages);
  t.deepEqual(
    outcomes.map((error) => error?.code),
    [undefined, 'ENETUNREACH', undefined],
  );
});

test('answers that do not fit the receive buffer are an error, and the next request is answered', async (t) => {
  const space = openRouted(t);
  using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd: space.fd, bufferBytes: 2304 });
  const up = { type: RTM_NEWLINK, flags: 0, payload: encodeLink({ name: 'one', flags: IFF_UP }) };
  const outcomes = await socket.submit(Array.from({ length: 40 }, () => up));
  t.is(outcomes.length, 40);
  t.true(outcomes.some((error) => error?.code === 'ENOBUFS'));
  t.deepEqual(await socket.submit([up]), [undefined]);
});

test('a datagram too large for the socket fails each of its messages', async (t) => {
  const space = openRouted(t);
  using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd: space.fd, bufferBytes: 8192 });
  const outcomes = await socket.transaction(many.slice(0, 1000));
  t.is(outcomes.length, 1000);
  t.true(outcomes.every((error) => error?.code === 'EMSGSIZE'));
});

test('links that are renamed while all are read are each read once', async (t) => {
  const space = openSpace(t);
  const stable = Array.from({ length: 120 }, (_, index) => `stable${index}`);
  await space.socket.submit([...stable, 'a'].map((name) => newLink({ name, kind: 'veth' })));
  const lane = native.lane();
  t.teardown(() => lane.close());
  using other = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd: space.fd, lane });
  const { index } = decodeLink(
    (await space.socket.request(getLinkMessage({ name: 'a' })))[0]?.payload ?? empty,
  );
  let done = false;
  const renaming = (async () => {
    for (let round = 0; round < 30; round += 1) {
      await other.submit(['b', 'a', 'b', 'a'].map((name) => newLink({ index, name })));
    }
    done = true;
  })();
  while (!done) {
    const links = await space.socket.dump(getLinkMessage());
    const names = links.map(({ payload }) => decodeLink(payload)).filter(({ index: of }) => of !== index);
    t.is(new Set(names.map(({ name }) => name)).size, names.length);
    t.true(stable.every((name) => names.some((link) => link.name === name)));
    await immediate();
  }
  await renaming;
});

const empty = new Uint8Array();

/** A link that is made, or (with an index) changed. */
function newLink(link: Link): NetlinkMessage {
  const flags = link.index === undefined ? NLM_F_CREATE : 0;
  return { type: RTM_NEWLINK, flags, payload: encodeLink(link) };
}

test('a closed socket says so', async (t) => {
  const space = openRouted(t);
  const socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd: space.fd });
  t.is((await socket.dump(getLinkMessage())).length, 3);
  socket[Symbol.dispose]();
  socket[Symbol.dispose]();
  await t.throwsAsync(socket.dump(getLinkMessage()), { message: 'the netlink socket is closed' });
});
