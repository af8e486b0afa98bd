import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import type { Ip } from '../../core/address.ts';
import {
  decodeFlow,
  deleteFlow,
  encodeFlow,
  type Flow,
  type FlowFilter,
  getFlows,
  isFlowOf,
} from '../../kernel/netlink/conntrack/flow.ts';
import { MalformedMessageError } from '../../kernel/netlink/wire.ts';
import { family, ipOfFamily } from '../core/arbitrary.ts';
import { plain } from './netlink/golden.ts';

/*
 * Answers of a real kernel, captured by test/netns/kernel-conntrack.test.ts with REWRITE=1: payloads of
 * IPCTNL_MSG_CT_NEW without their nlmsghdr. What is read in them is written anew with REWRITE=1 here.
 */
const path = join(import.meta.dirname, '../golden/netlink/conntrack.json');
const golden: { kernel: string; payloads: string[]; decoded: unknown[] } = JSON.parse(
  readFileSync(path, 'utf8'),
);
const payloads = golden.payloads.map((hex) => Uint8Array.from(Buffer.from(hex, 'hex')));

const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const protocol = fc.constantFrom(1, 6, 17, 58, 132, 47);

function tupleOf(of: 4 | 6, number: number) {
  const isIcmp = number === 1 || number === 58;
  const hasPorts = number === 6 || number === 17 || number === 132;
  const u8 = fc.integer({ min: 0, max: 255 });
  return fc.record({
    src: ipOfFamily(of),
    dst: ipOfFamily(of),
    sport: hasPorts ? u16 : fc.constant(undefined),
    dport: hasPorts ? u16 : fc.constant(undefined),
    icmp: isIcmp ? fc.record({ id: u16, type: u8, code: u8 }) : fc.constant(undefined),
  });
}

const anyFlow: fc.Arbitrary<Flow> = fc.tuple(family, protocol).chain(([of, number]) =>
  fc.record({
    family: fc.constant(of),
    protocol: fc.constant(number),
    original: tupleOf(of, number),
    reply: tupleOf(of, number),
    status: u32,
    mark: u32,
    zone: u16,
    id: fc.option(u32, { nil: undefined }),
  }),
);

test('flows that a kernel answered are read as they were', (t) => {
  const decoded = plain(payloads.map(decodeFlow));
  if (process.env.REWRITE === '1') {
    writeFileSync(path, `${JSON.stringify({ ...golden, decoded }, undefined, 2)}\n`);
  }
  t.true(payloads.length > 0);
  t.deepEqual<unknown, unknown>(decoded, golden.decoded);
});

test('a flow that is written reads the same', (t) => {
  fc.assert(
    fc.property(anyFlow, (flow) => {
      t.deepEqual(plain(decodeFlow(encodeFlow(flow, { withReply: true }))), plain(flow));
    }),
    { numRuns: 300 },
  );
});

test('a flow cut or damaged anywhere is read or refused as malformed', (t) => {
  const readOrRefuse = (bytes: Uint8Array) => {
    try {
      decodeFlow(bytes);
    } catch (error) {
      if (!(error instanceof MalformedMessageError)) throw error;
    }
  };
  for (const payload of payloads) {
    for (let length = 0; length < payload.length; length += 1) readOrRefuse(payload.subarray(0, length));
  }
  const damage = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { maxLength: 6 });
  fc.assert(
    fc.property(fc.constantFrom(...payloads), damage, (payload, places) => {
      const bytes = Uint8Array.from(payload);
      for (const [at, value] of places) bytes[at % bytes.length] = value;
      readOrRefuse(bytes);
    }),
    { numRuns: 2000 },
  );
  t.pass();
});

test('a deletion always names the flow: without a tuple the kernel would forget all of them', (t) => {
  fc.assert(
    fc.property(anyFlow, (flow) => {
      const { payload } = deleteFlow(flow);
      // Behind struct nfgenmsg: an attribute of a tuple that is not empty.
      t.true((payload[4] ?? 0) > 8);
      t.is(payload[6], 1);
    }),
    { numRuns: 100 },
  );
});

test('a flow is meant by the filters that say what it is, and by no others', (t) => {
  fc.assert(
    fc.property(anyFlow, anyFlow, (flow, other) => {
      const own: FlowFilter = {
        family: flow.family,
        protocol: flow.protocol,
        original: flow.original,
        reply: { src: flow.reply.src },
      };
      t.true(isFlowOf(flow, own));
      t.true(isFlowOf(flow, {}));
      t.is(
        isFlowOf(flow, { original: { dst: other.original.dst } }),
        flow.original.dst === other.original.dst,
      );
      t.is(isFlowOf(flow, { protocol: other.protocol }), flow.protocol === other.protocol);
    }),
    { numRuns: 200 },
  );
});

test('the kernel is asked for the parts that it can tell apart', (t) => {
  const hex = (filter: FlowFilter) => Buffer.from(getFlows(filter).payload).toString('hex');
  const src = '2001:db8::1' as Ip;
  t.is(hex({}), '00000000');
  t.is(hex({ family: 6 }), '0a000000');
  t.is(hex({ family: 6, original: { src } }), '0a000000', 'the kernel looks for others than this');
  const udp53 = [
    '02000000',
    '18000180', // CTA_TUPLE_ORIG
    '14000280', // CTA_TUPLE_PROTO
    '0500010011000000', // CTA_PROTO_NUM 17
    '0600030000350000', // CTA_PROTO_DST_PORT 53
    '10000280', // CTA_TUPLE_REPLY
    '0c000280',
    '0500010011000000',
    '14001980', // CTA_FILTER
    '0800010028000000', // CTA_FILTER_ORIG_FLAGS: protocol, dport
    '0800020008000000', // CTA_FILTER_REPLY_FLAGS: protocol
  ];
  t.is(hex({ family: 4, protocol: 17, original: { dport: 53 } }), udp53.join(''));
});
