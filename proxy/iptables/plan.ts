import type { Views } from '../backend.ts';
import type { NodePortIps } from '../policy.ts';
import type { ServicePortView } from '../view.ts';
import type { RuleContext } from './context.ts';
import { type Edit, emptyEdit } from './edit.ts';
import { dispatchChains, fixedChains, nodePortJumps } from './layout.ts';
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

  /** Forgets all and begins with these views; there is nothing to drain afterwards. */
  replace(views: Views): void {
    this.#services.clear();
    this.#chains.clear();
    this.#claims.clear();
    this.problems.clear();
    this.#endpoints = 0;
    let endpoints = 0;
    for (const ports of views.values()) endpoints += this.#endpointsOf(ports);
    this.#isLarge = endpoints > LARGE_CLUSTER_ENDPOINTS;
    for (const [service, ports] of views) this.put(service, ports);
    this.#forget();
  }

  /** This service is now these ports; without ports it is gone. */
  put(service: string, views: readonly ServicePortView[]): void {
    const before = this.#services.get(service) ?? nothing;
    const ports = views.filter(({ family }) => family === this.#context.family);
    this.#endpoints += this.#endpointsOf(ports) - before.endpoints;
    // What was written with comments keeps them until everything is written anew.
    this.#isLarge ||= this.#endpoints > LARGE_CLUSTER_ENDPOINTS;
    this.#note(service, ports);
    const after = this.#entryOf(ports);
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

  #note(service: string, ports: readonly ServicePortView[]): void {
    if (ports.some(({ balancing }) => balancing === 'maglev')) {
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
    const write: Chain[] = [];
    const remove: Omit<Chain, 'rules'>[] = [];
    for (const [name, before] of this.#chainsBefore) {
      const rules = this.#chains.get(name);
      if (rules === undefined) {
        if (before !== undefined) remove.push({ table: 'nat', name });
      } else if (before === undefined || !sameRules(before, rules)) write.push({ table: 'nat', name, rules });
    }
    const deleteRules: PlacedRule[] = [];
    const insertRules: PlacedRule[] = [];
    for (const [frontend, before] of this.#rulesBefore) {
      const after = this.#rulesOf(frontend);
      deleteRules.push(...without(before, after));
      insertRules.push(...without(after, before));
    }
    this.#forget();
    return { write, remove, deleteRules, insertRules, appendRules: [] };
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
