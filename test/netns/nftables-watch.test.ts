import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { hexU32 } from '../../kernel/netlink/nftables/keys.ts';
import { type NftLayout, nftElementKey } from '../../kernel/netlink/nftables/spec.ts';
import { NftTable } from '../../kernel/nftables.ts';
import { readPortId, watchNftables } from '../../kernel/nftables-watch.ts';
import { openNftSpace, settle } from './nftables-space.ts';

const layout: NftLayout = {
  family: 'ip6',
  table: 'fairlead-watched',
  chains: [],
  sets: [{ name: 'marks', key: ['mark'], size: 1 << 17 }],
};
const mark = { set: 'marks', key: hexU32(80) };
const rows = new Map([[nftElementKey(mark), mark]]);
/** Long enough for a notification that is not to come. */
const QUIET_MS = 50;

test('only what others do to the watched tables is told, once for each turn', async (t) => {
  const { socket, fd, nft } = openNftSpace(t);
  const table = new NftTable({ socket, layout });
  const ownPorts = [await readPortId(socket)];
  const abort = new AbortController();
  using watch = watchNftables({ namespaceFd: fd, signal: abort.signal, tables: [layout.table], ownPorts });
  const events: string[] = [];
  const ended = (async () => {
    for await (const event of watch) events.push(event);
  })();

  await settle(t, table, rows);
  await settle(t, table, new Map());
  nft('add table ip somebody');
  await sleep(QUIET_MS);
  t.deepEqual(events, []);

  for (const command of ['add element ip6 fairlead-watched marks { 443 }', 'flush ruleset']) {
    nft(command);
    while (events.length === 0) await sleep(1);
    await sleep(QUIET_MS);
    t.deepEqual(events.splice(0), ['changed']);
    t.true((await settle(t, table, rows)) > 0);
  }
  await sleep(QUIET_MS);
  t.deepEqual(events, []);
  abort.abort();
  await ended;
});

test('of more notifications than can be kept, it is told that they were lost', async (t) => {
  const { socket, fd } = openNftSpace(t);
  const table = new NftTable({ socket, layout });
  using watch = watchNftables({
    namespaceFd: fd,
    signal: AbortSignal.timeout(10_000),
    tables: [layout.table],
    ownPorts: [await readPortId(socket)],
  });
  const elements = Array.from({ length: 60_000 }, (_, number) => ({
    set: 'marks',
    key: hexU32(number),
  }));
  await settle(t, table, new Map(elements.map((row) => [nftElementKey(row), row])));
  for await (const event of watch) {
    t.is(event, 'overrun');
    break;
  }
});
