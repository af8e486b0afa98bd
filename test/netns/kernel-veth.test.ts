import test from 'ava';
import type { Mac } from '../../core/address.ts';
import { encodeVethPair } from '../../kernel/netlink/route/link.ts';
import { openSpace } from './kernel-space.ts';

//   node namespace                     pod namespace
//   ┌──────────────────────┐           ┌────────────────┐
//   │ cni0 ── host (up) ───┼───────────┼── eth0 (down)  │     made by one message
//   └──────────────────────┘           └────────────────┘

test('one message makes a pair with both ends at their place', async (t) => {
  const node = openSpace(t);
  const pod = openSpace(t);
  node.ip('link add cni0 address 02:00:00:00:00:01 type bridge');
  const masterIndex = Number(node.show('link show dev cni0')[0]?.ifindex);
  const message = encodeVethPair({
    host: {
      name: 'host',
      index: 4000,
      masterIndex,
      group: 7,
      mac: '02:00:00:00:00:02' as Mac,
      mtuBytes: 1450,
    },
    peer: { name: 'eth0', index: 2, mac: '02:00:00:00:00:03' as Mac, mtuBytes: 1450, namespaceFd: pod.fd },
  });
  t.deepEqual(await node.socket.submit([message]), [undefined]);
  t.like(node.show('link show dev host')[0], {
    ifindex: 4000,
    master: 'cni0',
    group: '7',
    address: '02:00:00:00:00:02',
    mtu: 1450,
    num_tx_queues: 1,
    num_rx_queues: 1,
    link_index: 2,
  });
  t.regex(`${node.show('link show dev host')[0]?.flags}`, /\bUP\b/);
  t.like(pod.show('link show dev eth0')[0], {
    ifindex: 2,
    address: '02:00:00:00:00:03',
    mtu: 1450,
    num_tx_queues: 1,
    num_rx_queues: 1,
    operstate: 'DOWN',
  });
});

test('without indexes the kernel chooses them', async (t) => {
  const node = openSpace(t);
  const pod = openSpace(t);
  const message = encodeVethPair({ host: { name: 'host' }, peer: { name: 'eth0', namespaceFd: pod.fd } });
  t.deepEqual(await node.socket.submit([message]), [undefined]);
  t.is(pod.show('link show').length, 2);
});

test('a name that is taken at either end makes nothing', async (t) => {
  const node = openSpace(t);
  const pod = openSpace(t);
  pod.ip('link add eth0 type bridge');
  const message = encodeVethPair({ host: { name: 'host' }, peer: { name: 'eth0', namespaceFd: pod.fd } });
  const [error] = await node.socket.submit([message]);
  t.is(error?.code, 'EEXIST');
  t.is(error?.operation, 'RTM_NEWLINK host (veth, peer eth0)');
  t.deepEqual(
    node.show('link show').map(({ ifname }) => ifname),
    ['lo'],
  );
});
