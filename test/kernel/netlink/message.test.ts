import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { isMissing, KernelError } from '../../../kernel/errors.ts';
import {
  errorOf,
  frameMessages,
  type NetlinkMessage,
  NLM_F_ACK,
  NLM_F_DUMP_INTR,
  NLM_F_MULTI,
  NLM_F_REQUEST,
  NLMSG_DONE,
  parseAck,
  parseMessages,
} from '../../../kernel/netlink/message.ts';
import { readAnswers } from '../../../kernel/netlink/socket.ts';
import { MalformedMessageError, Writer } from '../../../kernel/netlink/wire.ts';

// Answers of a real kernel to what each key says, in the namespace of made-by.txt.
const { answers } = JSON.parse(
  readFileSync(join(import.meta.dirname, '../../golden/netlink/ack.json'), 'utf8'),
) as { answers: Record<string, { sequence: number; hex: string }> };

function answerTo(what: string): Uint8Array {
  return Buffer.from(answers[what]?.hex ?? '', 'hex');
}

function asked(...operations: string[]): NetlinkMessage[] {
  return operations.map((operation) => ({ type: 24, flags: 0, payload: new Uint8Array(), operation }));
}

function read(what: string, messages: NetlinkMessage[]) {
  return readAnswers(messages, answers[what]?.sequence ?? 0, answerTo(what));
}

test('a datagram has one header a message, numbered in order', (t) => {
  const messages = [
    { type: 24, flags: 0x400, payload: Uint8Array.from([1, 2, 3]) },
    { type: 25, flags: 0, payload: new Uint8Array() },
  ];
  const bytes = frameMessages(messages, 0xffffffff, NLM_F_ACK);
  t.is(
    Buffer.from(bytes).toString('hex'),
    '13000000' +
      '1800' +
      '0504' +
      'ffffffff' +
      '00000000' +
      '01020300' +
      '10000000' +
      '1900' +
      '0500' +
      '00000000' +
      '00000000',
  );
});

test('any messages are cut apart as they were framed', (t) => {
  const message = fc.record({
    type: fc.integer({ min: 16, max: 0xffff }),
    flags: fc.integer({ min: 0, max: 0xffff }),
    payload: fc.uint8Array({ maxLength: 50 }),
  });
  fc.assert(
    fc.property(fc.array(message), fc.integer({ min: 0, max: 0xffffffff }), (messages, first) => {
      const cut = parseMessages(frameMessages(messages, first));
      t.deepEqual(
        cut.map(({ type, flags, payload, sequence }) => ({ type, flags, payload: [...payload], sequence })),
        messages.map(({ type, flags, payload }, index) => ({
          type,
          flags: flags | NLM_F_REQUEST,
          payload: [...payload],
          sequence: (first + index) >>> 0,
        })),
      );
    }),
  );
});

test('any bytes are messages or malformed, and nothing else', (t) => {
  const whole = Object.keys(answers).map(answerTo);
  const cut = fc.tuple(fc.constantFrom(...whole), fc.nat(300)).map(([bytes, end]) => bytes.subarray(0, end));
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 100 }), cut), (bytes) => {
      try {
        readAnswers(asked('a', 'b', 'c'), 100, bytes);
      } catch (error) {
        t.true(error instanceof MalformedMessageError);
      }
    }),
    { numRuns: 2000 },
  );
  t.pass();
});

test('an acknowledgement is no error', (t) => {
  const { outcome, answered } = read('a route was made', asked('route'));
  t.deepEqual({ outcome, answered }, { outcome: [undefined], answered: [true] });
});

test('a refusal has the errno, its name and the sentence of the kernel', (t) => {
  const [error] = read('a gateway that is on no link', asked('RTM_NEWROUTE 10.78.0.0/24')).outcome;
  t.true(error instanceof KernelError);
  t.like(error, {
    operation: 'RTM_NEWROUTE 10.78.0.0/24',
    code: 'ENETUNREACH',
    errno: 101,
    detail: 'Nexthop has invalid gateway',
  });
  t.is(error?.message, 'RTM_NEWROUTE 10.78.0.0/24: ENETUNREACH: Nexthop has invalid gateway');
});

