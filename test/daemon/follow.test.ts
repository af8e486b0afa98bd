import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { layer, type Plan } from '../../core/rows.ts';
import { followKernel, followUnheard } from '../../daemon/follow.ts';
import type { Monitor, monitor } from '../../kernel/netlink/monitor.ts';
import { until } from './etcd-server.ts';

test('notifications that broke off are listened to again, and what they would have told is news', async (t) => {
  const stop = new AbortController();
  let opened = 0;
  let news = 0;
  const errors: unknown[] = [];
  const open = (() => {
    opened += 1;
    if (opened === 1) throw new Error('no buffer');
    return (async function* () {
      await sleep(60_000, undefined, { signal: stop.signal }).catch(() => {});
      yield* [];
    })() as unknown as Monitor;
  }) as typeof monitor;
  const running = followKernel({
    namespaceFd: undefined,
    interest: () => undefined,
    onNews: () => {
      news += 1;
    },
    onError: (error) => errors.push(error),
    signal: stop.signal,
    open,
  });
  await until('it is opened again', () => opened === 2, 10_000);
  t.is(news, 1);
  t.is(errors.length, 1);
  stop.abort();
  await running;
});

test('what the kernel does not tell of is looked at, and nothing else; a table that cannot be read is told', async (t) => {
  const stop = new AbortController();
  const actual = new Map([['net/ipv4/ip_forward', '1']]);
  const reads: string[] = [];
  const table = (name: string, read: () => Promise<Map<string, string>>) => {
    const row = {
      name,
      same: (a: string, b: string) => a === b,
      read: () => {
        reads.push(name);
        return read();
      },
      write: async () => [],
    };
    return layer(row, new Map([['net/ipv4/ip_forward', '1']]));
  };
  const whole: Plan = [table('sysctl', async () => actual), table('route', async () => new Map())];
  const broken: Plan = [table('wireguard', () => Promise.reject(new Error('gone')))];
  let plan: Plan | undefined;
  let news = 0;
  const errors: unknown[] = [];
  const running = followUnheard({
    plan: () => plan,
    onNews: () => {
      news += 1;
    },
    onError: (error) => errors.push(error),
    signal: stop.signal,
  });
  await sleep(600);
  t.deepEqual(reads, [], 'while nobody knows what the kernel holds');
  plan = whole;
  await until('it is read twice', () => reads.length >= 2, 10_000);
  t.is(news, 0);
  actual.set('net/ipv4/ip_forward', '0');
  await until('the change is news', () => news > 0, 10_000);
  t.deepEqual([...new Set(reads)], ['sysctl']);
  plan = broken;
  await until('the error is told', () => errors.length > 0, 10_000);
  stop.abort();
  await running;
});
