import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { ENDPOINT_SLICES, SERVICES } from '../../kube/types.ts';
import type { ProxyPass } from '../../proxy/proxy.ts';
import { parseService, parseSlice } from '../proxy/objects.ts';
import {
  assertNoFailure,
  backendOf,
  Generation,
  type Mode,
  openStage,
  PATIENCE_MS,
  policy,
  servers,
  startLoad,
  webService,
} from './proxy-change-stage.ts';
import { PORT, podAddresses } from './proxy-lab.ts';

/*
 * How far the kernel may be behind is counted in changes: when one is in the kernel, not more than so many later ones
 * have been told. That is five seconds of changes, however slow the machine makes all of them.
 */
const BEHIND_MAX = 500;
const CHANGING = 50;
const CHANGE_INTERVAL_MS = 10;
/** A machine that was away for longer does not make up for it in one burst. */
const CATCH_UP_MS = 500;
/** The clients take less of the machine than in other tests: these changes go on for long. */
const SLOWNESS = 3;

const lengths: readonly (readonly [Mode, string, number])[] = [
  ['nftables', 'a minute', 6_000],
  ['iptables', 'ten seconds', 1_000],
];

for (const [mode, time, count] of lengths) {
  test.serial(
    `${mode}: a hundred changes a second for ${time}, each in the kernel before many more come, and no connection fails`,
    async (t) => {
      t.timeout(5 * 60_000);
      const lab = await openStage(t);
      const toldMs: number[] = [];
      const lagsMs: number[] = [];
      const behind: number[] = [];
      /** Changes are known by their times, a millisecond each. */
      const firstTimeMs = Date.now();
      const passed = ({ triggerTimesMs }: ProxyPass) => {
        for (const timeMs of triggerTimesMs) {
          const change = timeMs - firstTimeMs;
          behind[change] = toldMs.length - 1 - change;
          lagsMs[change] = performance.now() - (toldMs[change] ?? Number.NaN);
        }
      };
      await lab.startProxy({ backend: backendOf(mode, lab), policy, observers: [{ passed }] });
      const stable = new Generation(lab, 1);
      lab.api.put(SERVICES, webService());
      await stable.start(...servers);
      const services = Array.from({ length: CHANGING }, (_, index) => index);
      await lab.changed(() => lab.api.put(SERVICES, ...services.map(changingService)));
      const clients = await startLoad(t, lab, SLOWNESS);
      let dueMs = performance.now();
      for (let change = 0; change < count; change += 1) {
        toldMs.push(performance.now());
        lab.api.put(ENDPOINT_SLICES, changingSlice(change, firstTimeMs + change));
        dueMs = Math.max(dueMs + CHANGE_INTERVAL_MS, performance.now() - CATCH_UP_MS);
        await sleep(Math.max(0, dueMs - performance.now()));
      }
      const written = () => Object.keys(behind).length;
      for (const end = performance.now() + PATIENCE_MS; written() < count && performance.now() < end; )
        await sleep(20);
      t.is(written(), count);
      const most = Math.max(...behind);
      t.true(most <= BEHIND_MAX, `${most} changes were told before one was in the kernel`);
      const median = lagsMs.toSorted((a, b) => a - b)[count / 2] ?? 0;
      const figures = [median, Math.max(...lagsMs)].map((ms) => ms.toFixed(1));
      t.log(`median ${figures[0]} ms, at most ${figures[1]} ms and ${most} changes behind`);
      await assertNoFailure(t, clients, 'all the time');

      // The last change of each service is what a new proxy finds.
      await lab.stopProxy();
      const again = await lab.startProxy({ backend: backendOf(mode, lab), policy });
      t.like(again.status(), { writes: 0, services: CHANGING + 1 });
    },
  );
}

function changingService(index: number) {
  return parseService(`default/changing-${index} ips=10.96.1.${index + 1} ports=http:80/TCP`);
}

/** One to three endpoints in turn, of one service after the other. */
function changingSlice(change: number, timeMs: number) {
  const index = change % CHANGING;
  const round = Math.floor(change / CHANGING);
  const places = servers.slice(0, 1 + ((round + index) % servers.length)).map((pod) => podAddresses(pod)[0]);
  const name = `default/changing-${index}-1 service=changing-${index}`;
  const changed = new Date(timeMs).toISOString();
  return parseSlice(`${name} ports=http:${PORT}/TCP changed=${changed} ${places.join(' ')}`);
}
