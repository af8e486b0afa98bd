import type { ExecutionContext } from 'ava';
import { endpointOf, type TestService } from './proxy-backend-lab.ts';
import { activeConnections, echoOf, openIpvsStage } from './proxy-ipvs-lab.ts';
import { PORT, podAddresses } from './proxy-lab.ts';

/* Where there is IPVS: `npm run test:vm -- test/netns/proxy-ipvs-schedulers.test.ts`. */

const stage = await openIpvsStage();
const { fact } = stage;
const pods = ['one', 'two', 'three'] as const;
type Weights = readonly (readonly [(typeof pods)[number], number])[];
const even: Weights = pods.map((pod) => [pod, 1]);

function serviceOf(weights: Weights): TestService {
  return {
    number: 1,
    pods: weights.map(([pod]) => pod),
    view: (family) => ({
      clusterEndpoints: weights.map(([pod, weight]) => endpointOf(pod, family, weight)),
    }),
  };
}

async function serve(
  t: ExecutionContext,
  scheduler: string,
  weights = even,
  used = scheduler,
): Promise<void> {
  await stage.lab.write(await stage.open(t, { settings: { scheduler } }), [serviceOf(weights)]);
  t.true(stage.servers().has(`TCP 10.96.0.1:80 ${used}`), [...stage.servers().keys()].join());
}

/** Connections one after the other, or so many at a time; how many of them each pod answered. */
async function answered(t: ExecutionContext, count: number, atATime = 1): Promise<number[]> {
  const names: string[] = [];
  const at = stage.lab.target(4, 'clusterIP', 1);
  while (names.length < count)
    names.push(...(await stage.lab.answerers('client', at, Math.min(atATime, count - names.length))));
  t.deepEqual(
    names.filter((name) => !(pods as readonly string[]).includes(name)),
    [],
  );
  return pods.map((pod) => names.filter((name) => name === pod).length);
}

/** Connections that stay open, one after the other; how many of them each pod has. */
async function heldBy(
  t: ExecutionContext,
  scheduler: string,
  weights: Weights,
  count: number,
): Promise<number[]> {
  const backend = await stage.open(t, { settings: { scheduler } });
  t.deepEqual((await backend.replace(echoOf(serviceOf(weights)))).failures, []);
  const { ip, port } = stage.lab.target(4, 'clusterIP', 1);
  await using client = stage.lab.lab.startClient('client');
  const active = () => {
    const counts = activeConnections(stage.lab.lab.node.namespace, `${ip}:${port}`);
    return pods.map((pod) => counts.get(`${podAddresses(pod)[0]}:${PORT + 1}`) ?? 0);
  };
  // Earlier ones are closed a moment after their client's end.
  await stage.until(() => active().every((each) => each === 0));
  for (let open = 1; open <= count; open += 1) {
    t.like(await client.hold(ip, port, 60_000), { ok: true });
    await stage.until(() => active().reduce((sum, each) => sum + each) === open);
  }
  return active();
}

fact('round robin is exact', async (t) => {
  await serve(t, 'rr');
  for (const count of [12, 13, 14]) {
    const counts = await answered(t, count, 4);
    t.true(Math.max(...counts) - Math.min(...counts) <= 1, counts.join());
  }
});

fact('weighted round robin keeps to weights exactly, also where round robin is asked for', async (t) => {
  for (const scheduler of ['wrr', 'rr']) {
    const weights = [
      ['one', 3],
      ['two', 1],
      ['three', 0],
    ] as const;
    await serve(t, scheduler, weights, 'wrr');
    t.deepEqual(await answered(t, 16), [12, 4, 0], scheduler);
  }
});

fact('least connections: who has the fewest gets the next', async (t) => {
  for (const scheduler of ['lc', 'wlc'])
    t.deepEqual(await heldBy(t, scheduler, even, 6), [2, 2, 2], scheduler);
});

fact('weighted least connections: by weight, also where least connections is asked for', async (t) => {
  const weights = [
    ['one', 4],
    ['two', 2],
  ] as const;
  for (const scheduler of ['wlc', 'lc'])
    t.deepEqual(await heldBy(t, scheduler, weights, 6), [4, 2, 0], scheduler);
});

fact('shortest expected delay leaves the weak idle, never queue does not', async (t) => {
  const weights = [
    ['one', 4],
    ['two', 1],
  ] as const;
  t.deepEqual(await heldBy(t, 'sed', weights, 3), [3, 0, 0]);
  t.deepEqual(await heldBy(t, 'nq', weights, 2), [1, 1, 0]);
});

for (const [scheduler, by] of [
  ['sh', 'the client’s address'],
  ['dh', 'the service’s address'],
] as const) {
  fact(`scheduler ${scheduler} hashes ${by}: one client is always with one endpoint`, async (t) => {
    await serve(t, scheduler);
    t.is(Math.max(...(await answered(t, 12, 4))), 12);
  });
}

fact('scheduler mh hashes the client’s port as well', async (t) => {
  await serve(t, 'mh', even, 'mh (mh-port)');
  t.true((await answered(t, 24, 4)).filter((count) => count > 0).length > 1);
});

for (const scheduler of ['lblc', 'lblcr']) {
  fact(
    `scheduler ${scheduler} leaves an address with one endpoint while that is not overloaded`,
    async (t) => {
      await serve(
        t,
        scheduler,
        pods.map((pod) => [pod, 100]),
      );
      t.is(Math.max(...(await answered(t, 12, 4))), 12);
    },
  );
}
