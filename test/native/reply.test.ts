import { once } from 'node:events';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { type UnixConnection, UnixListener } from '../../kernel/unix-socket.ts';
import { native } from '../../native/index.ts';
import { addBridge, dumpLinks, NETLINK_ROUTE } from './netlink.ts';
import { temporaryDirectory, temporaryNamespace } from './setting.ts';

/** A client that is connected, what it has heard, and a lane with work for a fresh namespace. */
async function setUp(t: ExecutionContext) {
  const directory = temporaryDirectory();
  const namespace = temporaryNamespace();
  const path = join(directory.path, 's');
  const { promise, resolve } = Promise.withResolvers<UnixConnection>();
  const listener = UnixListener.listen(path, resolve);
  listener.resume();
  const client = connect(path);
  let heard = '';
  client.on('data', (data) => {
    heard += data.toString();
  });
  const connection = await promise;
  const lane = native.lane();
  t.teardown(() => {
    client.destroy();
    connection[Symbol.dispose]();
    listener[Symbol.dispose]();
    lane.close();
    namespace[Symbol.dispose]();
    directory[Symbol.dispose]();
  });
  const step = (data: Uint8Array) => ({ namespaceFd: namespace.fd, protocol: NETLINK_ROUTE, data });
  return { client, connection, lane, step, heard: () => heard };
}

async function until(condition: () => boolean): Promise<void> {
  for (const end = performance.now() + 30_000; !condition() && performance.now() < end; ) await sleep(2);
}

test('an armed reply is sent when all steps are done', async (t) => {
  const { connection, lane, step, heard } = await setUp(t);
  const ahead = connection.replyAhead();
  ahead.arm(Buffer.from('done'));
  await native.run(lane, [step(addBridge('a')), step(dumpLinks())], ahead.reply);
  t.is(ahead.take(), 'sent');
  await until(() => heard().length >= 'done'.length);
  t.is(heard(), 'done');
});

test('it may be armed while the job runs, or too late; then it is ours', async (t) => {
  const { connection, lane, step, heard } = await setUp(t);
  const many = Array.from({ length: 4000 }, () => step(dumpLinks()));
  const early = connection.replyAhead();
  const running = native.run(lane, many, early.reply);
  early.arm(Buffer.from('early'));
  await running;
  t.is(early.take(), 'sent');
  const late = connection.replyAhead();
  await native.run(lane, [step(dumpLinks())], late.reply);
  late.arm(Buffer.from('late'));
  t.is(late.take(), 'ours');
  t.is(late.take(), 'ours');
  await until(() => heard().length >= 'early'.length);
  await sleep(20);
  t.is(heard(), 'early');
});

test('what was taken is not sent any more', async (t) => {
  const { connection, lane, step, heard } = await setUp(t);
  const many = Array.from({ length: 4000 }, () => step(dumpLinks()));
  const ahead = connection.replyAhead();
  ahead.arm(Buffer.from('never'));
  const running = native.run(lane, many, ahead.reply);
  t.is(ahead.take(), 'ours');
  await running;
  await sleep(20);
  t.is(heard(), '');
});

test('after a refused step nothing is sent', async (t) => {
  const { connection, lane, step, heard } = await setUp(t);
  await native.run(lane, [step(addBridge('a'))]);
  for (const steps of [[step(addBridge('a'))], [step(addBridge('b')), step(addBridge('a'))]]) {
    const ahead = connection.replyAhead();
    ahead.arm(Buffer.from('never'));
    await native.run(lane, steps, ahead.reply);
    t.is(ahead.take(), 'ours');
  }
  await sleep(20);
  t.is(heard(), '');
});

test('a client that has gone is told of', async (t) => {
  const { client, connection, lane, step } = await setUp(t);
  const closed = once(client, 'close');
  client.destroy();
  await closed;
  const ahead = connection.replyAhead();
  ahead.arm(Buffer.from('hello?'));
  await native.run(lane, [step(dumpLinks())], ahead.reply);
  t.is(ahead.take(), 'failed');
});

test('a reply whose job never runs costs nothing, and anything else is no reply', async (t) => {
  const { connection, lane, step } = await setUp(t);
  connection.replyAhead().arm(Buffer.alloc(1000));
  t.throws(() => native.run(lane, [step(dumpLinks())], {} as never), { message: /reply must be/ });
  t.throws(() => native.takeReply(undefined as never), { message: /reply must be/ });
});
