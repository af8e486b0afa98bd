import test from 'ava';
import fc from 'fast-check';
import { MalformedMessageError } from '../../../../kernel/netlink/reader.ts';
import {
  decodeDefaultPvid,
  decodeVlanLink,
  encodePortVlans,
  type VlanFlags,
} from '../../../../kernel/netlink/route/vlan.ts';
import { payloadsOf } from '../golden.ts';

// Answers of Linux 6.1 (Debian) to RTM_GETLINK of family AF_BRIDGE with RTEXT_FILTER_BRVLAN_COMPRESSED, made by
//   ip link add br0 type bridge vlan_filtering 1
//   ip link add p0 master br0 type dummy
//   bridge vlan add dev p0 vid 10 pvid untagged
//   bridge vlan add dev p0 vid 20-30
//   bridge vlan add dev p0 vid 31 untagged
const bridge =
  '07000100020000000210000000000000080003006272300008000a000200000008000400dc0500000500100002000000' +
  '0a0001009e5be5d5889900000c001a000800020006000100';
const port =
  '07000100030000008200000000000000070003007030000008000a000200000008000400dc0500000500100002000000' +
  '0a0001009e5be5d58899000030010c800500010000000000060002002000000008000300640000000500040000000000' +
  '05000500000000000500060000000000050007000000000005001c000000000005000800010000000500090001000000' +
  '05001b000100000005001e000100000005000a000000000005000c00000000000c000d0080009e5be5d588990c000e00' +
  '80009e5be5d5889906000f00018000000600100000000000060011000180000006001200010000000500130000000000' +
  '050014000000000005001d000000000006001f0000000000050020000000000005002300000000000500240000000000' +
  '050021000000000005002700000000000c00150000000000000000000c00160000000000000000000c00170000000000' +
  '000000000500190001000000080025000002000008002600000000002c001a0008000200040001000800020006000a00' +
  '08000200080014000800020010001e000800020004001f00';

const bytes = (hex: string) => Buffer.from(hex, 'hex');
const tagged: VlanFlags = { isPvid: false, isUntagged: false };
const untagged: VlanFlags = { isPvid: false, isUntagged: true };
const access: VlanFlags = { isPvid: true, isUntagged: true };

test('VLANs of a real kernel are read, ranges too', (t) => {
  t.deepEqual(decodeVlanLink(bytes(bridge)), { index: 2, masterIndex: 2, vlans: new Map([[1, access]]) });
  const run = Array.from({ length: 11 }, (_, at) => [20 + at, tagged] as const);
  t.deepEqual(decodeVlanLink(bytes(port)), {
    index: 3,
    masterIndex: 2,
    vlans: new Map([[1, untagged], [10, access], ...run, [31, untagged]]),
  });
});

test('a kernel that cannot filter VLANs tells no default VLAN of its bridges', (t) => {
  t.deepEqual([...new Set(payloadsOf('link').map(decodeDefaultPvid))], [undefined]);
});

const flags = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(tagged, untagged) },
  { weight: 1, arbitrary: fc.constantFrom(access, { isPvid: true, isUntagged: false }) },
);
const vlans = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 4094 }), fc.integer({ min: 0, max: 40 }), flags), {
    maxLength: 12,
  })
  .map((runs) => {
    const all = new Map<number, VlanFlags>();
    for (const [first, more, flag] of runs) {
      for (let id = first; id <= Math.min(first + more, 4094); id += 1) all.set(id, flag);
    }
    return new Map([...all].toSorted(([a], [b]) => a - b));
  });

test('VLANs of a port stay equal through encoding and decoding', (t) => {
  fc.assert(
    fc.property(fc.nat(), vlans, (index, wanted) => {
      t.deepEqual(decodeVlanLink(encodePortVlans(index, wanted)), {
        index,
        masterIndex: undefined,
        vlans: wanted,
      });
    }),
  );
});

test('a PVID is never in a range', (t) => {
  const wanted = new Map([9, 10, 11].map((id) => [id, { ...untagged, isPvid: id === 10 }] as const));
  // Header, and one list of three VLANs: none begins or ends a range.
  t.is(encodePortVlans(1, wanted).length, 16 + 4 + 3 * 8);
});

test('all VLANs are one range, and every second one still fits into a message', (t) => {
  const every = (step: number) => {
    const ids = Array.from({ length: Math.floor(4094 / step) }, (_, at) => 1 + at * step);
    return encodePortVlans(1, new Map(ids.map((id) => [id, tagged])));
  };
  t.is(every(1).length, 16 + 4 + 2 * 8);
  t.is(decodeVlanLink(every(2)).vlans.size, 2047);
});

test('cut messages are refused, or read as far as they go', (t) => {
  for (let length = 0; length < port.length / 2; length += 1) {
    try {
      decodeVlanLink(bytes(port).subarray(0, length));
    } catch (error) {
      t.true(error instanceof MalformedMessageError, `${length}: ${error}`);
    }
  }
  t.pass();
});
