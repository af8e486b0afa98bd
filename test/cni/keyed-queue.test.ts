import test from 'ava';
import { KeyedQueue } from '../../cni/keyed-queue.ts';

test('work of one key runs in order, work of others at the same time', async (t) => {
  const queue = new KeyedQueue();
  const seen: string[] = [];
  const gate = Promise.withResolvers<void>();
  const slow = queue.run('a', async () => {
    await gate.promise;
    seen.push('a1');
  });
  const next = queue.run('a', async () => void seen.push('a2'));
  await queue.run('b', async () => void seen.push('b1'));
  gate.resolve();
  await Promise.all([slow, next]);
  t.deepEqual(seen, ['b1', 'a1', 'a2']);
});

test('failed work does not stop the work behind it', async (t) => {
  const queue = new KeyedQueue();
  const failed = queue.run('a', () => Promise.reject(new Error('no')));
  const next = queue.run('a', async () => 'yes');
  await t.throwsAsync(failed, { message: 'no' });
  t.is(await next, 'yes');
});
