import { readdirSync } from 'node:fs';
import test from 'ava';
import { monitor } from '../../kernel/netlink/monitor.ts';
import { getLinkMessage } from '../../kernel/netlink/route/link.ts';
import { RTNLGRP_LINK } from '../../kernel/netlink/route/rtnetlink.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { openNamespace } from '../../kernel/netns.ts';
import { SysctlTable } from '../../kernel/sysctl.ts';
import { openSpace } from './kernel-space.ts';

test('sockets, namespaces, watches and sysctls leave no descriptor open', async (t) => {
  const { path } = openSpace(t);
  const round = async () => {
    using namespace = openNamespace(path);
    using socket = NetlinkSocket.open(NETLINK_ROUTE, { namespaceFd: namespace.fd });
    await socket.dump(getLinkMessage());
    using _watch = monitor([RTNLGRP_LINK], { namespaceFd: namespace.fd });
    await new SysctlTable({ keys: ['net/ipv4/ip_forward'], namespaceFd: namespace.fd }).read();
    t.throws(() => NetlinkSocket.open(999, { namespaceFd: namespace.fd }), { code: 'EPROTONOSUPPORT' });
    t.throws(() => openNamespace('/run/netns/fl-test-nowhere'), { code: 'ENOENT' });
  };
  await round();
  const before = readdirSync('/proc/self/fd').length;
  for (let count = 0; count < 20; count += 1) await round();
  t.is(readdirSync('/proc/self/fd').length, before);
});
