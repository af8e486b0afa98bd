import { setTimeout as sleep } from 'node:timers/promises';
import type { ExecutionContext } from 'ava';
import { pino } from 'pino';
import type { Workload } from '../../cli/cluster/workload-client.ts';
import { ENDPOINT_SLICES } from '../../kube/types.ts';
import type { Backend } from '../../proxy/backend.ts';
import { openIptables } from '../../proxy/iptables/backend.ts';
import { defaultPolicy, type ProxyPolicy } from '../../proxy/policy.ts';
import type { ProxyObserver } from '../../proxy/proxy.ts';
import { StaleFlows } from '../../proxy/stale-flows.ts';
import { parseService, parseSlice } from '../proxy/objects.ts';
import { labName } from './lab.ts';
import { DatagramClient, type DatagramReport } from './proxy-change-datagrams.ts';
import { CLUSTER_CIDRS, frontendAddresses, type Pod, ProxyLab, podAddresses, url } from './proxy-lab.ts';

/*
 * Connections go on while everything changes: clients make new ones all the time, with TCP and with UDP, a pod by
 * either family and the outside by a node port, and not one may fail.
 */

export const modes = ['nftables', 'iptables'] as const;
export type Mode = (typeof modes)[number];
export const servers = ['one', 'two', 'three'] as const;
export const NUMBER = 20;
const NODE_PORT = 30_020;
/** Behind the slowest connection that a busy machine makes, and well before anybody tries again. */
export const SETTLE_MS = 900;
export const CONNECT_INTERVAL_MS = 10;
const DATAGRAM_INTERVAL_MS = 20;
/** So many connections to three servers reach each. */
const REQUESTS_MIN = 40;
export const PATIENCE_MS = 60_000;
export const POLL_MS = 20;

export const policy: ProxyPolicy = {
  ...defaultPolicy,
  detectLocal: { mode: 'cidrs', cidrs: CLUSTER_CIDRS },
};

export async function openStage(t: ExecutionContext): Promise<ProxyLab> {
  const lab = await ProxyLab.open(labName());
  t.teardown(() => lab[Symbol.asyncDispose]());
  return lab;
}

/** Undefined: the proxy's default. */
export function backendOf(mode: Mode, lab: ProxyLab): Backend | undefined {
  return mode === 'iptables' ? openIptables({ policy, namespaceFd: lab.namespace.fd }) : undefined;
}

/** Forgets stale flows, as the proxy by itself does. */
export function staleFlowsOf(t: ExecutionContext, lab: ProxyLab): ProxyObserver {
  const stale = new StaleFlows({ namespaceFd: lab.namespace.fd, log: pino({ level: 'silent' }) });
  t.teardown(() => stale[Symbol.asyncDispose]());
  return {
    passed({ facts, changed }) {
      void stale.updateNode(facts);
      void stale.update(new Map(Array.from(changed, ([service, { after }]) => [service, after])));
    },
  };
}

/** What tells what it saw, in turns. */
export interface Client {
  readonly title: string;
  report(): Promise<DatagramReport>;
}

/** New connections to service number {@link NUMBER}, from now on, each client's `slowness` times the usual interval. */
export async function startLoad(t: ExecutionContext, lab: ProxyLab, slowness = 1): Promise<Client[]> {
  const [v4, v6] = frontendAddresses(NUMBER);
  const intervalMs = CONNECT_INTERVAL_MS * slowness;
  const start = async (where: 'client' | 'outside', ip: string, port: number) => {
    const client = lab.startClient(where);
    await client.load(url(ip as typeof v4, port), where === 'client' ? intervalMs : 2 * intervalMs);
    return { title: `TCP from ${where} to ${ip}`, report: () => client.report() };
  };
  const [nodeIp] = lab.node.addresses;
  return [
    await start('client', v4, 80),
    await start('client', v6, 80),
    await start('outside', nodeIp, NODE_PORT),
    startDatagrams(t, lab, { where: 'client', host: v4, port: 80, kind: 'new flows', slowness }),
    startDatagrams(t, lab, { where: 'client', host: v6, port: 80, kind: 'new flows', slowness }),
    startDatagrams(t, lab, { where: 'outside', host: nodeIp, port: NODE_PORT, kind: 'new flows', slowness }),
  ];
}

export interface DatagramWords {
  readonly where: Pod | 'outside';
  readonly host: string;
  readonly port: number;
  readonly kind: 'new flows' | 'held';
  readonly slowness: number;
}

export function startDatagrams(t: ExecutionContext, lab: ProxyLab, words: DatagramWords): Client {
  const { where, host, port, kind, slowness } = words;
  const { namespace } = lab.from(where);
  const intervalMs = DATAGRAM_INTERVAL_MS * slowness;
  const client = new DatagramClient(namespace, { host, port, kind, intervalMs });
  t.teardown(() => client[Symbol.asyncDispose]());
  return { title: `UDP (${kind}) from ${where} to ${host}`, report: () => client.report() };
}

/** Makes each client connect some more. Not one may fail; the names of those who answered, in order. */
export async function assertNoFailure(
  t: ExecutionContext,
  clients: readonly Client[],
  when: string,
): Promise<string[]> {
  const answered = new Set<string>();
  for (const client of clients) {
    let answers = 0;
    for (const end = performance.now() + PATIENCE_MS; answers < REQUESTS_MIN; await sleep(POLL_MS)) {
      const { failures, requests, byServer } = await client.report();
      t.deepEqual(failures, [], `${client.title}: of ${requests} ${when}`);
      for (const [name, count] of Object.entries(byServer)) {
        answered.add(name);
        answers += count;
      }
      if (performance.now() > end) throw new Error(`${client.title}: only ${answers} answers ${when}`);
    }
  }
  return [...answered].sort();
}

/** Behind the connections that were under way, whose answers are not looked at. */
export async function settle(t: ExecutionContext, clients: readonly Client[]): Promise<void> {
  await sleep(SETTLE_MS);
  await assertNoFailure(t, clients, 'that were under way');
}

const ports = `ports=http:80/TCP@${NODE_PORT},dns:80/UDP@${NODE_PORT}`;

/** `more`: words of `parseService`. */
export function webService(more = '') {
  return parseService(`default/web ips=${frontendAddresses(NUMBER)} type=NodePort ${ports} ${more}`);
}

const conditions = {
  ready: 'ready=true',
  terminating: 'ready=false,serving=true,terminating=true',
  unready: 'ready=false,serving=false,terminating=false',
} as const;
export type State = keyof typeof conditions;

/** The slices of one generation of servers, which has a port of its own. */
export function slicesOf(generation: number, endpoints: ReadonlyMap<Pod, State>) {
  return (['IPv4', 'IPv6'] as const).map((family, index) => {
    const places = Array.from(endpoints, ([pod, state]) => {
      const node = pod === 'three' ? 'node-2' : 'node-1';
      return `${podAddresses(pod)[index]},node=${node},${conditions[state]}`;
    });
    const head = `default/web-${generation}-${family.toLowerCase()} service=web family=${family}`;
    const port = portOf(generation);
    return parseSlice(`${head} ports=http:${port}/TCP,dns:${port}/UDP ${places.join(' ')}`);
  });
}

export function portOf(generation: number): number {
  return 9000 + 10 * generation;
}

/** Nobody new has come for so long. */
const QUIET_MS = 300;

/** Pods of one generation: their servers and what the API says of them. */
export class Generation {
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

  /** They end, when their last connections have ended; afterwards the API says so. */
  async end(...pods: readonly Pod[]): Promise<void> {
    for (const pod of pods) {
      await this.#servers.get(pod)?.drain(QUIET_MS);
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
