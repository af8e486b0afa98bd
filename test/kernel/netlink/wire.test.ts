import test from 'ava';
import fc from 'fast-check';
import { Attributes, MalformedMessageError, Reader, textOf, Writer } from '../../../kernel/netlink/wire.ts';

function hex(writer: Writer): string {
  return Buffer.from(writer.finish()).toString('hex');
}

test('attributes are padded to four bytes, and the padding is not in their length', (t) => {
  t.is(hex(new Writer().attrU8(1, 0xab).attrU16(2, 0x1234)), '05000100ab000000' + '0600020034120000');
  t.is(hex(new Writer().attrText(3, 'eth0')), '09000300' + '6574683000000000');
  t.is(hex(new Writer().attrFlag(4)), '04000400');
});

test('host order is little-endian, network order is asked for by name', (t) => {
  t.is(
    hex(new Writer().u16(0x0102).u16be(0x0102).u32(0x01020304).u32be(0x01020304)),
    '02010102' + '0403020101020304',
  );
  t.is(hex(new Writer().u64(1n).u64be(1n)), '0100000000000000' + '0000000000000001');
  t.is(hex(new Writer().attrU32be(1, 5).attrU64be(2, 5n)), '0800010000000005' + '0c0002000000000000000005');
});

test('a nest has its length, the nested bit, and what was filled in', (t) => {
  const nested = new Writer().nest(18, (writer) => writer.attrText(1, 'veth'));
  t.is(hex(nested), '10001280' + '09000100' + '7665746800000000');
});

test('a nest longer than 65535 bytes is refused, where the kernel would wrap its length around', (t) => {
  const big = new Uint8Array(40000);
  t.throws(() => new Writer().nest(7, (writer) => writer.attr(1, big).attr(1, big)), {
    instanceOf: RangeError,
    message: 'attribute 7: 80012 bytes, the limit of one attribute is 65535',
  });
  t.throws(() => new Writer().attr(9, new Uint8Array(65532)), { instanceOf: RangeError });
});

const attribute = fc.tuple(fc.integer({ min: 0, max: 0x3fff }), fc.uint8Array({ maxLength: 40 }));

test('any list of attributes is read as it was written', (t) => {
  fc.assert(
    fc.property(fc.array(attribute), (list) => {
      const writer = new Writer(1);
      for (const [type, value] of list) writer.attr(type, value);
      const read = [...Attributes.parse(writer.finish())];
      t.deepEqual(
        read.map(({ type, value }) => [type, [...value]]),
        list.map(([type, value]) => [type, [...value]]),
      );
    }),
  );
});

test('any bytes are a list of attributes or malformed, and nothing else', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      try {
        t.true([...Attributes.parse(bytes)].length <= bytes.length / 4);
      } catch (error) {
        t.true(error instanceof MalformedMessageError);
      }
    }),
    { numRuns: 1000 },
  );
});

test('an attribute of length zero is malformed and no endless loop', (t) => {
  t.throws(() => Attributes.parse(Uint8Array.from([0, 0, 1, 0, 0, 0, 0, 0]), 'route'), {
    instanceOf: MalformedMessageError,
    message: 'route: attribute 1 at byte 0 says 0 bytes, 8 are left',
  });
});

test('an attribute longer than what is left is malformed', (t) => {
  t.throws(() => Attributes.parse(Uint8Array.from([9, 0, 1, 0, 1, 2, 3, 4])), {
    instanceOf: MalformedMessageError,
  });
});

test('a value shorter than asked for is malformed, an absent one is undefined', (t) => {
  const attributes = Attributes.parse(new Writer().attrU8(1, 7).finish(), 'rule');
  t.is(attributes.u8(1), 7);
  t.is(attributes.u32(2), undefined);
  t.false(attributes.has(2));
  t.throws(() => attributes.u32(1), { message: 'rule: attribute 1 has 1 bytes, 4 expected' });
});

test('of a repeated attribute the last counts', (t) => {
  t.is(Attributes.parse(new Writer().attrU32(1, 1).attrU32(1, 2).finish()).u32(1), 2);
});

test('errors inside a nest name the way to it', (t) => {
  const bytes = new Writer().nest(18, (writer) => writer.attrU8(2, 1)).finish();
  t.throws(() => Attributes.parse(bytes, 'link').nested(18)?.u16(2), {
    message: 'link.18: attribute 2 has 1 bytes, 2 expected',
  });
});

test('text ends at the first NUL', (t) => {
  t.is(textOf(Uint8Array.from([0x61, 0x62, 0, 0x63])), 'ab');
  t.is(textOf(Uint8Array.from([0x61, 0x62])), 'ab');
  const alias = 'fairlead ü';
  t.is(Attributes.parse(new Writer().attrText(1, alias).finish()).text(1), alias);
});

test('a header that is too short names how much is missing', (t) => {
  const reader = new Reader(new Uint8Array(3), 'neighbor');
  reader.u8();
  t.throws(() => reader.u32(), {
    instanceOf: MalformedMessageError,
    message: 'neighbor: 3 bytes, at least 5 expected',
  });
});

test('a writer that grows keeps what was written', (t) => {
  const writer = new Writer(1);
  for (let value = 0; value < 1000; value += 1) writer.u32(value);
  const reader = new Reader(writer.finish(), 'numbers');
  for (let value = 0; value < 1000; value += 1) if (reader.u32() !== value) t.fail(`number ${value}`);
  t.is(reader.remaining, 0);
});

test('whatever it begins with, a writer writes the same', (t) => {
  const write = (writer: Writer) =>
    hex(
      writer
        .u8(1)
        .attrText(1, 'fairlead')
        .u16be(2)
        .attrText(2, 'é'.repeat(90))
        .zeros(5)
        .attrU64(3, 0x0102030405060708n)
        .attrU64be(4, 0x0102030405060708n)
        .nest(5, (nested) => nested.attrU32be(6, 7).attr(7, new Uint8Array(33).fill(8))),
    );
  const expected = write(new Writer(4096));
  for (let capacityBytes = 1; capacityBytes < 400; capacityBytes += 1)
    t.is(write(new Writer(capacityBytes)), expected, `from ${capacityBytes} bytes`);
});