test('a refused attribute is named by its offset', (t) => {
  const [error] = read('an attribute that is too short', asked('route')).outcome;
  t.like(error, { code: 'ERANGE', detail: 'Attribute failed policy validation', offset: 44 });
});

test('of several messages in one datagram each has its own outcome', (t) => {
  const { outcome, answered } = read('three in one datagram, the second refused', asked('a', 'b', 'c'));
  t.deepEqual(answered, [true, true, true]);
  t.deepEqual(
    outcome.map((error) => error?.message),
    [undefined, 'b: ENETUNREACH: Nexthop has invalid gateway', undefined],
  );
});

test('acknowledgements may come in any order, and answers to older requests are passed over', (t) => {
  const [first, second, third] = parseMessages(answerTo('three in one datagram, the second refused'));
  const frame = (message: typeof first, sequence: number) =>
    message === undefined ? new Uint8Array() : reframe(message, sequence);
  const shuffled = Buffer.concat([frame(third, 9), frame(second, 8), frame(second, 3), frame(first, 7)]);
  const { outcome } = readAnswers(asked('a', 'b', 'c'), 7, shuffled);
  t.deepEqual(
    outcome.map((error) => error?.code),
    [undefined, 'ENETUNREACH', undefined],
  );
});

test('sequence numbers may pass 2^32 within one datagram', (t) => {
  const [first, second] = parseMessages(answerTo('three in one datagram, the second refused'));
  if (first === undefined || second === undefined) return t.fail();
  const bytes = Buffer.concat([reframe(first, 0xffffffff), reframe(second, 0)]);
  const { outcome } = readAnswers(asked('a', 'b'), 0xffffffff, bytes);
  t.deepEqual(
    outcome.map((error) => error?.code),
    [undefined, 'ENETUNREACH'],
  );
});

test('a dump may end with an error', (t) => {
  const { outcome } = read('a dump of a table that is not there', asked('RTM_GETROUTE'));
  t.is(outcome[0]?.message, 'RTM_GETROUTE: ENOENT: ipv4: FIB table does not exist');
  t.true(isMissing(outcome[0]));
  const refused = read('a dump with a header that strict checks refuse', asked('RTM_GETADDR')).outcome[0];
  t.like(refused, { code: 'EINVAL', detail: 'ipv4: Invalid values in header for address dump request' });
});

test('a dump of nothing is no error and has no answers', (t) => {
  const { outcome, answered, answers: rows } = read('a dump of no rows', asked('RTM_GETROUTE'));
  t.deepEqual({ outcome, answered, rows }, { outcome: [undefined], answered: [true], rows: [] });
});

test('a dump whose table changed meanwhile says so', (t) => {
  const row = { type: 24, flags: NLM_F_MULTI | NLM_F_DUMP_INTR, payload: new Uint8Array(12) };
  const done = { type: NLMSG_DONE, flags: NLM_F_MULTI, payload: new Uint8Array(4) };
  const bytes = Buffer.concat([reframe(row, 5), reframe(row, 5), reframe(done, 5)]);
  const { interrupted, answers: rows } = readAnswers(asked('dump'), 5, bytes);
  t.true(interrupted);
  t.is(rows.length, 2);
});

test('a dump that was cut short is not answered', (t) => {
  const row = { type: 24, flags: NLM_F_MULTI, payload: new Uint8Array(12) };
  t.deepEqual(readAnswers(asked('dump'), 5, reframe(row, 5)).answered, [false]);
});

test('an error without extended acknowledgement, from a socket that repeats the refused message', (t) => {
  const payload = new Writer().i32(-17).u32(20).u16(24).u16(5).u32(1).u32(0).u32(0xdeadbeef).finish();
  const message = { type: 2, flags: 0, payload };
  t.deepEqual(parseAck(message), { errno: 17 });
  t.is(errorOf({ type: 24, flags: 0, payload }, parseAck(message))?.message, 'netlink message 24: EEXIST');
});

function reframe(message: NetlinkMessage, sequence: number): Uint8Array {
  const bytes = frameMessages([message], sequence);
  new DataView(bytes.buffer).setUint16(6, message.flags, true);
  return bytes;
}
