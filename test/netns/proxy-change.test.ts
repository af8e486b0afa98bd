import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import type { Workload } from '../../cli/cluster/workload-client.ts';
import { ENDPOINT_SLICES, SERVICES } from '../../kube/types.ts';
import { openIptables } from '../../proxy/iptables/backend.ts';
import { defaultPolicy, type ProxyPolicy } from '../../proxy/policy.ts';
import type { ProxyPass } from '../../proxy/proxy.ts';
import { parseService, parseSlice } from '../proxy/objects.ts';
import { labName } from './lab.ts';
import { openProxyApi } from './proxy-api.ts';
import {
  CLUSTER_CIDRS,
  frontendAddresses,
  PORT,
  type Pod,
  ProxyLab,
  podAddresses,
  url,
} from './proxy-lab.ts';

/*
 * Connections go on while everything changes: three clients make new ones all the time (a pod by either family, and
 * the outside by a node port), and not one may fail.
 */

const modes = ['nftables', 'iptables'] as const;
type Mode = (typeof modes)[number];
const servers = ['one', 'two', 'three'] as const;
const NODE_PORT = 30_020;
const NUMBER = 20;
/** Behind the slowest connection that a busy machine makes, and well before anybody tries again. */
const SETTLE_MS = 900;
const CONNECT_INTERVAL_MS = 5;
/** So many connections to three servers reach each. */
const REQUESTS_MIN = 40;
const PATIENCE_MS = 60_000;
const POLL_MS = 20;

const policy: ProxyPolicy = { ...defaultPolicy, detectLocal: { mode: 'cidrs', cidrs: CLUSTER_CIDRS } };

async function openStage(t: ExecutionContext): Promise<ProxyLab> {
  const lab = await ProxyLab.open(labName());
  t.teardown(() => lab[Symbol.asyncDispose]());
  return lab;
}

/** Undefined: the proxy's default. */
function backendOf(mode: Mode, lab: ProxyLab) {
  return mode === 'iptables' ? openIptables({ policy, namespaceFd: lab.namespace.fd }) : undefined;
}

/** New connections to service number {@link NUMBER}, from now on. */
async function startLoad(lab: ProxyLab): Promise<Workload[]> {
  const [v4, v6] = frontendAddresses(NUMBER);
  const [pod4, pod6, outside] = [
    lab.startClient('client'),
    lab.startClient('client'),
    lab.startClient('outside'),
  ];
  await pod4.load(url(v4, 80), CONNECT_INTERVAL_MS);
  await pod6.load(url(v6, 80), CONNECT_INTERVAL_MS);
  await outside.load(url(lab.node.addresses[0], NODE_PORT), 2 * CONNECT_INTERVAL_MS);
  return [pod4, pod6, outside];
}

/** Makes each client connect some more. Not one may fail; the names of those who answered, in order. */
async function assertNoFailure(
  t: ExecutionContext,
  clients: readonly Workload[],
  when: string,
): Promise<string[]> {
  const answered = new Set<string>();
  for (const client of clients) {
    let requests = 0;
    for (const end = performance.now() + PATIENCE_MS; requests < REQUESTS_MIN; await sleep(POLL_MS)) {
      const report = await client.report();
      requests += report.requests;
      t.deepEqual(report.failures, [], `of ${report.requests} connections ${when}`);
      for (const name of Object.keys(report.byServer)) answered.add(name);
      if (performance.now() > end) throw new Error(`only ${requests} connections ${when}`);
    }
  }
  return [...answered].sort();
}

/** Behind the connections that were under way, whose answers are not looked at. */
async function settle(t: ExecutionContext, clients: readonly Workload[]): Promise<void> {
  await sleep(SETTLE_MS);
  await assertNoFailure(t, clients, 'that were under way');
}

const service = parseService(
  `default/web ips=${frontendAddresses(NUMBER)} type=NodePort ports=http:80/TCP@${NODE_PORT}`,
);

type State = 'ready' | 'terminating';

/** The slices of one generation of servers, which has a port of its own. */
function slicesOf(generation: number, endpoints: ReadonlyMap<Pod, State>) {
  return (['IPv4', 'IPv6'] as const).map((family, index) => {
    const places = Array.from(endpoints, ([pod, state]) => {
      const conditions = state === 'ready' ? 'ready=true' : 'ready=false,serving=true,terminating=true';
      return `${podAddresses(pod)[index]},${conditions}`;
    });
    const head = `default/web-${generation}-${family.toLowerCase()} service=web family=${family}`;
    return parseSlice(`${head} ports=http:${portOf(generation)}/TCP ${places.join(' ')}`);
  });
}

