import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import type { Lease, LeaseAttributes, LeaseView } from '../../daemon/lease.ts';
import { OwnLease } from '../../daemon/own-lease.ts';
import { until } from './etcd-server.ts';
import { ip, leaseOf } from './golden.ts';

const lease = leaseOf({ n: 1 }, 'vxlan');

/** An agent that asks again as soon as it sees that the lease is not there. */
function setUp(t: ExecutionContext) {
  const stop = new AbortController();
  t.teardown(() => stop.abort());
  const shown = new Map<string, Lease>();
  const view: LeaseView = {
    synced: Promise.resolve(),
    leases: () => shown,
    problems: () => [],
    behindMs: () => 0,
  };
  const asked: LeaseAttributes[] = [];
  let attributes: LeaseAttributes = lease;
  const own = new OwnLease<undefined>({
    store: {
      name: 'fake',
      watch: () => view,
      acquire: async (given) => {
        asked.push(given);
        return { ...lease, ...given };
      },
    },
    signal: stop.signal,
    previous: () => ({}),
    onGranted: () => queueMicrotask(look),
    onProblem: () => {},
  });
  const look = () => {
    setImmediate(() => {
      if (!own.isHeld(attributes, view)) own.acquire(attributes, undefined);
    });
    return own.isHeld(attributes, view);
  };
  const wish = (other: LeaseAttributes) => {
    attributes = other;
    look();
  };
  return { own, asked, shown, look, wish };
}

test('a lease that the view does not show is asked for ever more seldom', async (t) => {
  const { asked, look } = setUp(t);
  look();
  await until('it is asked for again', () => asked.length > 1);
  await sleep(1_000);
  t.true(asked.length < 12, `asked ${asked.length} times`);
});

test('no question is left when the view shows the lease, and the next one is asked at once', async (t) => {
  const { own, asked, shown, look, wish } = setUp(t);
  look();
  await until('it is asked for', () => asked.length >= 4);
  shown.set(lease.key, lease);
  t.true(look());
  await own.settled();
  const times = asked.length;
  t.false(own.isBeingAcquired);
  await sleep(300);
  t.is(asked.length, times);
  const moved = { ...lease, publicIps: { 4: ip('192.0.2.99') } };
  wish(moved);
  await until('it is asked for', () => asked.length > times);
  t.is(asked.at(-1), moved);
});

test('another wish does not wait for the last one to be asked again', async (t) => {
  const { asked, look, wish } = setUp(t);
  look();
  await until('waits have become long: more than 1.6 seconds', () => asked.length >= 6);
  const [times, begin] = [asked.length, performance.now()];
  const moved = { ...lease, publicIps: { 4: ip('192.0.2.99') } };
  wish(moved);
  await until('it is asked for', () => asked.length > times);
  t.is(asked[times], moved);
  t.true(performance.now() - begin < 1_500);
});
