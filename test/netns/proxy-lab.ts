import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { applyBatch, Lab } from '../../cli/cluster/lab.ts';
import type { Machine } from '../../cli/cluster/topology.ts';
import type { Outcome } from '../../cli/cluster/workload.ts';
import { inNamespace, type Workload } from '../../cli/cluster/workload-client.ts';
import type { Cidr, Ip } from '../../core/address.ts';
import { type Namespace, openNamespace } from '../../kernel/netns.ts';
import { SysctlTable } from '../../kernel/sysctl.ts';
import { ENDPOINT_SLICES, SERVICES } from '../../kube/types.ts';
import { type ProxyOptions, type ServiceProxy, startProxy } from '../../proxy/proxy.ts';
import { FakeApi } from '../proxy/fake-api.ts';
import { parseService, parseSlice } from '../proxy/objects.ts';

const run = promisify(execFile);
/** Not node_modules/.bin/nft, which is another program. */
const NFT = '/usr/sbin/nft';
export const PORT = 8080;
const CHANGE_LIMIT_MS = 30_000;

/**
 * Pods on bridges, as a bridge CNI plugin leaves them; IPv6 is fd00:10:244:N::x:
 *
 *     client  one   two           three
 *       .9    .11   .12            .13
 *       └──────┴─────┘              │
 *      cni0 10.244.1.1     cni0 10.244.2.1
 *          node-1 ──── wire ──── node-2          outside
 *
 * The proxy runs on node-1 only.
 */
const pods = {
  client: { node: 0, host: 9 },
  one: { node: 0, host: 11 },
  two: { node: 0, host: 12 },
  three: { node: 1, host: 13 },
} as const;
export type Pod = keyof typeof pods;

export const CLUSTER_CIDRS = ['10.244.0.0/16', 'fd00:10:244::/56'] as readonly string[] as readonly Cidr[];

/** IPv4 first. */
export function podAddresses(pod: Pod): readonly [Ip, Ip] {
  const { node, host } = pods[pod];
  return [`10.244.${node + 1}.${host}` as Ip, `fd00:10:244:${node + 1}::${host}` as Ip];
}

export class ProxyLab implements AsyncDisposable {
  readonly api = new FakeApi();
  readonly #lab: Lab;
  readonly #workloads = new Map<string, Workload>();
  readonly #namespace: Namespace;
  #proxy: ServiceProxy | undefined;

  private constructor(lab: Lab) {
    this.#lab = lab;
    this.#namespace = openNamespace(`/run/netns/${this.node.namespace}`);
  }