function portOf(generation: number): number {
  return 9000 + 10 * generation;
}

/** Pods of one generation: their servers and what the API says of them. */
class Generation {
  readonly #lab: ProxyLab;
  readonly #number: number;
  readonly #servers = new Map<Pod, Workload>();
  readonly #states = new Map<Pod, State>();

  constructor(lab: ProxyLab, number: number) {
    this.#lab = lab;
    this.#number = number;
  }

  /** Starts servers, and says that they are ready. */
  async start(...pods: readonly Pod[]): Promise<void> {
    for (const pod of pods) {
      const server = await this.#lab.startServer(pod, `${pod}-${this.#number}`, portOf(this.#number));
      this.#servers.set(pod, server);
      this.#states.set(pod, 'ready');
    }
    await this.#tell();
  }

  async terminate(...pods: readonly Pod[]): Promise<void> {
    for (const pod of pods) this.#states.set(pod, 'terminating');
    await this.#tell();
  }

  /** They end; afterwards the API says so. */
  async end(...pods: readonly Pod[]): Promise<void> {
    for (const pod of pods) {
      await this.#servers.get(pod)?.[Symbol.asyncDispose]();
      this.#states.delete(pod);
    }
    await this.#tell();
  }

  async #tell(): Promise<void> {
    const slices = slicesOf(this.#number, this.#states);
    await this.#lab.changed(() => this.#lab.api.put(ENDPOINT_SLICES, ...slices));
  }
}

for (const mode of modes) {
  test.serial(
    `${mode}: all endpoints of a Service are replaced under load and no connection fails`,
    async (t) => {
      const lab = await openStage(t);
      await lab.startProxy({ backend: backendOf(mode, lab), policy });
      const [first, second, third] = [1, 2, 3].map((number) => new Generation(lab, number)) as [
        Generation,
        Generation,
        Generation,
      ];
      lab.api.put(SERVICES, service);
      await first.start(...servers);
      const clients = await startLoad(lab);
      await sleep(SETTLE_MS);
      t.deepEqual(await assertNoFailure(t, clients, 'before'), ['one-1', 'three-1', 'two-1']);
      for (const pod of servers) {
        await second.start(pod);
        await first.terminate(pod);
        await sleep(SETTLE_MS);
        await first.end(pod);
      }
      await assertNoFailure(t, clients, 'while one after the other was replaced');
      await settle(t, clients);
      t.deepEqual(await assertNoFailure(t, clients, 'afterwards'), ['one-2', 'three-2', 'two-2']);

      await second.terminate(...servers);
      await sleep(SETTLE_MS);
      await assertNoFailure(t, clients, 'while all were going');
      await settle(t, clients);
      t.deepEqual(await assertNoFailure(t, clients, 'while there were only those that were going'), [
        'one-2',
        'three-2',
        'two-2',
      ]);
      await third.start('two');
      await sleep(SETTLE_MS);
      await second.end(...servers);
      await assertNoFailure(t, clients, 'while all were replaced by one');
      await settle(t, clients);
      t.deepEqual(await assertNoFailure(t, clients, 'at the end'), ['two-3']);
    },
  );

  test.serial(`${mode}: restarted and killed with -9 under load, and no connection fails`, async (t) => {
    const lab = await openStage(t);
    const api = await openProxyApi(t, lab);
    await api.create(SERVICES, service);
    const slices = (pods: readonly Pod[]) => slicesOf(1, new Map(pods.map((pod) => [pod, 'ready'])));
    for (const slice of slices(servers)) await api.create(ENDPOINT_SLICES, slice);
    for (const pod of servers) await lab.startServer(pod, pod, portOf(1));
    const proxy = await api.startProxy(mode);
    const clients = await startLoad(lab);
    await sleep(SETTLE_MS);
    t.deepEqual(await assertNoFailure(t, clients, 'before'), [...servers].sort());

    await proxy.end('SIGTERM');
    await sleep(SETTLE_MS);
    await assertNoFailure(t, clients, 'while the proxy was stopped');
    const again = await api.startProxy(mode);
    await assertNoFailure(t, clients, 'while it was started again');

    await again.end('SIGKILL');
    await sleep(SETTLE_MS);
    t.deepEqual(await assertNoFailure(t, clients, 'while the proxy was killed'), [...servers].sort());
    for (const { metadata, endpoints } of slices(['two', 'three']))
      await api.client.patch(ENDPOINT_SLICES, metadata?.name ?? '', { endpoints }, { namespace: 'default' });
    await api.startProxy(mode);
    await assertNoFailure(t, clients, 'while it was started after the kill');
    await settle(t, clients);
    t.deepEqual(await assertNoFailure(t, clients, 'when what changed meanwhile was done'), ['three', 'two']);
  });

  test.serial(
    `${mode}: a hundred changes a second for ten seconds, each in the kernel, and no connection fails`,
    async (t) => {
      const lab = await openStage(t);
      const lagsMs: number[] = [];
      const passed = ({ triggerTimesMs }: ProxyPass) => {
        for (const atMs of triggerTimesMs) lagsMs.push(Date.now() - atMs);
      };
      await lab.startProxy({ backend: backendOf(mode, lab), policy, observers: [{ passed }] });
      const stable = new Generation(lab, 1);
      lab.api.put(SERVICES, service);
      await stable.start(...servers);
      const services = Array.from({ length: CHANGING }, (_, index) => index);
      await lab.changed(() => lab.api.put(SERVICES, ...services.map(changingService)));
      const clients = await startLoad(lab);
      const startMs = performance.now();
      for (let change = 0; change < CHANGES; change += 1) {
        lab.api.put(ENDPOINT_SLICES, changingSlice(change));
        await sleep(Math.max(0, startMs + (change + 1) * CHANGE_INTERVAL_MS - performance.now()));
      }
      const deadline = performance.now() + PATIENCE_MS;
      while (lagsMs.length < CHANGES && performance.now() < deadline) await sleep(20);
      t.is(lagsMs.length, CHANGES);
      const sorted = lagsMs.toSorted((a, b) => a - b);
      const [median = 0, last = 0] = [sorted[CHANGES / 2], sorted.at(-1)];
      t.log(`${mode}: median ${median} ms, at most ${last} ms`);
      await assertNoFailure(t, clients, 'all the time');

      // The last change of each service is what a new proxy finds.
      await lab.stopProxy();
      const again = await lab.startProxy({ backend: backendOf(mode, lab), policy });
      t.like(again.status(), { writes: 0, services: CHANGING + 1 });
    },
  );
}

