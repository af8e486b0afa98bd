import test from 'ava';
import fc from 'fast-check';
import { MalformedMessageError } from '../../../../kernel/netlink/reader.ts';
import { decodeFilter, encodeFilter, type Filter } from '../../../../kernel/netlink/route/filter.ts';
import { decodeQdisc, encodeQdisc, type Qdisc } from '../../../../kernel/netlink/route/qdisc.ts';
import { plain } from '../golden.ts';

// Answers of Linux 6.18 to RTM_GETQDISC and RTM_GETTFILTER, without their statistics, to what was made by
//   tc qdisc add dev bwp0 root handle fa1: tbf rate 100gbit burst 12m latency 25ms peakrate 200gbit mtu 9000
//   tc qdisc add dev host root handle fa1: tbf rate 8mbit burst 64k latency 25ms
//   tc filter add dev host parent ffff: prio 1 u32 match u32 0 0 flowid fa1:1 action mirred egress redirect dev bwp0
//   tc filter add dev host parent ffff: prio 7 protocol ip u32 match ip dst 192.0.2.1 flowid 1:2
const slow =
  '00000000020000000000a10fffffffff0200000008000100746266002c000200280001000001000000000000' +
  '40420f00000000000000000000000000a861010000a00f0000000000';
const fast =
  '00000000030000000000a10fffffffff02000000080001007462660044000200280001000001000000000000' +
  'ffffffff0001000000000000ffffffff205f6013703d0000050000000c00040000dd0ee902000000' +
  '0c00050000ba1dd205000000';
const table =
  '0000000002000000000000800000ffff00030100080001007533320008000b00000000000c0002000800040001000000';
const redirect =
  '0000000002000000000800800000ffff00030100080001007533320008000b0000000000e8000200240005000100' +
  '0100000000000000000000000000000000000000000000000000000000000800020000000080080001000100a10f' +
  '08000b0008000000a8000700a40001000b0001006d69727265640000440004001400010000000000000000000000' +
  '00000000000014000700000000000000000000000000000000001800030000000000000000000000000000000000' +
  '0000000008000a000000000048000200200002000100000000000000040000000100000001000000010000000300' +
  '0000240001000000000000000000000000000000000000000000000000000000000000000000';
const destination =
  '0000000002000000000810800000ffff08000700080001007533320008000b00000000004000020024000500' +
  '01000100000000000000000000000000ffffffffc0000201100000000000000008000200000010800800010002000100' +
  '08000b0008000000';

const bytes = (hex: string) => Buffer.from(hex, 'hex');

test('token buckets of a real kernel are read, with rates of 64 bits', (t) => {
  const place = { handle: 0x0fa10000, parent: 0xffffffff, kind: 'tbf' };
  t.deepEqual(plain(decodeQdisc(bytes(slow))), {
    ...place,
    index: 2,
    tbf: { rateBytes: 1_000_000, peakRateBytes: 0, limitBytes: 90_536, bufferTicks: 1_024_000 },
  });
  t.deepEqual(plain(decodeQdisc(bytes(fast))), {
    ...place,
    index: 3,
    tbf: {
      rateBytes: 12_500_000_000,
      peakRateBytes: 25_000_000_000,
      limitBytes: 325_082_912,
      bufferTicks: 15_728,
    },
  });
});

test('filters of a real kernel are read: tables of them, redirections and others', (t) => {
  const place = { index: 2, parent: 0xffff0000, kind: 'u32' };
  const first = { ...place, priority: 1, protocol: 3 };
  t.deepEqual(plain(decodeFilter(bytes(table))), { ...first, handle: 0x80000000, isRule: false });
  t.deepEqual(plain(decodeFilter(bytes(redirect))), {
    ...first,
    handle: 0x80000800,
    classId: 0x0fa10001,
    redirectIndex: 3,
    isRule: true,
  });
  t.deepEqual(plain(decodeFilter(bytes(destination))), {
    ...place,
    handle: 0x80100800,
    priority: 7,
    protocol: 0x0800,
    classId: 0x00010002,
    isRule: true,
  });
});

const u32 = fc.integer({ min: 0, max: 0xffffffff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const index = fc.integer({ min: 0, max: 0x7fffffff });
const rate = fc.oneof(u32, fc.maxSafeNat(), fc.constantFrom(0, 2 ** 32 - 1, 2 ** 32));
const tbf = fc.record({
  rateBytes: rate,
  peakRateBytes: rate,
  limitBytes: u32,
  bufferTicks: u32,
  burstBytes: fc.option(u32, { nil: undefined }),
});

const qdisc: fc.Arbitrary<Qdisc> = fc
  .record({ index, handle: u32, parent: u32, tbf: fc.option(tbf, { nil: undefined }) })
  .map((fields) => ({ ...fields, kind: fields.tbf === undefined ? 'ingress' : 'tbf' }));

const filter: fc.Arbitrary<Filter> = fc
  .record({
    index,
    handle: u32,
    parent: u32,
    priority: u16,
    protocol: u16,
    classId: fc.option(u32, { nil: undefined }),
    redirectIndex: u32,
  })
  .map((fields) => ({ ...fields, kind: 'u32', isRule: true }));

test('a qdisc stays equal through encoding and decoding', (t) => {
  fc.assert(fc.property(qdisc, (row) => t.deepEqual(plain(decodeQdisc(encodeQdisc(row))), plain(row))));
});

test('a filter stays equal through encoding and decoding', (t) => {
  fc.assert(fc.property(filter, (row) => t.deepEqual(plain(decodeFilter(encodeFilter(row))), plain(row))));
});

test('cut messages are refused, or read as far as they go', (t) => {
  for (const [hex, decode] of [
    [fast, decodeQdisc],
    [redirect, decodeFilter],
  ] as const) {
    for (let length = 0; length < hex.length / 2; length += 1) {
      try {
        decode(bytes(hex).subarray(0, length));
      } catch (error) {
        t.true(error instanceof MalformedMessageError, `${length}: ${error}`);
      }
    }
  }
});
