import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { applyBatch } from '../../cli/cluster/lab.ts';
import type { Outcome } from '../../cli/cluster/workload.ts';
import { inNamespace } from '../../cli/cluster/workload-client.ts';
import { type Family, families, type Ip } from '../../core/address.ts';
import { type Namespace, openNamespace } from '../../kernel/netns.ts';
import { type IptablesBackend, openIptables } from '../../proxy/iptables/backend.ts';
import type { Variant } from '../../proxy/iptables/program.ts';
import type { ProxyPolicy } from '../../proxy/policy.ts';
import type { Endpoint, Frontend, ServicePortView } from '../../proxy/view.ts';
import { CLUSTER_CIDRS, PORT, type Pod, ProxyLab, podAddresses, url } from './proxy-lab.ts';

const run = promisify(execFile);

export type Source = 'client' | 'one' | 'node' | 'outside';
export type FrontendKind = Frontend['kind'];

/** Pods of a ProxyLab that are on the node with the proxy. */
const localPods: ReadonlySet<Pod> = new Set<Pod>(['client', 'one', 'two']);
const networks = { clusterIP: 96, externalIP: 97, loadBalancerIP: 98 } as const;

export const policy: ProxyPolicy = {
  masqueradeAll: false,
  detectLocal: { mode: 'cidrs', cidrs: CLUSTER_CIDRS },
  masqueradeBit: 14,
  nodePortAddresses: [],
  localhostNodePorts: true,
};

export interface TestService {
  /** Which addresses and node port it has. */
  readonly number: number;
  readonly pods: readonly Pod[];
  readonly view?: Partial<ServicePortView>;
}

export function frontendAddress(family: Family, kind: keyof typeof networks, number: number): Ip {
  return (family === 4 ? `10.${networks[kind]}.0.${number}` : `fd00:10:${networks[kind]}::${number}`) as Ip;
}

/** A service with every kind of frontend at port 80 and a node port, TCP and UDP, both families. */
export function portsOf({ number, pods, view = {} }: TestService): ServicePortView[] {
  return families.flatMap((family) =>
    (['tcp', 'udp'] as const).map((protocol) => {
      const endpoints = pods.map((pod): Endpoint => {
        const ip = podAddresses(pod)[family === 4 ? 0 : 1];
        return { ip, port: PORT, local: localPods.has(pod), weight: 1 };
      });
      return {
        name: `default/s${number}:${protocol}`,
        family,
        protocol,
        frontends: [
          ...(['clusterIP', 'externalIP', 'loadBalancerIP'] as const).map((kind) => ({
            kind,
            ip: frontendAddress(family, kind, number),
            port: 80,
          })),
          { kind: 'nodePort', port: 30_000 + number },
        ],
        clusterEndpoints: endpoints,
        localEndpoints: endpoints.filter(({ local }) => local),
        internalPolicy: 'Cluster',
        externalPolicy: 'Cluster',
        hasAnyEndpoints: endpoints.length > 0,
        balancing: 'random',
        ...view,
      };
    }),
  );
}

export function viewsOf(services: readonly TestService[]): Map<string, ServicePortView[]> {
  return new Map(services.map((service) => [`default/s${service.number}`, portsOf(service)]));
}

/** A ProxyLab whose node has the backend alone: it is given views. The outside knows the way to service addresses. */
export class IptablesLab implements AsyncDisposable {
  readonly lab: ProxyLab;
  readonly namespace: Namespace;

  private constructor(lab: ProxyLab) {
    this.lab = lab;
    this.namespace = openNamespace(`/run/netns/${lab.node.namespace}`);
  }

  static async open(name: string): Promise<IptablesLab> {
    const lab = await ProxyLab.open(name);
    const [v4, v6] = lab.node.addresses;
    const lines = [96, 97, 98].flatMap((network) => [
      `route add 10.${network}.0.0/16 via ${v4}`,
      `route add fd00:10:${network}::/64 via ${v6}`,
    ]);
    await applyBatch({ namespace: lab.outside.namespace, lines });
    return new IptablesLab(lab);
  }

