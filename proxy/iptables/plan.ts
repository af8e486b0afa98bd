import type { Views } from '../backend.ts';
import type { NodePortIps } from '../policy.ts';
import type { ServicePortView } from '../view.ts';
import type { RuleContext } from './context.ts';
import { type Edit, emptyEdit } from './edit.ts';
import { dispatchChains, fixedChains, nodePortJumps } from './layout.ts';
import { featuresOf, featureText, type Refusal, type ServiceRules } from './refusal.ts';
import type { Chain, PlacedRule, TableName } from './rule.ts';
import { type PortRules, planPort } from './service.ts';

/** From this many endpoints on rules are without comments. (largeClusterEndpointsThreshold of kube-proxy.) */
export const LARGE_CLUSTER_ENDPOINTS = 1000;

/** What one service stands for. */
interface Entry {
  readonly chains: ReadonlyMap<string, readonly string[]>;
  readonly claims: ReadonlyMap<string, readonly PlacedRule[]>;
  readonly endpoints: number;
}

interface Claim {
  readonly owner: string;
  readonly rules: readonly PlacedRule[];
}

const nothing: Entry = { chains: new Map(), claims: new Map(), endpoints: 0 };

/** All chains of one family for these views, without any I/O; the same views give the same chains. */
export function planIptables(views: Views, context: RuleContext, nodePortIps: NodePortIps = 'all'): Chain[] {
  const plan = new FamilyPlan(context, nodePortIps);
  plan.replace(views);
  return plan.wanted();
}

/** The wanted chains of one family, kept current service by service, with a memory of what changed. */
export class FamilyPlan {
  /** What cannot be done as wanted, by service. */
  readonly problems = new Map<string, string>();
  readonly #context: RuleContext;
  readonly #services = new Map<string, Entry>();
  /** What each service was put as. */
  readonly #views = new Map<string, readonly ServicePortView[]>();
  readonly #missing = new Set<string>();
  readonly #refused = new Map<
    string,
    { readonly reason: string; readonly views: readonly ServicePortView[] }
  >();
  /** Of all services, by name. */
  readonly #chains = new Map<string, readonly string[]>();
  readonly #claims = new Map<string, Claim>();
  /** How chains and frontends were at the last `drain`, as far as they were touched since. */
  #chainsBefore = new Map<string, readonly string[] | undefined>();
  #rulesBefore = new Map<string, readonly PlacedRule[]>();
  #nodePortJumps: readonly PlacedRule[];
  #endpoints = 0;
  #isLarge = false;

  constructor(context: RuleContext, nodePortIps: NodePortIps) {
    this.#context = context;
    this.#nodePortJumps = nodePortJumps(nodePortIps, context);
  }

  /** From now on all services are these; there is nothing to drain afterwards. */
  replace(views: Views): void {
    this.follow(views);
    this.#forget();
  }

