import test from 'ava';
import fc from 'fast-check';
import type { NftExpression } from '../../kernel/netlink/nftables/bytecode.ts';
import { ctKeys, metaKeys } from '../../kernel/netlink/nftables/constants.ts';
import { decodeElements } from '../../kernel/netlink/nftables/decode-elements.ts';
import { ELEMENTS_PER_MESSAGE, type ElementPacker } from '../../kernel/netlink/nftables/element-packer.ts';
import { elementEncoder } from '../../kernel/netlink/nftables/encode-elements.ts';
import type { NftCtKey, NftMetaKey } from '../../kernel/netlink/nftables/fields.ts';
import { writeHex } from '../../kernel/netlink/nftables/keys.ts';
import { decodeRule, newRule } from '../../kernel/netlink/nftables/messages.ts';
import { entriesOfRange, rangesOfEntries } from '../../kernel/netlink/nftables/ranges.ts';
import type { NftElement, NftSet, NftVerdict } from '../../kernel/netlink/nftables/spec.ts';
import { MalformedMessageError } from '../../kernel/netlink/wire.ts';

const table = { family: 'ip', table: 'fairlead-test' } as const;
const newElements = (set: NftSet, rows: readonly NftElement[]) => elementEncoder(table, set).add(rows);
const deleteElements = (set: NftSet, rows: readonly NftElement[]) => elementEncoder(table, set).remove(rows);
const word = fc.nat(15);
const name = fc.stringMatching(/^[a-z][a-z0-9-]{0,30}$/);
const u32 = fc.nat(0xffffffff);
const hex = (bytes: number) =>
  fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((value) => Buffer.from(value).toString('hex'));
const constant = fc.integer({ min: 1, max: 16 }).chain(hex);
const pair = fc.integer({ min: 1, max: 16 }).chain((bytes) => fc.tuple(hex(bytes), hex(bytes)));
const optional = <T extends object>(arbitrary: fc.Arbitrary<T>) =>
  fc.option(arbitrary, { nil: {} }) as fc.Arbitrary<Partial<T>>;
const flags = fc.record(
  { random: fc.constant(true), fullyRandom: fc.constant(true), persistent: fc.constant(true) },
  { requiredKeys: [] },
);
const verdict: fc.Arbitrary<NftVerdict> = fc.oneof(
  fc.record({ verdict: fc.constantFrom('accept', 'drop', 'continue', 'return') }),
  fc.record({ verdict: fc.constantFrom('jump', 'goto'), chain: name }),
);
const kind = <K extends NftExpression['kind']>(value: K) => fc.constant(value);

/** Every expression that can be written and read back as it was. */
const expression: fc.Arbitrary<NftExpression> = fc.oneof(
  fc.record({
    kind: kind('payload'),
    target: word,
    base: fc.constantFrom('link', 'network', 'transport'),
    offset: fc.nat(255),
    bytes: fc.integer({ min: 1, max: 16 }),
  }),
  fc.record({
    kind: kind('meta'),
    target: word,
    key: fc.constantFrom(...(Object.keys(metaKeys) as NftMetaKey[])),
  }),
  fc.record({
    kind: kind('hash'),
    from: word,
    bytes: fc.integer({ min: 1, max: 16 }),
    target: word,
    modulus: fc.integer({ min: 1, max: 0xffff }),
    seed: u32,
  }),
  fc.record({ kind: kind('meta set'), from: word, key: fc.constantFrom('mark', 'priority') }),
  fc
    .tuple(
      fc.record({
        kind: kind('ct'),
        target: word,
        key: fc.constantFrom(...(Object.keys(ctKeys) as NftCtKey[])),
      }),
      optional(fc.record({ direction: fc.constantFrom('original', 'reply') })),
    )
    .map(([ct, direction]) => ({ ...ct, ...direction })),
  fc.record({ kind: kind('ct set'), key: fc.constant('mark' as const), from: word }),
  fc.record({ kind: kind('fib'), target: word, address: fc.constantFrom('saddr', 'daddr') }),
  fc.record({ kind: kind('numgen'), target: word, modulus: u32, offset: u32 }),
  fc
    .tuple(word, word, pair)
    .map(([from, target, [mask, xor]]) => ({ kind: 'bitwise', from, target, mask, xor }) as const),
  fc.record({
    kind: kind('cmp'),
    from: word,
    op: fc.constantFrom('==', '!=', '<', '<=', '>', '>='),
    data: constant,
  }),
  fc
    .tuple(word, fc.constantFrom('==', '!='), pair)
    .map(([from, op, [low, high]]) => ({ kind: 'range', from, op, low, high }) as const),
  fc
    .tuple(
      fc.record({ kind: kind('lookup'), set: name, from: word }),
      optional(fc.record({ target: fc.oneof(word, fc.constant('verdict' as const)) })),
      optional(fc.record({ inverted: fc.constant(true) })),
    )
    .map(([lookup, target, inverted]) => ({ ...lookup, ...target, ...inverted })),
  fc
    .tuple(
      fc.record({
        kind: kind('dynset'),
        set: name,
        op: fc.constantFrom('add', 'update', 'delete'),
        key: word,
      }),
      optional(fc.record({ data: word })),
      optional(fc.record({ timeoutMs: fc.integer({ min: 1, max: 2 ** 40 }) })),
    )
    .map(([dynset, data, timeout]) => ({ ...dynset, ...data, ...timeout })),
  fc.record({ kind: kind('immediate'), target: word, data: constant }),
  fc.record({ kind: kind('verdict'), verdict }),
  fc
    .tuple(
      fc.record({
        kind: kind('nat'),
        nat: fc.constantFrom('dnat', 'snat'),
        family: fc.constantFrom(4, 6),
        flags,
      }),
      optional(fc.record({ address: word })),
      optional(fc.record({ port: word })),
    )
    .map(([nat, address, port]) => ({ ...nat, ...address, ...port })),
  fc.record({ kind: kind('masq'), flags }),
  fc.record({ kind: kind('reject'), with: fc.constantFrom('icmp', 'tcp reset', 'icmpx'), code: fc.nat(255) }),
  fc.record({ kind: kind('counter') }),
) as fc.Arbitrary<NftExpression>;