  backend(variant: Variant, changes: Partial<ProxyPolicy> = {}): IptablesBackend {
    return openIptables({
      policy: { ...policy, ...changes },
      namespaceFd: this.namespace.fd,
      variant,
      checkIntervalMs: 0,
    });
  }

  /** Runs a program in the node's namespace; its output. */
  async run(program: string, ...args: readonly string[]): Promise<string> {
    const [command, all] = inNamespace(this.lab.node.namespace, [program, ...args]);
    return (await run(command, all)).stdout;
  }

  /** Why this kind of iptables cannot be tested here; undefined: it can. */
  async missing(variant: Variant): Promise<string | undefined> {
    for (const program of [`iptables-${variant}`, `ip6tables-${variant}`]) {
      const problem = await this.run(`/usr/sbin/${program}`, '-t', 'nat', '-S').then(
        () => undefined,
        (error: Error) => `${program} does not work on this kernel: ${error.message}`,
      );
      if (problem !== undefined) return problem;
    }
    return undefined;
  }

  target(family: Family, kind: FrontendKind, number: number): { readonly ip: Ip; readonly port: number } {
    if (kind !== 'nodePort') return { ip: frontendAddress(family, kind, number), port: 80 };
    return { ip: this.nodeAddress(family), port: 30_000 + number };
  }

  nodeAddress(family: Family): Ip {
    return this.lab.node.addresses[family === 4 ? 0 : 1];
  }

  /** The address that a client has of itself. */
  addressOf(source: Source, family: Family): Ip {
    const index = family === 4 ? 0 : 1;
    if (source === 'node') return this.lab.node.addresses[index];
    if (source === 'outside') return this.lab.outside.addresses[index];
    return podAddresses(source)[index];
  }

  /**
   * Who answers at a frontend, as `one`, `one+three`, `one M` (masqueraded), or the error. Asks until all of
   * `expected` have answered, and at least a few times.
   */
  async seen(source: Source, at: { ip: Ip; port: number }, expected: readonly string[]): Promise<string> {
    const own = this.addressOf(source, at.ip.includes(':') ? 6 : 4);
    const names = new Set<string>();
    const masqueraded = new Set<boolean>();
    for (let round = 0; round < MOST_ROUNDS; round += 1) {
      if (round > 0 && expected.every((name) => names.has(name))) break;
      const outcomes = await Promise.all(
        Array.from({ length: CONNECTIONS }, () => this.lab.from(source).get(url(at.ip, at.port), TIMEOUT_MS)),
      );
      for (const outcome of outcomes) {
        if (!outcome.ok) return errorOf(outcome);
        names.add(outcome.answer?.name ?? '');
        masqueraded.add(outcome.answer?.peer !== own);
      }
    }
    return `${[...names].sort().join('+')}${masqueradeText(source, masqueraded)}`;
  }

  /** One datagram: its answer as `seen` shows it. */
  async datagram(source: Source, at: { ip: Ip; port: number }): Promise<string> {
    const outcome = await this.lab.from(source).datagram(at.ip, at.port, TIMEOUT_MS);
    if (!outcome.ok) return errorOf(outcome);
    const own = this.addressOf(source, at.ip.includes(':') ? 6 : 4);
    return `${outcome.answer?.name}${masqueradeText(source, new Set([outcome.answer?.peer !== own]))}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.namespace[Symbol.dispose]();
    await this.lab[Symbol.asyncDispose]();
  }
}

const TIMEOUT_MS = 700;
const CONNECTIONS = 6;
const MOST_ROUNDS = 8;

/** The node masquerades itself as itself: that cannot be seen. */
function masqueradeText(source: Source, masqueraded: ReadonlySet<boolean>): string {
  if (source === 'node') return '';
  if (masqueraded.size === 2) return ' now and then M';
  return masqueraded.has(true) ? ' M' : '';
}

function errorOf(outcome: Outcome & { ok: false }): string {
  return /REFUSED/.test(outcome.error) ? 'refused' : 'no answer';
}
