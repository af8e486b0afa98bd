import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import type { NetlinkMessage } from '../../kernel/netlink/message.ts';
import { message } from '../../kernel/netlink/nftables/constants.ts';
import { decodeElements } from '../../kernel/netlink/nftables/decode-elements.ts';
import { encodeLayout } from '../../kernel/netlink/nftables/layout.ts';
import {
  attributesOf,
  decodeChain,
  decodeRule,
  decodeSet,
  decodeTable,
  tableOf,
} from '../../kernel/netlink/nftables/messages.ts';
import { type NftElement, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import { examples } from './nftables-layouts.ts';

/*
 * The golden files hold what the kernel (6.18) said about tables that nft 1.0.6 made from the listings beside them:
 * message types and payloads in hex. test/netns/nftables-listing.test.ts makes and writes them.
 */
function goldenMessages(name: string): NetlinkMessage[] {
  const path = join(import.meta.dirname, '../golden/nftables', `${name}.json`);
  return (JSON.parse(readFileSync(path, 'utf8')) as string[]).map((line) => {
    const [type = '', hex = ''] = line.split(' ');
    return { type: Number.parseInt(type, 16), flags: 0, payload: Buffer.from(hex, 'hex') };
  });
}

const ofType = (messages: readonly NetlinkMessage[], type: number) =>
  messages.filter((candidate) => candidate.type === type);

/** The kernel numbers sets without a name. */
const unnumbered = <T>(value: T): T =>
  JSON.parse(JSON.stringify(value).replaceAll(/__set(\d+|%d)/g, '__set'));

/** nft 1.0.6 overwrites the end of an IPv6 key with the data of a map update. */
const isSpoiltByNft = (rule: NetlinkMessage) =>
  tableOf(rule) !== '' && decodeRule(rule).comment?.startsWith('remember') === true;

for (const { name, layout, rows } of examples) {
  const actual = goldenMessages(name);
  const ours = encodeLayout(layout);
  const sent = [...ours.begin, ...ours.end];

  test(`${name}: what we send says the same as what the kernel has from nft`, (t) => {
    const both = (type: number) => [ofType(sent, type), ofType(actual, type)] as const;
    const [, tables] = both(message.NEWTABLE);
    t.deepEqual(tables.map(decodeTable), [{ name: layout.table, flags: 0, comment: ours.mark }]);
    const [chains, theirChains] = both(message.NEWCHAIN);
    t.deepEqual(chains.map(decodeChain), theirChains.map(decodeChain));
    const [rules, theirRules] = [ours.rules, actual].map((list) =>
      ofType(list, message.NEWRULE).filter((rule) => !isSpoiltByNft(rule)),
    );
    t.deepEqual(unnumbered(rules?.map(decodeRule)), unnumbered(theirRules?.map(decodeRule)));
  });

  test(`${name}: sets have the types, sizes and user data that nft gives them`, (t) => {
    const describe = (set: NetlinkMessage) => {
      const { userdata, dataBytes, ...rest } = decodeSet(set);
      // Verdicts: 16 bytes in the kernel's own words. Types instead of fields: nft writes an empty "typeof".
      const byType = layout.sets.some((spec) => spec.name === rest.name && typeof spec.key[0] === 'string');
      return { ...rest, userdata: byType ? '' : Buffer.from(userdata ?? []).toString('hex') };
    };
    const byName = (messages: readonly NetlinkMessage[]) =>
      unnumbered(ofType(messages, message.NEWSET).map(describe)).toSorted((a, b) =>
        a.name < b.name ? -1 : 1,
      );
    t.deepEqual(byName(sent), byName(actual));
  });

  test(`${name}: elements are read as they were written`, (t) => {
    const read = layout.sets.flatMap((set) => {
      const own = ofType(actual, message.NEWSETELEM).filter(
        (list) => attributesOf(list, 'element list').text(2) === set.name,
      );
      return decodeElements(set, own);
    });
    const sorted = (elements: Iterable<NftElement>) =>
      [...elements].toSorted((a, b) => (nftElementKey(a) < nftElementKey(b) ? -1 : 1));
    t.deepEqual(sorted(read), sorted(rows.values()));
  });
}