test.serial(
  'with --reset-tcp a connection to an endpoint that is gone ends; without, it goes on',
  async (t) => {
    const lab = await openStage(t);
    const api = await openProxyApi(t, lab);
    const echo = parseService(`default/web ips=${frontendAddresses(NUMBER)} ports=http:80/TCP`);
    await api.create(SERVICES, echo);
    const slices = (pods: readonly Pod[]) => slicesOf(1, new Map(pods.map((pod) => [pod, 'ready'])));
    const tell = async (...pods: readonly Pod[]) => {
      for (const { metadata, endpoints } of slices(pods))
        await api.client.patch(
          ENDPOINT_SLICES,
          metadata?.name ?? '',
          { endpoints },
          { namespace: 'default' },
        );
      await sleep(SETTLE_MS);
    };
    for (const slice of slices(['one'])) await api.create(ENDPOINT_SLICES, slice);
    // Behind its port for HTTP a server has one that echoes.
    for (const pod of ['one', 'two'] as const) await lab.startServer(pod, pod, portOf(1) - 1);
    const hold = async (ip: string) => {
      const client = lab.startClient('client');
      t.like(await client.hold(ip, 80, CONNECT_INTERVAL_MS), { ok: true });
      return client;
    };
    const usual = await api.startProxy('nftables');
    const held = await Promise.all(frontendAddresses(NUMBER).map(hold));
    await tell('two');
    for (const client of held) t.deepEqual((await client.report()).failures, []);
    await usual.end('SIGTERM');
    await api.startProxy('nftables', '--reset-tcp');
    const resettable = await Promise.all(frontendAddresses(NUMBER).map(hold));
    await tell('one');
    for (const client of resettable) {
      let failures: readonly string[] = [];
      for (const end = performance.now() + PATIENCE_MS; failures.length === 0; await sleep(POLL_MS)) {
        ({ failures } = await client.report());
        if (performance.now() > end) break;
      }
      t.regex(failures.join(), /ECONNRESET|the held connection closed/);
    }
  },
);

const CHANGING = 50;
const CHANGES = 1_000;
const CHANGE_INTERVAL_MS = 10;

function changingService(index: number) {
  return parseService(`default/changing-${index} ips=10.96.1.${index + 1} ports=http:80/TCP`);
}

/** One to three endpoints in turn, of one service after the other. */
function changingSlice(change: number) {
  const index = change % CHANGING;
  const round = Math.floor(change / CHANGING);
  const places = servers.slice(0, 1 + ((round + index) % servers.length)).map((pod) => podAddresses(pod)[0]);
  const name = `default/changing-${index}-1 service=changing-${index}`;
  return parseSlice(`${name} ports=http:${PORT}/TCP changed=${new Date().toISOString()} ${places.join(' ')}`);
}
