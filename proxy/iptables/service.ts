import { familyOf, type Ip } from '../../core/address.ts';
import type { Endpoint, Frontend, ServicePortView } from '../view.ts';
import type { RuleContext } from './context.ts';
import { MARK, MARK_OUTSIDE } from './layout.ts';
import { endpointChain, endpointText, labelOf, type PortChains, portChains } from './names.ts';
import {
  fromNode,
  hostNetwork,
  type PlacedRule,
  type Rule,
  randomMatch,
  rejectTarget,
  rememberedMatch,
  rememberMatch,
  renderRule,
  toNode,
} from './rule.ts';

/** What one service port is in iptables. */
export interface PortRules {
  /** Its chains in table nat, by name. */
  readonly chains: ReadonlyMap<string, readonly string[]>;
  /** Rules in the dispatch chains, by frontend: two services may want the same one. */
  readonly claims: readonly { readonly frontend: string; readonly rules: readonly PlacedRule[] }[];
}

export interface PortOptions {
  /** Without comments in clusters with many endpoints: they are half of the text. */
  readonly comments: boolean;
}

/** The rules of one service port. */
export function planPort(port: ServicePortView, context: RuleContext, options: PortOptions): PortRules {
  const ready = withoutNonsense(port);
  const rules = new PortPlanner(ready, context, options);
  const claims = ready.frontends.map((frontend) => rules.claim(frontend));
  return { chains: rules.chains(), claims: [...claims, ...rules.healthCheck()] };
}

/** The identity of a frontend, whoever claims it. */
function frontendId(frontend: Frontend, { protocol }: ServicePortView): string {
  return `${frontend.kind === 'nodePort' ? '' : frontend.ip} ${protocol} ${frontend.port}`;
}

/**
 * Without what cannot be written as a rule: ports that are no number between 1 and 65535, addresses of the other family.
 * One such rule would keep all others from being written.
 */
function withoutNonsense(port: ServicePortView): ServicePortView {
  const { frontends, clusterEndpoints, localEndpoints, sourceRanges, healthCheckPort } = port;
  const isReal = (place: { readonly ip?: Ip; readonly port: number }) => {
    const isOurs = place.ip === undefined || familyOf(place.ip) === port.family;
    return isOurs && isPortNumber(place.port);
  };
  return {
    ...port,
    frontends: frontends.filter(isReal),
    clusterEndpoints: clusterEndpoints.filter(isReal),
    localEndpoints: localEndpoints.filter(isReal),
    sourceRanges: sourceRanges?.filter((range) => familyOf(range) === port.family),
    healthCheckPort: isPortNumber(healthCheckPort) ? healthCheckPort : undefined,
  };
}

function isPortNumber(port: number | undefined): boolean {
  return Number.isInteger(port) && Number(port) > 0 && Number(port) < 65536;
}

/** Those with a weight; when none has one, all of them. */
function withWeight(endpoints: readonly Endpoint[]): readonly Endpoint[] {
  const some = endpoints.filter(({ weight }) => weight > 0);
  return some.length > 0 ? some : endpoints.map((endpoint) => ({ ...endpoint, weight: 1 }));
}

class PortPlanner {
  readonly #port: ServicePortView;
  readonly #context: RuleContext;
  readonly #comments: boolean;
  readonly #label: string;
  readonly #names: PortChains;
  readonly #cluster: readonly Endpoint[];
  readonly #local: readonly Endpoint[];

  constructor(port: ServicePortView, context: RuleContext, { comments }: PortOptions) {
    this.#port = port;
    this.#context = context;
    this.#comments = comments;
    this.#label = labelOf(port);
    this.#names = portChains(port);
    this.#cluster = port.hasAnyEndpoints ? withWeight(port.clusterEndpoints) : [];
    this.#local = port.hasAnyEndpoints ? withWeight(port.localEndpoints) : [];
  }

  #rule(comment: string, rule: Omit<Rule, 'comment'>): string {
    return renderRule(this.#comments ? { ...rule, comment: `${this.#label}${comment}` } : rule);
  }