test('any rule is read as it was written', (t) => {
  fc.assert(
    fc.property(name, fc.array(expression, { maxLength: 20 }), (comment, expressions) => {
      const rule = decodeRule(newRule(table, 'chain', { comment, expressions }, 1));
      t.deepEqual(JSON.parse(JSON.stringify(rule)), {
        table: 'fairlead-test',
        chain: 'chain',
        comment,
        expressions: JSON.parse(JSON.stringify(expressions)),
      });
    }),
  );
});

test('any bytes in place of a rule are read, or refused as malformed, and nothing else', (t) => {
  fc.assert(
    fc.property(fc.array(expression, { maxLength: 5 }), fc.nat(), fc.nat(255), (expressions, place, byte) => {
      const rule = newRule(table, 'chain', { expressions }, 1);
      const payload = Uint8Array.from(rule.payload);
      payload[place % payload.length] = byte;
      try {
        decodeRule({ ...rule, payload });
      } catch (error) {
        if (!(error instanceof MalformedMessageError)) throw error;
      }
    }),
  );
  t.pass();
});

const sets: readonly (readonly [set: NftSet, element: fc.Arbitrary<Omit<NftElement, 'set'>>])[] = [
  [{ name: 'plain', key: ['ipv6_addr', 'inet_service'] }, fc.record({ key: hex(20) })],
  [{ name: 'short', key: ['inet_service'] }, fc.record({ key: hex(2) })],
  [
    { name: 'map', key: ['ipv4_addr'], data: ['ipv6_addr', 'mark'] },
    fc.record({ key: hex(4), data: hex(20) }),
  ],
  [{ name: 'byte', key: ['inet_proto'], data: ['inet_service'] }, fc.record({ key: hex(1), data: hex(2) })],
  [{ name: 'verdicts', key: ['mark'], data: 'verdict' }, fc.record({ key: hex(4), data: verdict })],
  [
    { name: 'boxes', key: ['ipv4_addr', 'inet_service'], data: ['mark'], interval: true },
    fc.record({ key: hex(8), keyEnd: hex(8), data: hex(4) }),
  ],
  [
    { name: 'clients', key: ['ipv4_addr'], data: ['mark'], dynamic: true, timeoutMs: 1000 },
    fc.record({
      key: hex(4),
      data: hex(4),
      lifetime: fc.record({ timeoutMs: fc.integer({ min: 1 }), expiresMs: fc.integer({ min: 1 }) }),
    }),
  ],
];

for (const [set, element] of sets) {
  test(`any elements of the set "${set.name}" are read as they were written`, (t) => {
    fc.assert(
      fc.property(fc.array(element, { maxLength: 50 }), (elements) => {
        const rows = elements.map((row) => ({ set: set.name, ...row }));
        t.deepEqual(decodeElements(set, newElements(set, rows)), rows);
      }),
    );
  });
}

