import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import type { Family, Ip } from '../../../../core/address.ts';
import { type Address, decodeAddress, encodeAddress } from '../../../../kernel/netlink/route/address.ts';
import {
  decodeLink,
  encodeLink,
  encodeVethPair,
  IFF_UP,
  type Link,
} from '../../../../kernel/netlink/route/link.ts';
import {
  decodeFdb,
  decodeNeighbor,
  encodeFdb,
  encodeNeighbor,
  type Fdb,
  type Neighbor,
} from '../../../../kernel/netlink/route/neighbor.ts';
import { decodeRoute, encodeRoute, type Route } from '../../../../kernel/netlink/route/route.ts';
import { decodeRule, encodeRule, type Rule } from '../../../../kernel/netlink/route/rule.ts';
import { cidrOfFamily, family, ip, ipOfFamily, mac } from '../../../core/arbitrary.ts';
import { plain } from '../golden.ts';

const u8 = fc.integer({ min: 0, max: 0xff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const index = fc.integer({ min: 0, max: 0x7fffffff });
const text = fc.string({ unit: fc.constantFrom(...'abcXYZ019-_./ é'), minLength: 1, maxLength: 15 });

function maybe<T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> {
  return fc.option(arbitrary, { nil: undefined });
}

function staysEqual<T>(
  t: ExecutionContext,
  arbitrary: fc.Arbitrary<T>,
  encode: (value: T) => Uint8Array,
  decode: (payload: Uint8Array) => T,
): void {
  fc.assert(
    fc.property(arbitrary, (value) => {
      t.deepEqual(plain(decode(encode(value))), plain(value));
    }),
    { numRuns: 300 },
  );
}

const vxlan = fc.record({
  vni: maybe(u32),
  port: maybe(u16),
  local: maybe(ip),
  deviceIndex: maybe(u32),
  learning: maybe(fc.boolean()),
});
const bridge = fc.record({
  ageingCentiseconds: maybe(u32),
  spanningTree: maybe(fc.boolean()),
  vlanFiltering: maybe(fc.boolean()),
  multicastSnooping: maybe(fc.boolean()),
});
const bridgePort = fc.record({
  hairpin: maybe(fc.boolean()),
  isolated: maybe(fc.boolean()),
  learning: maybe(fc.boolean()),
  unicastFlood: maybe(fc.boolean()),
  neighborSuppression: maybe(fc.boolean()),
});
const plainLink = fc.record({
  index,
  flags: u32,
  changeMask: u32,
  name: maybe(text),
  mtuBytes: maybe(u32),
  mac: maybe(mac),
  masterIndex: maybe(u32),
  linkIndex: maybe(u32),
  linkNamespaceId: maybe(fc.integer({ min: -1, max: 1000 })),
  group: maybe(u32),
  alias: maybe(text),
  txQueues: maybe(u32),
  rxQueues: maybe(u32),
  operationalState: maybe(u8),
  namespaceFd: maybe(u32),
  ipv6AddressGeneration: maybe(u8),
});
const kindOfLink: fc.Arbitrary<Link> = fc.oneof(
  fc.constant({}),
  vxlan.map((of) => ({ kind: 'vxlan', vxlan: of })),
  bridge.map((of) => ({ kind: 'bridge', bridge: of })),
  plainLink.map((peer) => ({ kind: 'veth', peer })),
  fc.constant({ kind: 'wireguard' }),
);
const roleOfLink: fc.Arbitrary<Link> = fc.oneof(
  fc.constant({}),
  bridgePort.map((of) => ({ portKind: 'bridge', bridgePort: of })),
);
const link = fc.tuple(plainLink, kindOfLink, roleOfLink).map((parts): Link => Object.assign({}, ...parts));

test('any link is read as it was written', (t) => {
  staysEqual(t, link, encodeLink, decodeLink);
});

const address: fc.Arbitrary<Address> = family.chain((of) =>
  fc.record({
    ip: ipOfFamily(of),
    prefixLength: fc.integer({ min: 0, max: of === 4 ? 32 : 128 }),
    index: u32,
    flags: u32,
    scope: u8,
    protocol: maybe(u8),
  }),
);

test('any address is read as it was written', (t) => {
  staysEqual(t, address, encodeAddress, decodeAddress);
});

const route: fc.Arbitrary<Route> = family.chain((of) =>
  fc.record({
    destination: cidrOfFamily(of),
    gateway: maybe(ip),
    index: maybe(u32),
    flags: u32,
    source: maybe(ipOfFamily(of)),
    priority: maybe(u32),
    table: u32,
    protocol: u8,
    scope: u8,
    type: u8,
  }),
);

test('any route is read as it was written, also one with a gateway of the other family', (t) => {
  staysEqual(t, route, encodeRoute, decodeRoute);
});

/** "from 0.0.0.0/0" is no condition: it is read as none. */
function condition(of: Family) {
  return maybe(cidrOfFamily(of).filter((cidr) => !cidr.endsWith('/0')));
}

const rule: fc.Arbitrary<Rule> = family.chain((of) =>
  fc.record({
    family: fc.constant(of),
    from: condition(of),
    to: condition(of),
    priority: u32,
    table: u32,
    fwmark: maybe(u32),
    fwmask: maybe(u32),
    action: u8,
    protocol: maybe(u8),
  }),
);

test('any rule is read as it was written', (t) => {
  staysEqual(t, rule, encodeRule, decodeRule);
});

const entry = { index: u32, state: u16, flags: u8, mac: maybe(mac), protocol: maybe(u8) };
const neighbor: fc.Arbitrary<Neighbor> = fc.record({ ...entry, ip });
const fdb: fc.Arbitrary<Fdb> = fc.record({ ...entry, destination: maybe(ip), masterIndex: maybe(u32) });

test('any neighbor is read as it was written', (t) => {
  staysEqual(t, neighbor, encodeNeighbor, decodeNeighbor);
});

test('any forwarding entry is read as it was written', (t) => {
  staysEqual(t, fdb, encodeFdb, decodeFdb);
});

test('the message of a veth pair has both ends at their place with one queue each', (t) => {
  const ends = fc.record({
    name: text,
    index: maybe(index.filter((value) => value > 0)),
    mac: maybe(mac),
    mtuBytes: maybe(u32),
  });
  fc.assert(
    fc.property(ends, ends, maybe(u32), maybe(u32), u32, (host, peer, masterIndex, group, namespaceFd) => {
      const message = encodeVethPair({
        host: { ...host, masterIndex, group },
        peer: { ...peer, namespaceFd },
      });
      const read = decodeLink(message.payload);
      const queues = { txQueues: 1, rxQueues: 1 };
      const far = { flags: 0, changeMask: 0, ...peer, index: peer.index ?? 0, namespaceFd, ...queues };
      t.deepEqual(plain(read.peer), plain<Link>(far));
      t.is(read.flags, IFF_UP);
      const near = { ...host, masterIndex, group, ...queues, kind: 'veth', index: host.index ?? 0 };
      t.like(plain(read), plain(near));
    }),
    { numRuns: 200 },
  );
});

test('an address of the other family is no address of a message', (t) => {
  const payload = encodeAddress({ ip: '10.0.0.1' as Ip, prefixLength: 24, index: 1 });
  payload[0] = 10;
  t.throws(() => decodeAddress(payload), { message: 'address: an IPv6 address of 4 bytes' });
});
