import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import type { Workload } from '../../cli/cluster/workload-client.ts';
import { ENDPOINT_SLICES, SERVICES } from '../../kube/types.ts';
import { parseService, parseSlice } from '../proxy/objects.ts';
import { openProxyApi } from './proxy-api.ts';
import {
  assertNoFailure,
  backendOf,
  CONNECT_INTERVAL_MS,
  Generation,
  modes,
  NUMBER,
  openStage,
  PATIENCE_MS,
  POLL_MS,
  policy,
  portOf,
  SETTLE_MS,
  type State,
  servers,
  settle,
  slicesOf,
  staleFlowsOf,
  startDatagrams,
  startLoad,
  webService,
} from './proxy-change-stage.ts';
import { frontendAddresses, type Pod, podAddresses } from './proxy-lab.ts';

for (const mode of modes) {
  test.serial(
    `${mode}: all endpoints of a Service are replaced under load and no connection fails`,
    async (t) => {
      const lab = await openStage(t);
      const observers = [staleFlowsOf(t, lab)];
      await lab.startProxy({ backend: backendOf(mode, lab), policy, observers });
      const [first, second, third] = [1, 2, 3].map((number) => new Generation(lab, number)) as [
        Generation,
        Generation,
        Generation,
      ];
      lab.api.put(SERVICES, webService());
      await first.start(...servers);
      const clients = await startLoad(t, lab);
      const [host] = frontendAddresses(NUMBER);
      const held = startDatagrams(t, lab, { where: 'one', host, port: 80, kind: 'held', slowness: 2 });
      await sleep(SETTLE_MS);
      t.deepEqual(await assertNoFailure(t, clients, 'before'), ['one-1', 'three-1', 'two-1']);
      const [before = ''] = await assertNoFailure(t, [held], 'before');
      t.regex(before, /-1$/);
      for (const pod of servers) {
        await second.start(pod);
        await first.terminate(pod);
        await sleep(SETTLE_MS);
        await first.end(pod);
      }
      await assertNoFailure(t, clients, 'while one after the other was replaced');
      await settle(t, [...clients, held]);
      t.deepEqual(await assertNoFailure(t, clients, 'afterwards'), ['one-2', 'three-2', 'two-2']);
      // A flow that never ends has found another endpoint when its own had gone, and keeps that one.
      const after = await assertNoFailure(t, [held], 'afterwards');
      t.is(after.length, 1);
      t.regex(after[0] ?? '', /-2$/);

      await second.terminate(...servers);
      await sleep(SETTLE_MS);
      await assertNoFailure(t, clients, 'while all were going');
      await settle(t, clients);
      t.deepEqual(await assertNoFailure(t, clients, 'while there were only those that were going'), [
        'one-2',
        'three-2',
        'two-2',
      ]);
      t.deepEqual(await assertNoFailure(t, [held], 'while it was going'), after);
      await third.start('two');
      await sleep(SETTLE_MS);
      await second.end(...servers);
      await assertNoFailure(t, clients, 'while all were replaced by one');
      await settle(t, [...clients, held]);
      t.deepEqual(await assertNoFailure(t, [...clients, held], 'at the end'), ['two-3']);
    },
  );

  test.serial(
    `${mode}: endpoints of a Service of policy Local are replaced under load, no connection fails and none leaves the node`,
    async (t) => {
      const lab = await openStage(t);
      await lab.startProxy({ backend: backendOf(mode, lab), policy, observers: [staleFlowsOf(t, lab)] });
      const generation = (number: number) => new Generation(lab, number);
      const [first, second, third, elsewhere] = [
        generation(1),
        generation(2),
        generation(3),
        generation(4),
      ] as const;
      const here = ['one', 'two'] as const;
      lab.api.put(SERVICES, webService('inside=Local outside=Local'));
      await elsewhere.start('three');
      await first.start(...here);
      const clients = await startLoad(t, lab);
      await sleep(SETTLE_MS);
      t.deepEqual(await assertNoFailure(t, clients, 'before'), ['one-1', 'two-1']);
      for (const pod of here) {
        await second.start(pod);
        await first.terminate(pod);
        await sleep(SETTLE_MS);
        await first.end(pod);
      }
      await assertNoFailure(t, clients, 'while one after the other was replaced');
      await settle(t, clients);
      t.deepEqual(await assertNoFailure(t, clients, 'afterwards'), ['one-2', 'two-2']);
      await second.terminate(...here);
      await settle(t, clients);
      t.deepEqual(await assertNoFailure(t, clients, 'while those here were going'), ['one-2', 'two-2']);
      await third.start('two');
      await sleep(SETTLE_MS);
      await second.end(...here);
      await settle(t, clients);
      t.deepEqual(await assertNoFailure(t, clients, 'at the end'), ['two-3']);
    },
  );

  test.serial(
    `${mode}: restarted, and killed with -9 amid changes, under load, and no connection fails`,
    async (t) => {
      const lab = await openStage(t);
      const api = await openProxyApi(t, lab);
      await api.create(SERVICES, webService());
      const slices = (pods: readonly Pod[]) => slicesOf(1, new Map(pods.map((pod) => [pod, 'ready'])));
      for (const slice of slices(servers)) await api.create(ENDPOINT_SLICES, slice);
      await api.create(SERVICES, parseService('default/busy ips=10.96.1.1 ports=http:80/TCP'));
      await api.create(ENDPOINT_SLICES, busySlice(servers));
      for (const pod of servers) await lab.startServer(pod, pod, portOf(1));
      const proxy = await api.startProxy(mode);
      const clients = await startLoad(t, lab);
      await sleep(SETTLE_MS);
      t.deepEqual(await assertNoFailure(t, clients, 'before'), [...servers].sort());

      await proxy.end('SIGTERM');
      await sleep(SETTLE_MS);
      await assertNoFailure(t, clients, 'while the proxy was stopped');
      let running = await api.startProxy(mode);
      await assertNoFailure(t, clients, 'while it was started again');

      for (const last of ['one', 'two'] as const) {
        // Every change is one of the same Service: the last one is to count, wherever the kill comes.
        for (let change = 0; change < CHANGES_BEFORE_KILL; change += 1) {
          const pods = change === CHANGES_BEFORE_KILL - 1 ? [last] : servers.slice(change % 3);
          const { metadata, endpoints } = busySlice(pods);
          await api.client.patch(
            ENDPOINT_SLICES,
            metadata?.name ?? '',
            { endpoints },
            { namespace: 'default' },
          );
        }
        await running.end('SIGKILL');
        running = await api.startProxy(mode);
        const outcomes = await Promise.all(
          Array.from({ length: 12 }, () => lab.from('client').get('http://10.96.1.1:80/')),
        );
        const names = new Set(outcomes.map((outcome) => (outcome.ok ? outcome.answer?.name : outcome.error)));
        t.deepEqual([...names], [last]);
        await assertNoFailure(t, clients, 'while it was killed amid changes');
      }

      await running.end('SIGKILL');
      await sleep(SETTLE_MS);
      t.deepEqual(await assertNoFailure(t, clients, 'while the proxy was killed'), [...servers].sort());
      for (const { metadata, endpoints } of slices(['two', 'three']))
        await api.client.patch(
          ENDPOINT_SLICES,
          metadata?.name ?? '',
          { endpoints },
          { namespace: 'default' },
        );
      await api.startProxy(mode);
      await assertNoFailure(t, clients, 'while it was started after the kill');
      await settle(t, clients);
      t.deepEqual(await assertNoFailure(t, clients, 'when what changed meanwhile was done'), [
        'three',
        'two',
      ]);
    },
  );
}