test('no message has more elements than its length field can say', (t) => {
  const long: NftSet = { name: 'long', key: Array(4).fill('ipv6_addr'), data: ['ipv6_addr'] };
  const rows = Array.from({ length: 5000 }, (_, index) => ({
    set: 'long',
    key: index.toString(16).padStart(128, '0'),
    data: '00'.repeat(16),
  }));
  for (const set of [long, { ...long, interval: true }]) {
    const elements = set.interval ? rows.map((row) => ({ ...row, keyEnd: row.key })) : rows;
    const messages = newElements(set, elements);
    t.true(messages.every(({ payload }) => payload.length < 0xffff));
    t.deepEqual(decodeElements(set, messages), elements);
  }
  const small: NftSet = { name: 'small', key: ['mark'] };
  const marks = Array.from({ length: 2 * ELEMENTS_PER_MESSAGE + 1 }, (_, index) => ({
    set: 'small',
    key: index.toString(16).padStart(8, '0'),
  }));
  t.is(newElements(small, marks).length, 3);
});

test('packed elements are those of rows, in as many messages as it takes, each told once', (t) => {
  const map: NftSet = { name: 'map', key: ['mark'], data: ['ipv6_addr'] };
  const packer = elementEncoder(table, map).packer() as ElementPacker;
  const rows = Array.from({ length: 3000 }, (_, index) => ({
    set: 'map',
    key: index.toString(16).padStart(8, '0'),
    data: index.toString(16).padStart(32, '0'),
  }));
  const taken = rows.flatMap(({ key, data }) => {
    const at = packer.add();
    writeHex(packer.bytes, at, key);
    writeHex(packer.bytes, at + packer.keyToData, data);
    return packer.takeFull();
  });
  t.is(taken.length, 2);
  taken.push(...packer.takeAll());
  t.deepEqual(packer.takeAll(), []);
  t.is(
    taken.reduce((sum, { count }) => sum + count, 0),
    rows.length,
  );
  t.deepEqual(
    taken.map(({ message }) => message),
    newElements(map, rows),
  );
});

test('elements of different lengths are not packed', (t) => {
  for (const set of [
    { name: 'verdicts', key: ['mark'], data: 'verdict' },
    { name: 'ranges', key: ['ipv4_addr'], interval: true },
    { name: 'clients', key: ['ipv4_addr'], dynamic: true, timeoutMs: 1000 },
  ] as const)
    t.is(elementEncoder(table, set).packer(), undefined);
});

test('a removal names keys only', (t) => {
  const map: NftSet = { name: 'map', key: ['mark'], data: ['mark'] };
  const verdicts: NftSet = { name: 'verdicts', key: ['mark'], data: 'verdict' };
  const key = '01000000';
  const rows = [
    { set: 'map', key, data: '02000000' },
    { set: 'verdicts', key, data: { verdict: 'drop' } },
  ] as const;
  t.deepEqual(decodeElements(map, deleteElements(map, [rows[0]])), [{ set: 'map', key }]);
  t.deepEqual(decodeElements(verdicts, deleteElements(verdicts, [rows[1]])), [{ set: 'verdicts', key }]);
});

test('ranges that do not overlap are the same after a way through the kernel’s beginnings and ends', (t) => {
  const bounds = fc.uniqueArray(fc.nat(0xffff), { minLength: 0, maxLength: 40 });
  fc.assert(
    fc.property(bounds, (numbers) => {
      const sorted = numbers.toSorted((a, b) => a - b);
      const text = (value: number) => value.toString(16).padStart(4, '0');
      const ranges: NftElement[] = [];
      for (let index = 0; index + 1 < sorted.length; index += 2) {
        const [from = 0, to = 0] = sorted.slice(index, index + 2);
        ranges.push({ set: 'ranges', key: text(from), keyEnd: text(to) });
      }
      // The kernel gives them in its own order, and nft puts an end before everything.
      const entries = [{ key: '0000', end: true }, ...ranges.flatMap(entriesOfRange)].toReversed();
      t.deepEqual(rangesOfEntries('ranges', entries), ranges);
    }),
  );
});

test('any bytes in place of elements are read, or refused as malformed, and nothing else', (t) => {
  for (const [set, element] of sets) {
    fc.assert(
      fc.property(
        fc.array(element, { minLength: 1, maxLength: 3 }),
        fc.nat(),
        fc.nat(255),
        (rows, place, byte) => {
          const [message] = newElements(
            set,
            rows.map((row) => ({ set: set.name, ...row })),
          );
          const payload = Uint8Array.from(message?.payload ?? []);
          payload[place % payload.length] = byte;
          try {
            decodeElements(set, [{ type: 0, flags: 0, payload }]);
          } catch (error) {
            if (!(error instanceof MalformedMessageError)) throw error;
          }
        },
      ),
    );
  }
  t.pass();
});
