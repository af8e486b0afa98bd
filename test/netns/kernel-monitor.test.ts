import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import type { HostCidr } from '../../core/address.ts';
import { kernelGroups } from '../../daemon/kernel-events.ts';
import { AddressTable, addressKey } from '../../kernel/address.ts';
import { monitor } from '../../kernel/netlink/monitor.ts';
import { decodeLink, encodeLink, IFF_UP } from '../../kernel/netlink/route/link.ts';
import { RTM_NEWLINK, RTNLGRP_IPV4_RULE, RTNLGRP_LINK } from '../../kernel/netlink/route/rtnetlink.ts';
import { SysctlTable } from '../../kernel/sysctl.ts';
import { addLinks, openSpace, type Space } from './kernel-space.ts';

/** Sets a link down and up again: notifications enough. */
async function flap({ socket }: Space, times: number): Promise<void> {
  for (let time = 0; time < times; time += 1) {
    for (const flags of [0, IFF_UP]) {
      const payload = encodeLink({ name: 'one', flags, changeMask: IFF_UP });
      await socket.submit([{ type: RTM_NEWLINK, flags: 0, payload }]);
    }
  }
}

/** What the agent listens to, and rules. */
const groups = [...kernelGroups, RTNLGRP_IPV4_RULE];

for (const [what, command] of Object.entries({
  link: 'link set one mtu 1400',
  address: 'address add 10.1.0.1/24 dev two',
  'IPv6 address': 'address add fd01::1/64 dev two nodad',
  route: 'route add blackhole 10.9.0.0/16',
  'IPv6 route': '-6 route add blackhole fd09::/16',
  neighbor: 'neighbor add 10.1.0.9 lladdr 02:00:00:00:00:09 dev two',
  rule: 'rule add from 10.0.0.0/8 table 9 priority 9',
})) {
  test(`a changed ${what} is told`, async (t) => {
    const space = openSpace(t);
    addLinks(space);
    // What the links themselves still have to say.
    await sleep(50);
    using watch = monitor(groups, { namespaceFd: space.fd });
    space.ip(command);
    for await (const event of watch) {
      t.is(event.kind, 'messages');
      break;
    }
  });
}

for (const key of ['net/ipv4/ip_forward', 'net/ipv6/conf/all/forwarding', 'net/ipv4/conf/one/rp_filter']) {
  test(`a changed ${key} is told`, async (t) => {
    const space = openSpace(t);
    addLinks(space);
    const table = new SysctlTable({ keys: [key], namespaceFd: space.fd });
    const actual = (await table.read()).get(key) ?? '';
    await sleep(50);
    using watch = monitor(groups, { namespaceFd: space.fd });
    t.deepEqual(await table.write([{ kind: 'update', key, actual, wanted: actual === '1' ? '0' : '1' }]), []);
    for await (const event of watch) {
      t.is(event.kind, 'messages');
      break;
    }
  });
}

test('what happens between watching and the first look is not missed', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  using events = monitor([RTNLGRP_LINK], { namespaceFd: space.fd });
  space.ip('link set one mtu 1234');
  await sleep(20);
  // What the links themselves still have to say may come before it.
  for await (const event of events) {
    if (event.kind !== 'messages') return t.fail();
    if (event.messages.some(({ payload }) => decodeLink(payload).mtuBytes === 1234)) break;
  }
  t.pass();
});

test('more notifications than the socket holds are an overrun, and then it goes on', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  using events = monitor([RTNLGRP_LINK], { namespaceFd: space.fd, bufferBytes: 4096 });
  await flap(space, 50);
  await sleep(20);
  t.is((await events.next()).value?.kind, 'overrun');
  await sleep(20);
  space.ip('link set one mtu 1300');
  await sleep(20);
  let event = (await events.next()).value;
  while (event?.kind === 'overrun') event = (await events.next()).value;
  t.is(event?.kind, 'messages');
});

test('a reader that does not keep up is told so instead of filling the memory', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  const options = { namespaceFd: space.fd, bufferBytes: 1 << 26 };
  using slow = monitor([RTNLGRP_LINK], options);
  using quick = monitor([RTNLGRP_LINK], options);
  await flap(space, 3000);
  let count = 0;
  for await (const event of quick) {
    count += event.kind === 'messages' ? event.messages.length : 0;
    if (count >= 6000) break;
  }
  t.is((await slow.next()).value?.kind, 'overrun');
});

test('the signal ends a watch that waits, and one that is not yet looked at', async (t) => {
  const space = openSpace(t);
  const abort = new AbortController();
  const events = monitor([RTNLGRP_LINK], { namespaceFd: space.fd, signal: abort.signal });
  const waiting = events.next();
  abort.abort();
  t.true((await waiting).done);
  t.true((await events.next()).done);
  const late = monitor([RTNLGRP_LINK], { namespaceFd: space.fd, signal: abort.signal });
  t.true((await late.next()).done);
});

test('our own writes are told like any other', async (t) => {
  const space = openSpace(t);
  addLinks(space);
  await sleep(50);
  using watch = monitor(groups, { namespaceFd: space.fd });
  const wanted = { device: 'one', address: '10.0.0.1/24' as HostCidr };
  await new AddressTable(space).write([{ kind: 'create', key: addressKey(wanted), wanted }]);
  for await (const event of watch) {
    t.is(event.kind, 'messages');
    break;
  }
});