const CHANGES_BEFORE_KILL = 30;

function busySlice(pods: readonly Pod[]) {
  const places = pods.map((pod) => podAddresses(pod)[0]);
  return parseSlice(`default/busy-1 service=busy ports=http:${portOf(1)}/TCP ${places.join(' ')}`);
}

test.serial(
  'with --reset-tcp a connection to an endpoint that is gone ends, also if it went before; without, it goes on',
  async (t) => {
    const lab = await openStage(t);
    const api = await openProxyApi(t, lab);
    const echo = parseService(`default/web ips=${frontendAddresses(NUMBER)} ports=http:80/TCP`);
    await api.create(SERVICES, echo);
    const slices = (states: Partial<Record<Pod, State>>) =>
      slicesOf(1, new Map(Object.entries(states) as [Pod, State][]));
    const tell = async (states: Partial<Record<Pod, State>>) => {
      for (const { metadata, endpoints } of slices(states))
        await api.client.patch(
          ENDPOINT_SLICES,
          metadata?.name ?? '',
          { endpoints },
          { namespace: 'default' },
        );
      await sleep(SETTLE_MS);
    };
    for (const slice of slices({ one: 'ready' })) await api.create(ENDPOINT_SLICES, slice);
    // Behind its port for HTTP a server has one that echoes.
    for (const pod of ['one', 'two'] as const) await lab.startServer(pod, pod, portOf(1) - 1);
    const hold = async (ip: string) => {
      const client = lab.startClient('client');
      t.like(await client.hold(ip, 80, CONNECT_INTERVAL_MS), { ok: true });
      return client;
    };
    const areReset = async (clients: readonly Workload[]) => {
      for (const client of clients) {
        let failures: readonly string[] = [];
        for (const end = performance.now() + PATIENCE_MS; failures.length === 0; await sleep(POLL_MS)) {
          ({ failures } = await client.report());
          if (performance.now() > end) break;
        }
        t.regex(failures.join(), /ECONNRESET|the held connection closed/);
      }
    };
    const usual = await api.startProxy('nftables');
    const first = await Promise.all(frontendAddresses(NUMBER).map(hold));
    await tell({ two: 'ready' });
    for (const client of first) t.deepEqual((await client.report()).failures, []);
    await usual.end('SIGTERM');
    await api.startProxy('nftables', '--reset-tcp');
    await areReset(first);

    const second = await Promise.all(frontendAddresses(NUMBER).map(hold));
    // Neither that it is not ready for a while, nor that it terminates, ends what is open.
    await tell({ one: 'ready', two: 'unready' });
    await tell({ one: 'ready', two: 'terminating' });
    for (const client of second) t.deepEqual((await client.report()).failures, []);
    await tell({ one: 'ready' });
    await areReset(second);
  },
);