  chains(): Map<string, readonly string[]> {
    const { hasAnyEndpoints, frontends } = this.#port;
    const chains = new Map<string, readonly string[]>();
    for (const isLocal of [false, true]) {
      if (this.#endpoints(isLocal).length > 0) chains.set(this.#chain(isLocal), this.#balancing(isLocal));
    }
    for (const endpoint of new Map(
      [...this.#cluster, ...this.#local].map((each) => [endpointText(each), each]),
    ).values()) {
      chains.set(endpointChain(this.#port, endpoint), this.#endpoint(endpoint));
    }
    const isExternal = frontends.some(({ kind }) => kind !== 'clusterIP');
    if (hasAnyEndpoints && isExternal) chains.set(this.#names.external, this.#external());
    if (this.#hasFirewall()) chains.set(this.#names.firewall, this.#firewall());
    return chains;
  }

  #endpoints(isLocal: boolean): readonly Endpoint[] {
    return isLocal ? this.#local : this.#cluster;
  }

  #chain(isLocal: boolean): string {
    return isLocal ? this.#names.local : this.#names.cluster;
  }

  #balancing(isLocal: boolean): string[] {
    const endpoints = this.#endpoints(isLocal);
    const marking = this.#port.internalPolicy === (isLocal ? 'Local' : 'Cluster') ? this.#marking() : [];
    return [...marking, ...this.#remembered(endpoints), ...this.#drawing(endpoints)];
  }

  /** Connections to a cluster IP that may not keep their source: the answer must come back this way. */
  #marking(): string[] {
    const { masqueradeAll, fromPods } = this.#context;
    const { frontends, protocol } = this.#port;
    const [pods, more] = fromPods;
    if (!masqueradeAll && pods === undefined) return [];
    const who = masqueradeAll || more !== undefined ? {} : outside(pods);
    const target = masqueradeAll || more === undefined ? MARK : MARK_OUTSIDE;
    return frontends.flatMap((frontend) => {
      if (frontend.kind !== 'clusterIP') return [];
      const to = { destination: this.#host(frontend.ip), protocol, port: frontend.port };
      return [this.#rule(' cluster IP', { ...who, ...to, target })];
    });
  }

  #host(ip: Endpoint['ip']): string {
    return hostNetwork(ip, this.#context.family);
  }

  /** Clients that have been here go where they were. */
  #remembered(endpoints: readonly Endpoint[]): string[] {
    const { affinitySeconds } = this.#port;
    if (affinitySeconds === undefined) return [];
    return endpoints.map((endpoint) => {
      const target = endpointChain(this.#port, endpoint);
      const match = rememberedMatch(target, affinitySeconds, this.#context.family);
      return this.#rule(` -> ${endpointText(endpoint)}`, { match, target });
    });
  }

  /** Each endpoint takes its share of what those before it left. */
  #drawing(endpoints: readonly Endpoint[]): string[] {
    let left = endpoints.reduce((sum, { weight }) => sum + weight, 0);
    return endpoints.map((endpoint, index) => {
      const match = index === endpoints.length - 1 ? undefined : randomMatch(endpoint.weight / left);
      left -= endpoint.weight;
      const target = endpointChain(this.#port, endpoint);
      return this.#rule(` -> ${endpointText(endpoint)}`, { match, target });
    });
  }

  /** A pod that reaches itself must not see its own address as the source: it would answer itself. */
  #endpoint(endpoint: Endpoint): string[] {
    const { protocol, affinitySeconds } = this.#port;
    const list = endpointChain(this.#port, endpoint);
    const match = affinitySeconds === undefined ? undefined : rememberMatch(list, this.#context.family);
    const target = `DNAT --to-destination ${endpointText(endpoint)}`;
    return [
      this.#rule('', { source: this.#host(endpoint.ip), target: MARK }),
      this.#rule('', { protocol, match, target }),
    ];
  }

  #external(): string[] {
    const isLocal = this.#port.externalPolicy === 'Local';
    const last = this.#endpoints(isLocal).length === 0 ? [] : [renderRule({ target: this.#chain(isLocal) })];
    if (isLocal) return [...this.#shortCuts(), ...last];
    // Without an endpoint the packet goes on to be dropped, which what is marked never is.
    const marking = this.#rule(' external destinations: masquerade', { target: MARK });
    return last.length === 0 ? [] : [marking, ...last];
  }

  /** Pods of this cluster and the node itself need no endpoint on this node. */
  #shortCuts(): string[] {
    if (this.#cluster.length === 0) return [];
    const target = this.#names.cluster;
    const pods = this.#context.fromPods.map((from) =>
      this.#rule(' external destinations: pods', { ...from, target }),
    );
    return [
      ...pods,
      this.#rule(' external destinations: masquerade the node', { match: fromNode, target: MARK }),
      this.#rule(' external destinations: the node', { match: fromNode, target }),
    ];
  }

  /** Who is let in by no rule here keeps the destination, and is dropped by that. */
  #hasFirewall(): boolean {
    const { hasAnyEndpoints, sourceRanges, frontends } = this.#port;
    const isBalanced = frontends.some(({ kind }) => kind === 'loadBalancerIP');
    return hasAnyEndpoints && sourceRanges !== undefined && isBalanced;
  }

  #firewall(): string[] {
    const target = this.#names.external;
    return (this.#port.sourceRanges ?? []).map((source) => {
      return this.#rule(' loadbalancer IP', { source, target });
    });
  }

  /** All ports of a Service have the same one: it is claimed once. */
  healthCheck(): PortRules['claims'] {
    const { healthCheckPort: port } = this.#port;
    if (port === undefined) return [];
    const rule = this.#rule(' health check node port', { protocol: 'tcp', port, target: 'ACCEPT' });
    const placed = { table: 'filter', chain: 'KUBE-NODEPORTS', rule } as const;
    return [{ frontend: `health check ${port}`, rules: [placed] }];
  }

  claim(frontend: Frontend): PortRules['claims'][number] {
    const frontendRules =
      frontend.kind === 'nodePort' ? this.#nodePort(frontend) : this.#address(frontend.kind, frontend);
    return { frontend: frontendId(frontend, this.#port), rules: frontendRules };
  }

  #nodePort({ port }: Frontend): PlacedRule[] {
    const { protocol } = this.#port;
    return [
      ...this.#dispatch('KUBE-NODEPORTS', '', { protocol, port, target: this.#names.external }),
      ...this.#refusal('KUBE-EXTERNAL-SERVICES', this.#port.externalPolicy, {
        protocol,
        port,
        match: toNode,
      }),
    ];
  }

  #address(
    kind: Exclude<Frontend['kind'], 'nodePort'>,
    { ip, port }: Exclude<Frontend, { kind: 'nodePort' }>,
  ): PlacedRule[] {
    const { protocol, internalPolicy, externalPolicy } = this.#port;
    const to = { destination: this.#host(ip), protocol, port };
    if (kind === 'clusterIP') {
      const isLocal = internalPolicy === 'Local';
      const target = this.#chain(isLocal);
      const isServed = this.#endpoints(isLocal).length > 0;
      return isServed
        ? this.#dispatch('KUBE-SERVICES', ' cluster IP', { ...to, target })
        : this.#refusal('KUBE-SERVICES', internalPolicy, to);
    }
    const isFirewalled = kind === 'loadBalancerIP' && this.#hasFirewall();
    const target = isFirewalled ? this.#names.firewall : this.#names.external;
    const comment = kind === 'loadBalancerIP' ? ' loadbalancer IP' : ' external IP';
    const wall = this.#rule(' loadbalancer IP: source not accepted', { ...to, target: 'DROP' });
    return [
      ...this.#dispatch('KUBE-SERVICES', comment, { ...to, target }),
      ...(isFirewalled ? [{ table: 'filter', chain: 'KUBE-PROXY-FIREWALL', rule: wall } as const] : []),
      ...this.#refusal('KUBE-EXTERNAL-SERVICES', externalPolicy, to),
    ];
  }

  #dispatch(chain: string, comment: string, rule: Omit<Rule, 'comment'>): PlacedRule[] {
    if (!this.#port.hasAnyEndpoints) return [];
    return [{ table: 'nat', chain, rule: this.#rule(comment, rule) }];
  }

  /** For packets that are still under way to the frontend. */
  #refusal(chain: string, policy: 'Cluster' | 'Local', to: Omit<Rule, 'target' | 'comment'>): PlacedRule[] {
    const { hasAnyEndpoints, protocol } = this.#port;
    if (hasAnyEndpoints && this.#endpoints(policy === 'Local').length > 0) return [];
    const target = hasAnyEndpoints ? 'DROP' : rejectTarget(this.#context.family, protocol);
    const comment = hasAnyEndpoints ? ' has no local endpoints' : ' has no endpoints';
    return [{ table: 'filter', chain, rule: this.#rule(comment, { ...to, target }) }];
  }
}

function outside(pods: Pick<Rule, 'source' | 'input'> | undefined): Pick<Rule, 'source' | 'input'> {
  const { source, input } = pods ?? {};
  return {
    ...(source !== undefined && { source: `! ${source}` }),
    ...(input !== undefined && { input: `! ${input}` }),
  };
}