  static async open(name: string): Promise<ProxyLab> {
    const lab = await Lab.create({ name, nodes: 2 });
    try {
      await Promise.all(lab.nodes.map((_, index) => buildNode(lab, index)));
      const proxyLab = new ProxyLab(lab);
      const servers = (['one', 'two', 'three'] as const).map((pod) => proxyLab.from(pod).serve(pod, PORT));
      await Promise.all(servers);
      return proxyLab;
    } catch (error) {
      await lab[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The machine with the proxy. */
  get node(): Machine {
    return machine(this.#lab, 0);
  }

  get otherNode(): Machine {
    return machine(this.#lab, 1);
  }

  /** Of the node with the proxy. */
  get namespace(): Namespace {
    return this.#namespace;
  }

  get control(): Machine {
    return this.#lab.control;
  }

  get outside(): Machine {
    return this.#lab.outside;
  }

  /** A client in a pod, on the node with the proxy, or outside. */
  from(where: Pod | 'node' | 'outside'): Workload {
    const namespace =
      where === 'node'
        ? this.node.namespace
        : where === 'outside'
          ? this.#lab.outside.namespace
          : podNamespace(this.#lab, where);
    const workload = this.#workloads.get(where) ?? this.#lab.workload(namespace, where);
    this.#workloads.set(where, workload);
    return workload;
  }

  /** One more server in a pod; it ends when disposed. */
  async startServer(pod: Pod, name: string, port: number): Promise<Workload> {
    const server = this.#lab.workload(podNamespace(this.#lab, pod), name);
    await server.serve(name, port);
    return server;
  }

  /** One more client, so that each has a report of its own. */
  startClient(where: Pod | 'outside'): Workload {
    const namespace = where === 'outside' ? this.outside.namespace : podNamespace(this.#lab, where);
    return this.#lab.workload(namespace, `client in ${where}`);
  }

  async startProxy(
    options: Pick<ProxyOptions, 'backend' | 'observers' | 'policy'> = {},
  ): Promise<ServiceProxy> {
    this.#proxy = startProxy({
      client: this.api,
      nodeName: this.node.name,
      nodeAddresses: this.node.addresses,
      clusterCidrs: CLUSTER_CIDRS,
      namespaceFd: this.#namespace.fd,
      log: pino({ level: 'silent' }),
      ...options,
    });
    await this.#proxy.synced;
    return this.#proxy;
  }

  async stopProxy(): Promise<void> {
    await this.#proxy?.[Symbol.asyncDispose]();
    this.#proxy = undefined;
  }

  get proxy(): ServiceProxy {
    if (this.#proxy === undefined) throw new Error('the proxy does not run');
    return this.#proxy;
  }

  /** A dual-stack service `default/NAME` with these pods as endpoints, TCP and UDP; waits until it is written. */
  async serve(
    name: string,
    options: { readonly number: number; readonly nodePort?: number; readonly pods: readonly Pod[] },
  ) {
    const { number, nodePort, pods: endpoints } = options;
    const ips = frontendAddresses(number);
    const at = nodePort === undefined ? '' : `@${nodePort}`;
    await this.changed(() => {
      this.api.put(
        SERVICES,
        parseService(`default/${name} ips=${ips} ports=http:80/TCP${at},dns:80/UDP${at},echo:81/TCP`),
      );
      this.endpoints(name, endpoints);
    });
    return { ips, nodePort };
  }

  endpoints(name: string, endpoints: readonly Pod[]): void {
    for (const [index, family] of (['IPv4', 'IPv6'] as const).entries()) {
      const places = endpoints.map(
        (pod) => `${podAddresses(pod)[index]},node=${machine(this.#lab, pods[pod].node).name}`,
      );
      const ports = `ports=http:${PORT}/TCP,dns:${PORT}/UDP,echo:${PORT + 1}/TCP`;
      const text = `default/${name}-${family} service=${name} family=${family} ${ports} ${places.join(' ')}`;
      this.api.put(ENDPOINT_SLICES, parseSlice(text));
    }
  }

  /**
   * Makes a change and waits until the proxy has done what it means: by a pass of changes or, where somebody was at its
   * tables in the same moment, by one over all.
   */
  async changed(change: () => void): Promise<void> {
    const passes = () => this.proxy.status().updates + this.proxy.status().fullSyncs;
    const before = passes();
    change();
    const deadline = performance.now() + CHANGE_LIMIT_MS;
    for (;;) {
      await sleep(2);
      if (passes() > before && this.proxy.status().dirty === 0) return;
      if (performance.now() > deadline) throw new Error('the proxy did not take up the change');
    }
  }

  /** Runs nft on the node; its output. */
  async nft(...args: readonly string[]): Promise<string> {
    return await nft(this.node.namespace, args);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stopProxy();
    this.#namespace[Symbol.dispose]();
    await this.#lab[Symbol.asyncDispose]();
  }
}

/** Runs nft in a namespace, with `input` as its stdin. */
export async function nft(namespace: string, args: readonly string[], input = ''): Promise<string> {
  const [program, all] = inNamespace(namespace, [NFT, ...args]);
  const child = run(program, all, { maxBuffer: 64 << 20 });
  // One that ends before it has read everything says why itself.
  child.child.stdin?.on('error', () => undefined).end(input);
  return (await child).stdout;
}

/** The cluster addresses of service number N. */
export function frontendAddresses(number: number): readonly [Ip, Ip] {
  return [`10.96.0.${number}` as Ip, `fd00:10:96::${number}` as Ip];
}

/** Who answered, and whom they saw; or the error. */
export function outcomeText(outcome: Outcome): string {
  return outcome.ok ? `${outcome.answer?.name} saw ${outcome.answer?.peer}` : outcome.error;
}

export function url(ip: Ip, port: number): string {
  return `http://${ip.includes(':') ? `[${ip}]` : ip}:${port}/`;
}

function machine(lab: Lab, index: number): Machine {
  const found = lab.nodes[index];
  if (found === undefined) throw new Error(`the lab has no node ${index + 1}`);
  return found;
}

function podNamespace(lab: Lab, pod: Pod): string {
  return `${lab.topology.prefix}pod-${pod}`;
}

async function buildNode(lab: Lab, index: number): Promise<void> {
  const { namespace } = machine(lab, index);
  const own = (Object.keys(pods) as Pod[]).filter((pod) => pods[pod].node === index);
  const podNamespaces = await Promise.all(own.map((pod) => lab.podNamespace(pod)));
  await setSysctls(namespace, { ...sysctls, ...nodeSysctls });
  for (const pod of podNamespaces) await setSysctls(pod, sysctls);
  const [v4, v6] = [`10.244.${index + 1}`, `fd00:10:244:${index + 1}:`];
  const other = machine(lab, 1 - index).addresses;
  await applyBatch({
    namespace,
    lines: [
      'link add cni0 type bridge',
      `addr add ${v4}.1/24 dev cni0`,
      `addr add ${v6}:1/64 dev cni0 nodad`,
      'link set cni0 up',
      `addr add fe80::${index + 1}/64 dev eth0 nodad`,
      `route add 10.244.${2 - index}.0/24 via ${other[0]}`,
      `route add fd00:10:244:${2 - index}::/64 via ${other[1]}`,
      ...own.flatMap((pod) => [
        `link add ${pod} master cni0 type veth peer name eth0 netns ${podNamespace(lab, pod)}`,
        `link set ${pod} type bridge_slave hairpin on`,
        `link set ${pod} up`,
      ]),
    ],
  });
  for (const pod of own) {
    const [ip, ip6] = podAddresses(pod);
    const lines = [
      'link set lo up',
      'link set eth0 up',
      `addr add ${ip}/24 dev eth0`,
      `addr add ${ip6}/64 dev eth0 nodad`,
      `route add default via ${v4}.1`,
      `route add default via ${v6}:1`,
    ];
    await applyBatch({ namespace: podNamespace(lab, pod), lines });
  }
}

/**
 * What the node agent sees to: packets are forwarded, and bridged packets go through the rules as well. And what only
 * tests need: no limit on the refusals that one client is sent, which is one a second and shared with redirects.
 */
const nodeSysctls = {
  'net/ipv4/ip_forward': '1',
  'net/ipv6/conf/all/forwarding': '1',
  'net/bridge/bridge-nf-call-iptables': '1',
  'net/bridge/bridge-nf-call-ip6tables': '1',
  'net/ipv4/icmp_ratelimit': '0',
  'net/ipv6/icmp/ratelimit': '0',
};

/** Addresses are good at once: a neighbour is asked for in the name of a link-local one. */
const sysctls = { 'net/ipv6/conf/default/accept_dad': '0' };

async function setSysctls(namespace: string, values: Readonly<Record<string, string>>): Promise<void> {
  using opened = openNamespace(`/run/netns/${namespace}`);
  const table = new SysctlTable({ keys: Object.keys(values), namespaceFd: opened.fd });
  const changes = Object.entries(values).map(([key, wanted]) => ({ kind: 'create', key, wanted }) as const);
  const [failure] = await table.write(changes);
  if (failure !== undefined) throw failure.error;
}
