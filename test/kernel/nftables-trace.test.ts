import test from 'ava';
import fc from 'fast-check';
import type { Ip } from '../../core/address.ts';
import { decodeRule } from '../../kernel/netlink/nftables/messages.ts';
import { decodeTrace, MSG_TRACE, type TraceEvent, traceTable } from '../../kernel/netlink/nftables/trace.ts';
import { readTuple } from '../../kernel/netlink/nftables/trace-packet.ts';
import { MalformedMessageError } from '../../kernel/netlink/wire.ts';
import { followPacket, hopsOf, type TraceNames } from '../../kernel/nftables-trace-hops.ts';

/*
 * What a kernel (6.18) said of one datagram from port 4444 to port 53 of the loopback address: first what the table that
 * marks it did, then the table x of somebody else.
 */
const captured = {
  4: [
    '0200000008000f0000000002080004000000000308000600dc4b6da30b0002006f7574707574000018000100666169726c6561642d74726163652d33363235000c00030000000000000000040c00050008000100ffffffff08000c000000000106000d0003040000180008004500001db6a74000401186267f0000017f0000010d000900115c00350009fe1c78000000',
    '0200000008000f0000000002080004000000000308000600dc4b6da30b0002006f7574707574000018000100666169726c6561642d74726163652d33363235000c00050008000100ffffffff',
    '0200000008000f0000000002080004000000000108000600dc4b6da30b0002006f7574707574000018000100666169726c6561642d74726163652d33363235000800100000000001',
    '0200000008000f0000000002080004000000000308000600dc4b6da3070002006f32000006000100780000000c00030000000000000000030c00050008000100ffffffff08000c000000000106000d0003040000180008004500001db6a74000401186267f0000017f0000010d000900115c00350009fe1c78000000',
    '0200000008000f0000000002080004000000000308000600dc4b6da3070002006f32000006000100780000000c00030000000000000000041400050008000100fffffffd0800020073756200',
    '0200000008000f0000000002080004000000000308000600dc4b6da3080002007375620006000100780000000c00030000000000000000050c0005000800010000000000',
  ],
  6: [
    '0a00000008000f000000000a08000400000000030800060007de94630b0002006f7574707574000018000100666169726c6561642d74726163652d33363235000c00030000000000000000040c00050008000100ffffffff08000c000000000106000d00030400002c000800600432610009114000000000000000000000000000000001000000000000000000000000000000010d000900115c00350009001c78000000',
    '0a00000008000f000000000a08000400000000030800060007de9463070002006f32000006000100780000000c00030000000000000000030c00050008000100ffffffff08000c000000000106000d00030400002c000800600432610009114000000000000000000000000000000001000000000000000000000000000000010d000900115c00350009001c78000000',
    '0a00000008000f000000000a08000400000000030800060007de9463070002006f32000006000100780000000c00030000000000000000041400050008000100fffffffd0800020073756200',
    '0a00000008000f000000000a08000400000000030800060007de9463080002007375620006000100780000000c00030000000000000000050c0005000800010000000000',
  ],
} as const;
const marking = {
  4: { family: 'ip', table: 'fairlead-trace-3625' },
  6: { family: 'ip6', table: 'fairlead-trace-3625' },
} as const;

function decode(hex: string): TraceEvent {
  return decodeTrace({ type: MSG_TRACE, flags: 0, payload: Buffer.from(hex, 'hex') });
}

const names: TraceNames = {
  rules: new Map(),
  chains: new Map([['ip x o2', { number: 3, priority: 0 }]]),
  linkName: (index) => (index === 1 ? 'lo' : undefined),
};

test('a step of a trace is read as the kernel wrote it', (t) => {
  t.like(decode(captured[4][3]), {
    id: 0xdc4b6da3,
    family: 'ip',
    table: 'x',
    chain: 'o2',
    kind: 'rule',
    handle: 3n,
    verdict: 'continue',
    output: 1,
    packet: {
      source: '127.0.0.1' as Ip,
      destination: '127.0.0.1' as Ip,
      protocol: 17,
      sourcePort: 4444,
      port: 53,
    },
  });
  t.like(decode(captured[4][2]), { kind: 'policy', verdict: 'accept', handle: undefined });
  t.like(decode(captured[6][2]), { family: 'ip6', verdict: 'jump', target: 'sub', packet: undefined });
  t.is(decode(captured[6][3]).verdict, 'drop');
  t.like(decode(captured[6][1]).packet, { source: '::1' as Ip, sourcePort: 4444, port: 53 });
});

