import { applyBatch } from '../../cli/cluster/lab.ts';
import type { Outcome } from '../../cli/cluster/workload.ts';
import { type Cidr, type Family, families, familyOf, type Ip } from '../../core/address.ts';
import { deleteFlows, type Flow, openConntrackSocket, readFlows } from '../../kernel/conntrack.ts';
import type { NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { type Namespace, openNamespace } from '../../kernel/netns.ts';
import type { Backend, SyncResult, Views } from '../../proxy/backend.ts';
import type { NodeFacts, ProxyPolicy } from '../../proxy/policy.ts';
import { protocolNumbers } from '../../proxy/protocol.ts';
import type { Endpoint, Frontend, ServicePortView } from '../../proxy/view.ts';
import { CLUSTER_CIDRS, PORT, type Pod, ProxyLab, podAddresses, url } from './proxy-lab.ts';

/** Where a connection comes from; `one` is a pod that serves as well. */
export type Source = 'client' | 'one' | 'node' | 'outside';
export type FrontendKind = Frontend['kind'];

/** Pods of a ProxyLab that are on the node with the proxy. */
const localPods: ReadonlySet<string> = new Set<Pod>(['client', 'one', 'two']);
const networks = { clusterIP: 96, externalIP: 97, loadBalancerIP: 98 } as const;

export const policy: ProxyPolicy = {
  masqueradeAll: false,
  detectLocal: { mode: 'cidrs', cidrs: CLUSTER_CIDRS },
  masqueradeBit: 14,
  nodePortAddresses: 'primary',
  localhostNodePorts: false,
};

export interface TestService {
  /** Which addresses and node port it has. */
  readonly number: number;
  readonly pods: readonly Pod[];
  /** What differs from a service of policy "Cluster"; by family where addresses do. */
  readonly view?: Partial<ServicePortView> | ((family: Family) => Partial<ServicePortView>);
  readonly protocols?: readonly ServicePortView['protocol'][];
}

/** In the networks 10.96 to 10.98, fd00:10:96 to fd00:10:98. */
export function frontendAddress(family: Family, kind: keyof typeof networks, number: number): Ip {
  return (family === 4 ? `10.${networks[kind]}.0.${number}` : `fd00:10:${networks[kind]}::${number}`) as Ip;
}

/** Cluster IPs are given out of these. */
export const SERVICE_CIDRS = ['10.96.0.0/16', 'fd00:10:96::/64'] as readonly string[] as readonly Cidr[];

export function endpointOf(pod: Pod, family: Family, weight = 1): Endpoint {
  const ip = podAddresses(pod)[family === 4 ? 0 : 1];
  return { ip, port: PORT, local: localPods.has(pod), weight };
}

/** A service with every kind of frontend at port 80 and a node port, TCP and UDP, both families. */
export function portsOf({
  number,
  pods,
  view = {},
  protocols = ['tcp', 'udp'],
}: TestService): ServicePortView[] {
  return families.flatMap((family) =>
    protocols.map((protocol): ServicePortView => {
      const endpoints = pods.map((pod) => endpointOf(pod, family));
      return {
        name: `default/s${number}:${protocol}`,
        family,
        protocol,
        frontends: [
          ...(['clusterIP', 'externalIP', 'loadBalancerIP'] as const).map((kind) => {
            return { kind, ip: frontendAddress(family, kind, number), port: 80 };
          }),
          { kind: 'nodePort', port: 30_000 + number },
        ],
        clusterEndpoints: endpoints,
        localEndpoints: endpoints.filter(({ local }) => local),
        internalPolicy: 'Cluster',
        externalPolicy: 'Cluster',
        hasAnyEndpoints: endpoints.length > 0,
        balancing: 'random',
        ...(typeof view === 'function' ? view(family) : view),
      };
    }),
  );
}

export function viewsOf(services: readonly TestService[]): Map<string, ServicePortView[]> {
  return new Map(services.map((service) => [`default/s${service.number}`, portsOf(service)]));
}

/** Where and how a backend is opened. */
export interface BackendPlace {
  readonly namespace: Namespace;
  /** Of the namespace, as `nsenter` knows it. */
  readonly namespaceName: string;
  readonly policy: ProxyPolicy;
}

/** A ProxyLab whose node has a backend alone: it is given views. The outside knows the way to service addresses. */
export class BackendLab implements AsyncDisposable {
  readonly lab: ProxyLab;
  readonly namespace: Namespace;
  readonly #conntrack: NetlinkSocket;

  private constructor(lab: ProxyLab) {
    this.lab = lab;
    this.namespace = openNamespace(`/run/netns/${lab.node.namespace}`);
    this.#conntrack = openConntrackSocket({ namespaceFd: this.namespace.fd });
  }

  static async open(name: string): Promise<BackendLab> {
    const lab = await ProxyLab.open(name);
    const [v4, v6] = lab.node.addresses;
    const lines = Object.values(networks).flatMap((network) => [
      `route add 10.${network}.0.0/16 via ${v4}`,
      `route add fd00:10:${network}::/64 via ${v6}`,
    ]);
    // Without rules against it, a connection to service 99, which there never is, ends outside, and is refused there.
    for (const family of families) {
      for (const kind of ['clusterIP', 'externalIP'] as const)
        lines.push(`addr add ${frontendAddress(family, kind, 99)}/${family === 4 ? 32 : 128} dev lo`);
    }
    await applyBatch({ namespace: lab.outside.namespace, lines });
    return new BackendLab(lab);
  }

  /** Node ports on the node's address, and the networks of services known. */
  facts(changes: Partial<NodeFacts> = {}): NodeFacts {
    const [v4, v6] = this.lab.node.addresses;
    return { nodePortIps: { 4: [v4], 6: [v6] }, serviceCidrs: SERVICE_CIDRS, ...changes };
  }

  /** Brings the views to the kernel, and makes all datagrams of before forgotten. */
  async write(backend: Backend, services: readonly TestService[]): Promise<void> {
    await this.#written(await backend.replace(viewsOf(services)));
  }

  async update(backend: Backend, services: readonly TestService[]): Promise<void> {
    await this.updateViews(backend, viewsOf(services));
  }

  async updateViews(backend: Backend, views: Views): Promise<void> {
    await this.#written(await backend.update(views));
  }

  /**
   * For half a minute the kernel sends a datagram from the same port where it sent the earlier one. The proxy forgets
   * what is stale beside its backend; and a client that happens to draw an earlier one's port is to be a new one.
   */
  async #written({ failures }: SyncResult): Promise<void> {
    if (failures[0] !== undefined) throw failures[0].error;
    await deleteFlows(this.#conntrack, [{ protocol: protocolNumbers.udp }]);
  }

  target(family: Family, kind: FrontendKind, number: number): Target {
    if (kind !== 'nodePort') return { ip: frontendAddress(family, kind, number), port: 80 };
    return { ip: this.nodeAddress(family), port: 30_000 + number };
  }

  nodeAddress(family: Family): Ip {
    return this.lab.node.addresses[family === 4 ? 0 : 1];
  }

  /** Another address of the node: of the bridge of its pods. */
  bridgeAddress(family: Family): Ip {
    return (family === 4 ? '10.244.1.1' : 'fd00:10:244:1::1') as Ip;
  }

  /** The address that a client has of itself. */
  addressOf(source: Source, family: Family): Ip {
    const index = family === 4 ? 0 : 1;
    if (source === 'node') return this.lab.node.addresses[index];
    if (source === 'outside') return this.lab.outside.addresses[index];
    return podAddresses(source)[index];
  }

  /**
   * Who answers, as `one`, `one+three`, `one M` (their client was masqueraded), or the error. Connects until all of
   * `expected` have answered, and at least a few times.
   */
  async seen(source: Source, at: Target, expected: Expected = []): Promise<string> {
    return await this.#rounds('tcp', source, at, expected, (count) =>
      this.connect(source, at, count, patience(expected)),
    );
  }

  /** The same of datagrams, each from a port of its own. */
  async seenByDatagrams(source: Source, at: Target, expected: Expected = []): Promise<string> {
    return await this.#rounds('udp', source, at, expected, (count) => {
      const client = this.lab.from(source);
      const sent = Array.from({ length: count }, () => client.datagram(at.ip, at.port, patience(expected)));
      return Promise.all(sent);
    });
  }

  /** The same of whatever `ask` asks. */
  async #rounds(
    protocol: 'tcp' | 'udp',
    source: Source,
    at: Target,
    expected: Expected,
    ask: (count: number) => Promise<Outcome[]>,
  ): Promise<string> {
    const before = source === 'node' ? await this.#flowsOfNode(protocol, at) : new Map<string, Flow>();
    const outcomes: Outcome[] = [];
    for (let round = 0; round < MOST_ROUNDS; round += 1) {
      const names = outcomes.map((outcome) => (outcome.ok ? outcome.answer?.name : undefined));
      if (round > 0 && answerersOf(expected).every((name) => names.includes(name))) break;
      // What is dropped is dropped the first time.
      outcomes.push(...(await ask(expected === 'no answer' ? 1 : CONNECTIONS)));
      const failed = outcomes.find((outcome) => !outcome.ok);
      if (failed !== undefined) return this.textOf(source, at, [failed]);
    }
    if (source !== 'node') return this.textOf(source, at, outcomes);
    const flows = await this.#flowsOfNode(protocol, at);
    for (const key of before.keys()) flows.delete(key);
    return this.textOf(source, at, outcomes, [...flows.values()]);
  }

  /** Connections of the node itself, by their source. */
  async #flowsOfNode(protocol: 'tcp' | 'udp', { ip, port }: Target): Promise<Map<string, Flow>> {
    const filter = { protocol: protocolNumbers[protocol], original: { dst: ip, dport: port } };
    const flows = await readFlows(this.#conntrack, [{ family: familyOf(ip), ...filter }]);
    const own = [this.addressOf('node', familyOf(ip)), ip];
    const its = flows.filter(({ original }) => own.includes(original.src));
    return new Map(its.map((flow) => [`${flow.original.src} ${flow.original.sport}`, flow]));
  }

  /** Who answers one datagram. */
  async datagramAnswerer(source: Source, { ip, port }: Target): Promise<string> {
    const outcome = await this.lab.from(source).datagram(ip, port, ANSWER_LIMIT_MS);
    return outcome.ok ? (outcome.answer?.name ?? '') : errorOf(outcome);
  }

  connect(
    source: Source,
    { ip, port }: Target,
    count: number,
    timeoutMs = ANSWER_LIMIT_MS,
  ): Promise<Outcome[]> {
    const client = this.lab.from(source);
    return Promise.all(Array.from({ length: count }, () => client.get(url(ip, port), timeoutMs)));
  }

  /** Who answered each of these connections. */
  async answerers(source: Source, at: Target, count: number): Promise<string[]> {
    const outcomes = await this.connect(source, at, count);
    return outcomes.map((outcome) => (outcome.ok ? (outcome.answer?.name ?? '') : errorOf(outcome)));
  }

  /**
   * `one M`: "one" answered, and saw the node in place of the client, by the address that faces "one". Where the node's
   * own packets go to another node, that is no other address: `flows` of connection tracking tell, by the port.
   */
  textOf(source: Source, at: Target, outcomes: readonly Outcome[], flows: readonly Flow[] = []): string {
    const family = familyOf(at.ip);
    const names = new Set<string>();
    const marks = new Set<string>();
    for (const outcome of outcomes) {
      if (!outcome.ok) return errorOf(outcome);
      const { name = '', peer = '' } = outcome.answer ?? {};
      names.add(name);
      const facing = localPods.has(name) ? this.bridgeAddress(family) : this.nodeAddress(family);
      if (source === 'node' && peer === facing && facing === this.nodeAddress(family)) continue;
      if (peer === this.addressOf(source, family)) marks.add('');
      else marks.add(peer === facing ? ' M' : ` seen as ${peer}`);
    }
    for (const { original, reply } of flows) {
      if (reply.dst !== this.nodeAddress(family)) continue;
      marks.add(reply.dst === original.src && reply.dport === original.sport ? '' : ' M');
    }
    return `${[...names].sort().join('+')}${[...marks].sort().join(' or')}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#conntrack[Symbol.dispose]();
    this.namespace[Symbol.dispose]();
    await this.lab[Symbol.asyncDispose]();
  }
}

export interface Target {
  readonly ip: Ip;
  readonly port: number;
}

/** Who should answer, each of them; none named: somebody, or a refusal. */
export type Expected = readonly string[] | 'no answer';

/** What is dropped is not answered in this time. */
const SILENCE_MS = 700;
/** An answer that must come is waited for: where others use the processors, it takes what it takes. */
const ANSWER_LIMIT_MS = 30_000;

function patience(expected: Expected): number {
  return expected === 'no answer' ? SILENCE_MS : ANSWER_LIMIT_MS;
}

function answerersOf(expected: Expected): readonly string[] {
  return expected === 'no answer' ? [] : expected;
}

const CONNECTIONS = 6;
const MOST_ROUNDS = 8;

function errorOf(outcome: Outcome & { ok: false }): string {
  if (/REFUSED/.test(outcome.error)) return 'refused';
  return outcome.error === 'ETIMEDOUT' ? 'no answer' : outcome.error;
}
