import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import type { NetlinkMessage } from '../../kernel/netlink/message.ts';
import { decodeElements } from '../../kernel/netlink/nftables/decode-elements.ts';
import { decodeChain, decodeRule, decodeSet, decodeTable } from '../../kernel/netlink/nftables/messages.ts';
import {
  getChain,
  getElements,
  getRules,
  getSets,
  getTable,
} from '../../kernel/netlink/nftables/requests.ts';
import type { NftLayout } from '../../kernel/netlink/nftables/spec.ts';
import type { NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { NftTable } from '../../kernel/nftables.ts';
import { examples } from '../kernel/nftables-layouts.ts';
import { openNftSpace, settle } from './nftables-space.ts';

/*
 * Each example goes the whole way: our messages → the kernel → nft's listing → nft -f → the kernel → our decoder.
 * REWRITE=1 writes the golden files anew: the listing, and what the kernel then answers about nft's own table.
 */
const golden = join(import.meta.dirname, '../golden/nftables');

/** Everything that the kernel says about a table. */
async function dumpTable(socket: NetlinkSocket, layout: NftLayout): Promise<NetlinkMessage[]> {
  const one = async (message: NetlinkMessage) => (await socket.request(message)).slice(0, 1);
  const messages = [...(await one(getTable(layout)))];
  for (const { name } of layout.chains) messages.push(...(await one(getChain(layout, name))));
  messages.push(...(await socket.dump(getSets(layout))));
  messages.push(...(await socket.dump(getRules(layout))));
  for (const { name } of layout.sets) messages.push(...(await socket.dump(getElements(layout, name))));
  return messages;
}

/**
 * The same, without what differs from one making to the next: handles, counters. And without the user data of
 * sets by type, where nft writes an empty `typeof`, and rules that update a map by an IPv6 address, where nft 1.0.6
 * overwrites the end of the key with the data.
 */
async function describeTable(socket: NetlinkSocket, layout: NftLayout) {
  const [table] = await socket.request(getTable(layout));
  const chains = [];
  for (const { name } of layout.chains) chains.push(...(await socket.request(getChain(layout, name))));
  const elements = [];
  for (const set of layout.sets) {
    const rows = decodeElements(set, await socket.dump(getElements(layout, set.name)));
    elements.push(...rows.map((row) => JSON.stringify(row)).toSorted());
  }
  return {
    table: table === undefined ? undefined : decodeTable(table),
    chains: chains.map(decodeChain),
    sets: (await socket.dump(getSets(layout))).map(decodeSet).map(({ userdata, ...set }) => {
      const byType = layout.sets.some(({ name, key }) => name === set.name && typeof key[0] === 'string');
      return byType ? set : { ...set, userdata: Buffer.from(userdata ?? []).toString('hex') };
    }),
    rules: (await socket.dump(getRules(layout)))
      .map(decodeRule)
      .filter(({ comment }) => layout.family !== 'ip6' || !comment?.startsWith('remember')),
    elements,
  };
}

for (const { name, layout, rows } of examples) {
  test(`nft lists ${name} as written, and makes the very same table from its listing`, async (t) => {
    const { socket, nft, load } = openNftSpace(t);
    const table = new NftTable({ socket, layout });
    t.is(await settle(t, table, rows), rows.size + 1);
    const ours = await describeTable(socket, layout);
    const listing = nft('list ruleset');

    nft('flush ruleset');
    load(listing);
    t.is(nft('list ruleset'), listing);
    t.deepEqual(await describeTable(socket, layout), ours);
    // What nft made is as good as ours, but for the rule that it spoils: then ours is made anew.
    t.is(await settle(t, table, rows), layout.family === 'ip6' ? rows.size + 1 : 0);

    const [text, bytes] = [join(golden, `${name}.nft`), join(golden, `${name}.json`)];
    if (process.env.REWRITE) {
      const messages = (await dumpTable(socket, layout)).map(
        ({ type, payload }) => `${type.toString(16)} ${Buffer.from(payload).toString('hex')}`,
      );
      writeFileSync(text, listing);
      writeFileSync(bytes, `${JSON.stringify(messages, undefined, 1)}\n`);
    }
    t.is(listing, readFileSync(text, 'utf8'));
  });
}
