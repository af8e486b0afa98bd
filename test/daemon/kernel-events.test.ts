import test from 'ava';
import { concerns, kernelInterest } from '../../daemon/kernel-events.ts';
import type { NetlinkMessage } from '../../kernel/netlink/message.ts';
import { encodeAddress } from '../../kernel/netlink/route/address.ts';
import { encodeLink, type Link } from '../../kernel/netlink/route/link.ts';
import { encodeNeighbor } from '../../kernel/netlink/route/neighbor.ts';
import { encodeRoute } from '../../kernel/netlink/route/route.ts';
import {
  RTM_DELLINK,
  RTM_DELROUTE,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWNEIGH,
} from '../../kernel/netlink/route/rtnetlink.ts';
import { cidr, ip, planOf } from './golden.ts';

const plan = planOf('{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}', [{ n: 1 }, { n: 2 }]);
const links = [
  { name: 'eth0', index: 2, mtuBytes: 1500 },
  { name: 'fl.1', index: 7, mtuBytes: 1450 },
  { name: 'cni0', index: 8, mtuBytes: 1450 },
];
const interest = kernelInterest({ links }, 'eth0', plan.links.keys(), plan.routes);
const isNews = (message: Pick<NetlinkMessage, 'type' | 'payload'>) =>
  concerns({ flags: 0, ...message }, interest);
const link = (fields: Link, type = RTM_NEWLINK) => isNews({ type, payload: encodeLink(fields) });
const address = (index: number) =>
  isNews({ type: RTM_NEWADDR, payload: encodeAddress({ ip: ip('10.244.1.1'), prefixLength: 24, index }) });
const neighbor = (index: number) =>
  isNews({ type: RTM_NEWNEIGH, payload: encodeNeighbor({ index, ip: ip('10.244.1.9'), state: 128 }) });
const route = (destination: string, protocol: number) => {
  const fields = { destination: cidr(destination), index: 9, table: 254, protocol, scope: 0, type: 1 };
  return isNews({ type: RTM_DELROUTE, payload: encodeRoute(fields) });
};

test('links of the underlay and of the backend are news, also with a new index', (t) => {
  t.true(link({ index: 2, name: 'eth0' }));
  t.true(link({ index: 7, name: 'fl.1' }, RTM_DELLINK));
  t.true(link({ index: 99, name: 'fl.1' }));
});

test('pods’ interfaces are none, whatever their aliases are', (t) => {
  t.false(link({ index: 30, name: 'fl34074c0c1ef3f', alias: 'fairlead fairlead/a/eth0' }));
  t.false(link({ index: 8, name: 'cni0' }));
});

test('addresses and neighbours are news on our devices; the underlay’s own neighbours are not', (t) => {
  t.deepEqual([2, 7, 8, 30].map(address), [true, true, false, false]);
  t.deepEqual([2, 7, 8, 30].map(neighbor), [false, true, false, false]);
});

test('our routes, default routes and everybody’s routes to our peers are news', (t) => {
  t.true(route('198.51.100.0/24', 88));
  t.true(route('0.0.0.0/0', 4));
  t.true(route('::/0', 9));
  t.true(route('10.244.2.0/24', 3));
  t.false(route('10.244.1.0/24', 2));
  t.false(route('198.51.100.0/24', 3));
});