  /** The same, and what changed is to be drained. A list that it was given before is taken as the same. */
  follow(views: Views): void {
    let endpoints = 0;
    for (const ports of views.values()) endpoints += this.#endpointsOf(ports);
    const isAllNew = this.#isLarge !== endpoints > LARGE_CLUSTER_ENDPOINTS;
    this.#isLarge = endpoints > LARGE_CLUSTER_ENDPOINTS;
    for (const service of [...this.#views.keys()]) if (!views.has(service)) this.#put(service, []);
    for (const [service, ports] of views) {
      if (isAllNew || this.#views.get(service) !== ports) this.#put(service, ports);
    }
  }

  /** This service is now these ports; without ports it is gone. */
  put(service: string, views: readonly ServicePortView[]): void {
    const endpoints = this.#endpointsOf(views) - (this.#services.get(service)?.endpoints ?? 0);
    // What was written with comments keeps them until everything is written anew.
    this.#isLarge ||= this.#endpoints + endpoints > LARGE_CLUSTER_ENDPOINTS;
    this.#put(service, views);
  }

  #put(service: string, views: readonly ServicePortView[]): void {
    if (views.length === 0) this.#views.delete(service);
    else this.#views.set(service, views);
    const before = this.#services.get(service) ?? nothing;
    const ports = views.filter(({ family }) => family === this.#context.family);
    this.#endpoints += this.#endpointsOf(ports) - before.endpoints;
    const planned = this.#entryOf(ports);
    const refused = this.#refusedOf(service, views, planned);
    this.#note(service, ports, refused);
    const after = refused === undefined ? planned : { ...nothing, endpoints: planned.endpoints };
    this.#putChains(before, after);
    this.#putClaims(service, before, after);
    if (ports.length === 0) this.#services.delete(service);
    else this.#services.set(service, after);
  }

  #endpointsOf(ports: readonly ServicePortView[]): number {
    return ports.reduce((sum, { family, clusterEndpoints, localEndpoints }) => {
      if (family !== this.#context.family) return sum;
      return sum + Math.max(clusterEndpoints.length, localEndpoints.length);
    }, 0);
  }

  /** Services that need any of these are left out from now on, and these services as they are now. */
  leaveOut({ features, services }: Refusal, reason: string): void {
    for (const feature of features) this.#missing.add(feature);
    for (const service of services) {
      this.#refused.set(service, { reason, views: this.#views.get(service) ?? [] });
    }
    this.#putAgain();
  }

  /** All that was left out is wanted again. */
  forgive(): void {
    if (this.#missing.size === 0 && this.#refused.size === 0) return;
    this.#missing.clear();
    this.#refused.clear();
    this.#putAgain();
  }

  #putAgain(): void {
    for (const [service, ports] of [...this.#views]) this.#put(service, ports);
  }

  /** Why a service is left out. */
  #refusedOf(service: string, views: readonly ServicePortView[], entry: Entry): string | undefined {
    const { views: at, reason } = this.#refused.get(service) ?? {};
    if (at === views) return `left out, as iptables refuses its rules: ${reason}`;
    this.#refused.delete(service);
    if (this.#missing.size === 0) return undefined;
    const needed = new Set(rulesOf(entry).flatMap(featuresOf));
    const missing = [...needed].filter((feature) => this.#missing.has(feature));
    return missing.length === 0
      ? undefined
      : `left out: iptables or the kernel lacks the ${missing.map(featureText).join(', the ')}`;
  }

  /** What is written for each service. */
  serviceRules(): ServiceRules[] {
    return Array.from(this.#services, ([service, entry]) => ({ service, rules: rulesOf(entry) }));
  }

  #note(service: string, ports: readonly ServicePortView[], refused: string | undefined): void {
    if (refused !== undefined) this.problems.set(service, refused);
    else if (ports.some(({ balancing }) => balancing === 'maglev')) {
      this.problems.set(service, 'iptables cannot balance by maglev: endpoints are drawn at random');
    } else this.problems.delete(service);
  }

  #entryOf(ports: readonly ServicePortView[]): Entry {
    const options = { comments: !this.#isLarge };
    const rules: PortRules[] = ports.map((port) => planPort(port, this.#context, options));
    const claims = new Map<string, readonly PlacedRule[]>();
    // An address that is of two kinds is the one that is named first.
    for (const { frontend, rules: its } of rules.flatMap((each) => each.claims)) {
      if (!claims.has(frontend)) claims.set(frontend, its);
    }
    return {
      chains: new Map(rules.flatMap(({ chains }) => [...chains])),
      claims,
      endpoints: this.#endpointsOf(ports),
    };
  }

  #putChains(before: Entry, after: Entry): void {
    for (const name of before.chains.keys()) if (!after.chains.has(name)) this.#setChain(name, undefined);
    for (const [name, rules] of after.chains) this.#setChain(name, rules);
  }

  #setChain(name: string, rules: readonly string[] | undefined): void {
    if (!this.#chainsBefore.has(name)) this.#chainsBefore.set(name, this.#chains.get(name));
    if (rules === undefined) this.#chains.delete(name);
    else this.#chains.set(name, rules);
  }

  /** A frontend may come to a service before the one that had it is told of. */
  #putClaims(owner: string, before: Entry, after: Entry): void {
    for (const frontend of before.claims.keys()) {
      const isLost = this.#claims.get(frontend)?.owner !== owner;
      if (!isLost && !after.claims.has(frontend)) this.#setClaim(frontend, undefined);
    }
    for (const [frontend, rules] of after.claims) this.#setClaim(frontend, { owner, rules });
  }

  #setClaim(frontend: string, claim: Claim | undefined): void {
    if (!this.#rulesBefore.has(frontend)) this.#rulesBefore.set(frontend, this.#rulesOf(frontend));
    if (claim === undefined) this.#claims.delete(frontend);
    else this.#claims.set(frontend, claim);
  }

  #rulesOf(frontend: string): readonly PlacedRule[] {
    return this.#claims.get(frontend)?.rules ?? [];
  }

  /** Node ports are open on other addresses from now on. */
  setNodePortIps(ips: NodePortIps): Edit {
    const [before, after] = [this.#nodePortJumps, nodePortJumps(ips, this.#context)];
    this.#nodePortJumps = after;
    return { ...emptyEdit, deleteRules: without(before, after), appendRules: without(after, before) };
  }

  /** What changed since the last call. */
  drain(): Edit {
    const fresh: Chain[] = [];
    const write: Chain[] = [];
    const remove: Omit<Chain, 'rules'>[] = [];
    for (const [name, before] of this.#chainsBefore) {
      const rules = this.#chains.get(name);
      if (rules === undefined) {
        if (before !== undefined) remove.push({ table: 'nat', name });
      } else if (before === undefined) fresh.push({ table: 'nat', name, rules });
      else if (!sameRules(before, rules)) write.push({ table: 'nat', name, rules });
    }
    const deleteRules: PlacedRule[] = [];
    const insertRules: PlacedRule[] = [];
    for (const [frontend, before] of this.#rulesBefore) {
      const after = this.#rulesOf(frontend);
      deleteRules.push(...without(before, after));
      insertRules.push(...without(after, before));
    }
    this.#forget();
    return { fresh, write, remove, deleteRules, insertRules, appendRules: [] };
  }

  #forget(): void {
    this.#chainsBefore = new Map();
    this.#rulesBefore = new Map();
  }

  /** All chains that are ours, in full. */
  wanted(): Chain[] {
    const dispatch = new Map<string, string[]>(
      dispatchChains.map(({ table, name }) => [`${table} ${name}`, []]),
    );
    for (const { rules } of this.#claims.values()) {
      for (const { table, chain, rule } of rules) dispatch.get(`${table} ${chain}`)?.push(rule);
    }
    for (const { table, chain, rule } of this.#nodePortJumps) dispatch.get(`${table} ${chain}`)?.push(rule);
    return [
      ...dispatchChains.map(({ table, name }) => ({
        table,
        name,
        rules: dispatch.get(`${table} ${name}`) ?? [],
      })),
      ...fixedChains(this.#context),
      ...Array.from(this.#chains, ([name, rules]) => ({ table: 'nat' as const, name, rules })),
    ];
  }

  /** How many rules of ours a table has. */
  rulesIn(table: TableName): number {
    const fixed = fixedChains(this.#context).filter((chain) => chain.table === table);
    let count = fixed.reduce((sum, { rules }) => sum + rules.length, 0);
    for (const { rules } of this.#claims.values()) {
      for (const rule of rules) if (rule.table === table) count += 1;
    }
    if (table !== 'nat') return count;
    for (const rules of this.#chains.values()) count += rules.length;
    return count + this.#nodePortJumps.length;
  }

  /** How many rules at the end of a dispatch chain must stay there. */
  tailOf(chain: Omit<Chain, 'rules'>): number {
    return this.#nodePortJumps.filter(
      ({ table, chain: name }) => table === chain.table && name === chain.name,
    ).length;
  }
}

function rulesOf({ chains, claims }: Entry): PlacedRule[] {
  const own = [...chains].flatMap(([chain, rules]) => {
    return rules.map((rule) => ({ table: 'nat' as const, chain, rule }));
  });
  return [...own, ...[...claims.values()].flat()];
}

export function sameRules(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((rule, index) => rule === b[index]);
}

function without(rules: readonly PlacedRule[], others: readonly PlacedRule[]): PlacedRule[] {
  return rules.filter((rule) => {
    return !others.some(
      (other) => other.chain === rule.chain && other.table === rule.table && other.rule === rule.rule,
    );
  });
}
