import type { Stage } from './proxy-conformance.ts';
import { all, frontendKinds } from './proxy-flows.ts';

const AFFINITY_MS = 1_000;
const AFFINITY_LIMIT_MS = 60_000;

/** Session affinity by the client's address. */
export function affinityFacts({ differs, fact, lab, start }: Stage): void {
  fact('a client keeps its endpoint, at whichever frontend, and over a restart', async (t, family) => {
    await start();
    const at = frontendKinds.map((kind) => lab().target(family, kind, 9));
    for (const source of ['client', 'outside'] as const) {
      const answers: string[][] = at.map(() => []);
      for (const count of [6, 2]) {
        for (const [index, target] of at.entries())
          answers[index]?.push(...(await lab().answerers(source, target, count)));
        if (count === 6) await start();
      }
      for (const its of differs.keepsByFrontend ? answers : [answers.flat()]) {
        t.is(new Set(its).size, 1, its.join());
        t.true(
          all.some((pod) => pod === its[0]),
          its[0],
        );
      }
    }
  });

  fact('a client whose endpoint has gone gets another, and keeps that one', async (t, family) => {
    const running = await start();
    const at = lab().target(family, 'clusterIP', 9);
    const view = { affinitySeconds: 600 };
    const [first] = await lab().answerers('node', at, 1);
    const others = all.filter((pod) => pod !== first);
    await lab().update(running, [{ number: 9, pods: others, view }]);
    const after = new Set(await lab().answerers('node', at, 10));
    t.is(after.size, 1);
    t.false(after.has(first ?? ''));
    await lab().update(running, [{ number: 9, pods: all, view }]);
    for (const name of await lab().answerers('node', at, 10)) t.true(after.has(name));
  });

  fact(
    'a client is forgotten when its time is over, and each connection gives it more',
    async (t, family) => {
      await start({}, [{ number: 9, pods: all, view: { affinitySeconds: AFFINITY_MS / 1000 } }]);
      const at = lab().target(family, 'clusterIP', 9);
      const { forgetsAfterMs } = differs;
      const ask = async () =>
        forgetsAfterMs === undefined
          ? await lab().answerers('client', at, 1)
          : [await lab().datagramAnswerer('client', at)];
      let kept = new Set<string>();
      const startMs = performance.now();
      for (let keptSinceMs = startMs; performance.now() < keptSinceMs + 2 * AFFINITY_MS; ) {
        const beganMs = performance.now();
        for (const name of await ask()) kept.add(name);
        await new Promise((resolve) => setTimeout(resolve, AFFINITY_MS / 10));
        // Where the next connection may have come too late, it all begins again.
        if (performance.now() - beganMs < AFFINITY_MS / 2) continue;
        if (performance.now() > startMs + AFFINITY_LIMIT_MS)
          throw new Error('connections take too long here');
        [kept, keptSinceMs] = [new Set(), performance.now()];
      }
      t.is(kept.size, 1);
      const later = new Set<string>(kept);
      for (let attempt = 0; attempt < 10 && later.size === 1; attempt += 1) {
        await new Promise((resolve) => setTimeout(resolve, forgetsAfterMs ?? 1.5 * AFFINITY_MS));
        for (const name of await ask()) later.add(name);
      }
      t.true(later.size > 1);
    },
  );
}
