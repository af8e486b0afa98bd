import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import test from 'ava';
import { EtcdClient } from '../../daemon/etcd.ts';
import { StoreError } from '../../daemon/lease.ts';
import { until } from './etcd-server.ts';

test('a request that nobody answers in time takes no other with it', async (t) => {
  const waiting: ServerResponse[] = [];
  const server = createServer((request, response) =>
    request.resume().on('end', () => waiting.push(response)),
  );
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const endpoints = [`http://127.0.0.1:${port}`];
  using client = new EtcdClient({ endpoints, requestTimeoutMs: 10_000 });
  const { signal } = new AbortController();
  const unanswered = client.get('first', signal);
  await until('the first is asked', () => waiting.length === 1);
  // Half of the second one's time is left when the first one's is over.
  await new Promise((resolve) => setTimeout(resolve, 5_000));
  const answered = client.get('second', signal);
  await until('the second is asked', () => waiting.length === 2);
  await t.throwsAsync(unanswered, { instanceOf: StoreError, message: /no answer in 10000 ms/ });
  const value = Buffer.from('here').toString('base64');
  waiting[1]?.end(JSON.stringify({ header: { revision: '1' }, kvs: [{ key: '', value }] }));
  t.is(await answered, 'here');
});
