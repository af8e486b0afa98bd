import test from 'ava';
import fc from 'fast-check';
import { decodeAddress, encodeAddress } from '../../../../kernel/netlink/route/address.ts';
import { decodeLink, encodeLink } from '../../../../kernel/netlink/route/link.ts';
import {
  decodeFdb,
  decodeNeighbor,
  encodeFdb,
  encodeNeighbor,
} from '../../../../kernel/netlink/route/neighbor.ts';
import { decodeRoute, encodeRoute } from '../../../../kernel/netlink/route/route.ts';
import { decodeRule, encodeRule } from '../../../../kernel/netlink/route/rule.ts';
import { MalformedMessageError } from '../../../../kernel/netlink/wire.ts';
import { type FamilyName, families, payloadsOf, plain, readGolden, rewriteGolden } from '../golden.ts';

interface Codec<T> {
  readonly decode: (payload: Uint8Array) => T;
  readonly encode: (value: T) => Uint8Array;
  /** What is only read, and not written back. */
  readonly readOnly?: readonly string[];
}

const codecs: { readonly [family in FamilyName]: Codec<never> } = {
  link: codec({ decode: decodeLink, encode: encodeLink }),
  address: codec({ decode: decodeAddress, encode: encodeAddress }),
  route: codec({ decode: decodeRoute, encode: encodeRoute, readOnly: ['nextHops'] }),
  rule: codec({ decode: decodeRule, encode: encodeRule }),
  neighbor: codec({ decode: decodeNeighbor, encode: encodeNeighbor }),
  fdb: codec({ decode: decodeFdb, encode: encodeFdb }),
};

function codec<T>(of: Codec<T>): Codec<never> {
  return of as unknown as Codec<never>;
}

for (const family of families) {
  const { decode, encode, readOnly = [] } = codecs[family];
  const payloads = payloadsOf(family);

  test(`${family}: what a kernel answered is read as what was set up`, (t) => {
    const decoded = plain(payloads.map(decode));
    if (process.env.REWRITE === '1') rewriteGolden(family, decoded);
    t.true(payloads.length > 0);
    t.deepEqual<unknown, unknown>(decoded, readGolden(family).decoded);
  });

  test(`${family}: what was read and is written reads the same again`, (t) => {
    for (const payload of payloads) {
      const first = plain<Record<string, unknown>>(decode(payload));
      const again = plain<Record<string, unknown>>(decode(encode(decode(payload))));
      for (const field of readOnly) delete first[field];
      t.deepEqual(again, first);
    }
  });

  test(`${family}: a message cut or damaged anywhere is read or refused as malformed`, (t) => {
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
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => readOrRefuse(bytes)));
    t.pass();
  });

  function readOrRefuse(bytes: Uint8Array): void {
    try {
      decode(bytes);
    } catch (error) {
      if (!(error instanceof MalformedMessageError)) throw error;
    }
  }

  test(`${family}: an attribute from a later kernel is passed over`, (t) => {
    const unknown = Uint8Array.from([12, 0, 0xff, 0x2f, 1, 2, 3, 4, 5, 6, 7, 8]);
    for (const payload of payloads) {
      t.deepEqual<unknown, unknown>(decode(Buffer.concat([payload, unknown])), decode(payload));
    }
  });
}
