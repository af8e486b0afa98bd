import test from 'ava';
import fc from 'fast-check';
import { envBytesMax, frameMagic, stdinBytesMax } from '../../cni/frame.ts';
import type { Call } from '../../cni/plugin.ts';
import { answerTimeoutMs, Session, type SessionConnection, statusTimeoutMs } from '../../cni/session.ts';

interface Delivery {
  readonly data: Uint8Array;
  readonly fds?: readonly number[];
  readonly uid?: number;
}

/** One connection in memory: what is delivered is read piece by piece. */
function setUp(serve: (call: Call) => Promise<void> = async (call) => void call.answer(0, 'done')) {
  const deliveries: Delivery[] = [];
  const sent: Buffer[] = [];
  const closed: number[] = [];
  const calls: Call[] = [];
  let watcher: (() => void) | undefined;
  let ends = 0;
  let disposals = 0;
  const connection: SessionConnection = {
    receive: () => {
      const next = deliveries.shift();
      return next === undefined ? undefined : { fds: [], uid: 0, ...next };
    },
    send: (data) => sent.push(Buffer.from(data)) > 0,
    watch: (callback) => {
      watcher = callback;
    },
    [Symbol.dispose]: () => {
      disposals += 1;
    },
  };
  const session = new Session(
    {
      connection,
      serve: async (call) => {
        calls.push(call);
        await serve(call);
      },
      closeDescriptor: (fd) => closed.push(fd),
      onEnd: () => {
        ends += 1;
      },
    },
    0,
  );
  const deliver = async (...parts: Delivery[]) => {
    deliveries.push(...parts);
    if (watcher === undefined) session.begin();
    else watcher();
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { session, connection, deliver, sent, closed, calls, state: () => ({ ends, disposals }) };
}

function frame(
  env: string,
  stdin: string,
  lengths: { env?: number; stdin?: number; magic?: number } = {},
): Buffer {
  const header = Buffer.alloc(12);
  header.writeUInt32LE(lengths.magic ?? frameMagic, 0);
  header.writeUInt32LE(lengths.env ?? Buffer.byteLength(env), 4);
  header.writeUInt32LE(lengths.stdin ?? Buffer.byteLength(stdin), 8);
  return Buffer.concat([header, Buffer.from(env), Buffer.from(stdin)]);
}

function reply(bytes: Buffer | undefined): unknown {
  if (bytes === undefined) return undefined;
  return { exitCode: bytes.readUInt32LE(0), stdout: bytes.subarray(8, 8 + bytes.readUInt32LE(4)).toString() };
}

test('a request cut anywhere is served once, and everything is closed', async (t) => {
  const bytes = frame('CNI_COMMAND=ADD\0CNI_ARGS=A=1;B=2\0', '{"name":"ü"}');
  const cuts = fc.uniqueArray(fc.nat(bytes.length - 1), { maxLength: 5 });
  await fc.assert(
    fc.asyncProperty(cuts, async (places) => {
      const { deliver, sent, closed, calls, state } = setUp();
      const ends = [...places.filter((at) => at > 0).sort((a, b) => a - b), bytes.length];
      let from = 0;
      for (const end of ends) {
        await deliver({ data: bytes.subarray(from, end), ...(from === 0 ? { fds: [7, 8] } : {}) });
        from = end;
      }
      t.is(calls.length, 1);
      t.deepEqual(
        [...(calls[0]?.env ?? [])],
        [
          ['CNI_COMMAND', 'ADD'],
          ['CNI_ARGS', 'A=1;B=2'],
        ],
      );
      t.is(Buffer.from(calls[0]?.stdin ?? []).toString(), '{"name":"ü"}');
      t.like(calls[0], { ownNamespaceFd: 7, podNamespaceFd: 8 });
      t.deepEqual(reply(sent[0]), { exitCode: 0, stdout: 'done' });
      t.deepEqual(closed, [7, 8]);
      t.deepEqual(state(), { ends: 1, disposals: 1 });
    }),
    { numRuns: 30 },
  );
});

test('whoever is not root is refused and nothing is served', async (t) => {
  const { deliver, sent, calls, closed, state } = setUp();
  await deliver({ data: frame('A=1\0', '{}'), fds: [7], uid: 1000 });
  t.is(calls.length, 0);
  t.regex(JSON.stringify(reply(sent[0])), /only root may use the Fairlead plugin/);
  t.deepEqual(closed, [7]);
  t.is(state().ends, 1);
});

for (const [what, lengths, message] of [
  ['another protocol', { magic: 1 }, /not the protocol/],
  ['too much environment', { env: envBytesMax + 1 }, /bytes of environment, at most 262144/],
  ['too much input', { stdin: stdinBytesMax + 1 }, /bytes on standard input, at most 1048576/],
] as const) {
  test(`${what} is refused at once`, async (t) => {
    const { deliver, sent, state } = setUp();
    await deliver({ data: frame('', '', lengths) });
    t.regex(JSON.stringify(reply(sent[0])), message);
    t.is(state().ends, 1);
  });
}

test('a client that ends before its request is complete costs nothing', async (t) => {
  const { deliver, calls, closed, state } = setUp();
  await deliver({ data: frame('A=1\0', '{}').subarray(0, 9), fds: [5] }, { data: new Uint8Array() });
  t.is(calls.length, 0);
  t.deepEqual(closed, [5]);
  t.is(state().ends, 1);
});

test('more descriptors than there are namespaces end the session', async (t) => {
  const { deliver, closed, state } = setUp();
  await deliver({ data: Buffer.from('F'), fds: [5, 6, 7] });
  t.deepEqual(closed, [5, 6, 7]);
  t.is(state().ends, 1);
});

test('a session that waits for its request can be abandoned, one that is served cannot', async (t) => {
  const waiting = setUp();
  await waiting.deliver({ data: Buffer.from('F') });
  t.is(waiting.session.waitingSinceMs, 0);
  waiting.session.abandon();
  t.is(waiting.state().ends, 1);
  const busy = setUp(() => new Promise(() => {}));
  await busy.deliver({ data: frame('A=1\0', '{}') });
  t.is(busy.session.waitingSinceMs, undefined);
  busy.session.abandon();
  t.is(busy.state().ends, 0);
});

for (const [verb, limitMs, code] of [
  ['ADD', answerTimeoutMs, 11],
  ['STATUS', statusTimeoutMs, 50],
] as const) {
  test(`${verb} that takes too long is answered with code ${code}, once, and served to its end`, async (t) => {
    const late = Promise.withResolvers<void>();
    const taken: boolean[] = [];
    const { session, deliver, sent, state } = setUp(async (call) => {
      await late.promise;
      taken.push(call.answer(0, 'result'));
    });
    const before = performance.now();
    await deliver({ data: frame(`CNI_COMMAND=${verb}\0`, '{}') });
    session.answerLate(before + limitMs - 1);
    t.is(sent.length, 0);
    for (const _ of [1, 2]) session.answerLate(performance.now() + limitMs);
    t.is(sent.length, 1);
    t.regex(JSON.stringify(reply(sent[0])), new RegExp(`code.":${code}.*could not do this in time`));
    t.is(state().ends, 0);
    late.resolve();
    await new Promise((resolve) => setImmediate(resolve));
    t.deepEqual(taken, [false]);
    t.is(sent.length, 1);
    t.is(state().ends, 1);
  });
}

/** A connection whose lane has answered, or could not. */
function sessionAhead(outcome: 'ours' | 'sent' | 'failed') {
  const answered: boolean[] = [];
  const setting = setUp(async (call) => {
    call.openAhead?.().arm('{}');
    answered.push(call.answer(0, '{}'), call.answer(1, 'again'));
  });
  const armed: Buffer[] = [];
  Object.assign(setting.connection, {
    replyAhead: () => ({
      reply: {},
      arm: (data: Uint8Array) => armed.push(Buffer.from(data)),
      take: () => outcome,
    }),
  });
  return { ...setting, answered, armed };
}

test('an answer that was sent ahead is not sent again, and counts', async (t) => {
  const { deliver, sent, answered, armed } = sessionAhead('sent');
  await deliver({ data: frame('CNI_COMMAND=ADD\0', '{}') });
  t.deepEqual(armed.map(reply), [{ exitCode: 0, stdout: '{}' }]);
  t.deepEqual([sent.length, answered], [0, [true, true]]);
});

test('an answer that was not sent ahead is sent, and one that could not be is told', async (t) => {
  const ours = sessionAhead('ours');
  await ours.deliver({ data: frame('CNI_COMMAND=ADD\0', '{}') });
  t.deepEqual([ours.sent.map(reply), ours.answered], [[{ exitCode: 0, stdout: '{}' }], [true, false]]);
  const failed = sessionAhead('failed');
  await failed.deliver({ data: frame('CNI_COMMAND=ADD\0', '{}') });
  t.deepEqual([failed.sent.length, failed.answered], [0, [false, false]]);
});