for (const family of [4, 6] as const) {
  test(`IPv${family}: the packet that was marked is followed, and what marked it left out`, (t) => {
    const events = captured[family].map(decode);
    const own = followPacket(events, marking[family]);
    t.deepEqual(
      own.map(({ table, chain }) => `${table} ${chain}`),
      ['x o2', 'x o2', 'x sub'],
    );
    const stranger = { ...(events.at(-1) as TraceEvent), id: 1 };
    t.deepEqual(followPacket([stranger, ...events, stranger], marking[family]), own);
    t.deepEqual(followPacket([...events, ...events], marking[family]), own, 'a second packet is another one');
    t.deepEqual(followPacket(events.slice(3), marking[family]), [], 'nothing was marked');
  });
}

test('on another interface the packet has another number and is known by its source', (t) => {
  const events = captured[4].map(decode);
  const later = events.slice(3).map((event) => ({ ...event, id: 7, table: 'y' }));
  const own = followPacket([...events, ...later], marking[4]);
  t.deepEqual(
    own.map(({ table }) => table),
    ['x', 'x', 'x', 'y', 'y', 'y'],
  );
});

test('what IPVS takes in the output hook goes out once more, and is still the same packet', (t) => {
  const events = captured[4].map(decode);
  const again = events.map((event) => {
    if (event.packet === undefined) return event;
    return { ...event, packet: { ...event.packet, destination: '10.0.0.7' as Ip } };
  });
  const own = followPacket([...events, ...again], marking[4]);
  t.deepEqual(
    own.map(({ packet }) => packet?.destination),
    ['127.0.0.1' as Ip, undefined, undefined, '10.0.0.7' as Ip, undefined, undefined],
  );
});

test('steps become hops, one for each base chain, without the marks of ends of chains', (t) => {
  const own = followPacket(captured[4].map(decode), marking[4]);
  const end: TraceEvent = { ...(own[1] as TraceEvent), handle: undefined, verdict: 'continue' };
  const [hop, ...others] = hopsOf([...own.slice(0, 2), end, ...own.slice(2)], names);
  t.deepEqual(others, []);
  t.like(hop, { table: 'x', chain: 'o2', hook: 'output', priority: 0, output: 'lo', verdict: 'drop' });
  t.deepEqual(
    hop?.steps.map(({ chain, handle, verdict }) => `${chain} ${handle} ${verdict}`),
    ['o2 3 continue', 'o2 4 jump', 'sub 5 drop'],
  );
  t.is(hopsOf(own, { ...names, chains: new Map() })[0]?.hook, undefined);
});

test('the table that marks packets is its socket’s own, and marks one connection before all others see it', (t) => {
  const filter = { source: '10.0.0.1' as Ip, destination: '10.0.0.2' as Ip, protocol: 6, port: 80 };
  const messages = traceTable({ family: 'ip', table: 'fairlead-trace-1' }, { ...filter, sourcePort: 4444 });
  t.true(
    Buffer.from(messages[0]?.payload ?? [])
      .toString('hex')
      .includes('0800020000000002'),
    'NFT_TABLE_F_OWNER',
  );
  const expressions = messages.slice(3).map((message) => decodeRule(message).expressions);
  t.is(expressions.length, 2);
  const constants = expressions[0]?.flatMap((each) => (each.kind === 'cmp' ? each.data : []));
  t.deepEqual(constants, ['0a000001', '0a000002', '06', '115c', '0050', '02']);
  t.deepEqual(expressions[0]?.at(-1), { kind: 'meta set', key: 'nftrace', from: 0 });
  const udp = traceTable({ family: 'ip', table: 'x' }, { ...filter, protocol: 17 }).slice(3);
  const ofUdp = decodeRule(udp[0] as (typeof udp)[number]).expressions;
  t.deepEqual(
    ofUdp.flatMap((each) => (each.kind === 'cmp' ? each.data : [])),
    ['0a000001', '0a000002', '11', '0050'],
  );
});

test('whatever bytes come, a trace is read or said to be malformed', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), fc.uint8Array({ maxLength: 40 }), (payload, transport) => {
      readTuple(payload, transport);
      try {
        decodeTrace({ type: MSG_TRACE, flags: 0, payload });
      } catch (error) {
        t.true(error instanceof MalformedMessageError);
      }
    }),
  );
  t.pass();
});
