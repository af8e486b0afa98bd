import test from 'ava';
import type { Mac } from '../../core/address.ts';
import { concerns, kernelInterest } from '../../daemon/kernel-events.ts';
import type { NetlinkMessage } from '../../kernel/netlink/message.ts';
import { encodeAddress } from '../../kernel/netlink/route/address.ts';
import { encodeLink, type Link } from '../../kernel/netlink/route/link.ts';
import { encodeFdb, encodeNeighbor, type Fdb } from '../../kernel/netlink/route/neighbor.ts';
import { encodeRoute, type Route } from '../../kernel/netlink/route/route.ts';
import {
  RTM_DELLINK,
  RTM_DELNEIGH,
  RTM_DELROUTE,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWNEIGH,
  RTM_NEWROUTE,
} from '../../kernel/netlink/route/rtnetlink.ts';
import { cidr, ip, planOf } from './golden.ts';

const plan = planOf('{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}', [{ n: 1 }, { n: 2 }]);
const links = [
  { name: 'eth0', index: 2, mtuBytes: 1500 },
  { name: 'fl.1', index: 7, mtuBytes: 1450 },
  { name: 'cni0', index: 8, mtuBytes: 1450 },
];
const interest = kernelInterest({ links }, 'eth0', plan);
const isNews = (message: Pick<NetlinkMessage, 'type' | 'payload'>) => concerns(message, interest);
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

const newRoute = (fields: Partial<Route>) =>
  isNews({ type: RTM_NEWROUTE, payload: encodeRoute({ ...wantedRoute, ...fields }) });
/** As the plan has it for the peer of number 2. */
const wantedRoute: Route = {
  ...{ destination: cidr('10.244.2.0/24'), gateway: ip('10.244.2.0'), index: 7, flags: 4 },
  ...{ table: 254, protocol: 88, scope: 0, type: 1 },
};

test('what is there as wanted and what is gone as wanted is none: it is our own doing', (t) => {
  t.false(newRoute({}));
  t.false(route('198.51.100.0/24', 88), 'a route that nobody wants is gone');
  t.true(newRoute({ gateway: ip('10.244.2.9') }));
  t.true(newRoute({ index: 2 }));
  t.true(newRoute({ protocol: 3 }));
  const [wanted] = plan.neighbors.values();
  const [entry] = plan.fdb.values();
  if (wanted === undefined || entry === undefined) return t.fail('no rows');
  for (const { type, mac = wanted.mac, state = 128, ip: of = wanted.ip, isOne } of [
    { type: RTM_NEWNEIGH, isOne: false },
    { type: RTM_NEWNEIGH, mac: '02:00:00:00:00:99' as Mac, isOne: true },
    { type: RTM_NEWNEIGH, state: 32, isOne: true },
    { type: RTM_NEWNEIGH, state: 2, ip: ip('10.244.1.9'), isOne: false },
    { type: RTM_DELNEIGH, isOne: true },
    { type: RTM_DELNEIGH, ip: ip('10.244.1.9'), isOne: false },
  ]) {
    const payload = encodeNeighbor({ index: 7, ip: of, mac, state });
    t.is(isNews({ type, payload }), isOne, `${type} ${mac} ${state} ${of}`);
  }
  const { mac, destination } = entry;
  const forwarding = (type: number, fields: Partial<Fdb> = {}) =>
    isNews({ type, payload: encodeFdb({ index: 7, mac, destination, state: 128, flags: 2, ...fields }) });
  t.false(forwarding(RTM_NEWNEIGH));
  t.true(forwarding(RTM_DELNEIGH));
  t.true(forwarding(RTM_NEWNEIGH, { destination: ip('192.0.2.99') }));
  t.false(forwarding(RTM_DELNEIGH, { destination: ip('192.0.2.99') }));
});

test('our routes, default routes and everybody’s routes to our peers are news', (t) => {
  t.true(newRoute({ destination: cidr('198.51.100.0/24') }));
  t.true(route('0.0.0.0/0', 4));
  t.true(route('::/0', 9));
  t.true(route('10.244.2.0/24', 3));
  t.false(route('10.244.1.0/24', 2));
  t.false(route('198.51.100.0/24', 3));
});
