import { existsSync } from 'node:fs';
import { type Family, families } from '../../core/address.ts';
import { SysctlTable } from '../../kernel/sysctl.ts';
import type { Backend, SyncResult, Views } from '../backend.ts';
import type { IptablesRules } from '../metrics.ts';
import type { NodeFacts, ProxyPolicy } from '../policy.ts';
import { ruleContext } from './context.ts';
import { FamilyChains } from './family.ts';
import { IptablesPrograms, type Programs, type Variant } from './program.ts';
import { removeIptables } from './remove.ts';
import { missingSupport } from './support.ts';
import { detectVariant } from './variant.ts';
import { ChainWatch } from './watch.ts';

export interface IptablesOptions {
  readonly policy: ProxyPolicy;
  /** The node's network namespace; else that of the process. Must stay open as long as the backend. */
  readonly namespaceFd?: number | undefined;
  /** Default: both, or IPv4 alone where the kernel runs without IPv6. */
  readonly families?: readonly Family[] | undefined;
  /** Default: what the host uses, see {@link detectVariant}. */
  readonly variant?: Variant | undefined;
  /** How long after one look at our chains they are looked at again; default: 5 s, more where a look takes long. */
  readonly checkIntervalMs?: number | undefined;
  /** How often all of them are read back and compared beside other work; default 5 minutes. */
  readonly auditIntervalMs?: number | undefined;
  /** Told once of a family that is not served while the other is, and why; it is tried again at each full pass. */
  readonly onUnserved?: ((error: Error) => void) | undefined;
  /** Told once that chains in the other kind of iptables cannot be removed; it is tried again at each full pass. */
  readonly onLeft?: ((error: Error) => void) | undefined;
  /** Default: those of the variant. With others nothing is looked for in other kinds of iptables. */
  readonly programs?: Programs | undefined;
}

const BE_LIBERAL = 'net/netfilter/nf_conntrack_tcp_be_liberal';
const ROUTE_LOCALNET = 'net/ipv4/conf/all/route_localnet';

/**
 * The services as iptables rules, in chains named as kube-proxy's: those it left are taken over. Nothing is started
 * before the first `replace`. Throws TypeError for a policy that cannot be written as rules.
 */
export function openIptables(options: IptablesOptions): IptablesBackend {
  return new IptablesBackend(options);
}

export class IptablesBackend implements Backend {
  readonly name = 'iptables';
  readonly #options: IptablesOptions;
  #programs: Programs | undefined;
  #chains: readonly FamilyChains[] = [];
  #dropsInvalid: boolean | undefined;
  /** Why families are not served, as it was told. */
  readonly #unserved = new Map<Family, string>();
  #facts: NodeFacts = { nodePortIps: { 4: 'all', 6: 'all' }, serviceCidrs: [] };
  readonly #watch: ChainWatch;
  #isAlone = false;
  #isLeftTold = false;

  constructor(options: IptablesOptions) {
    this.#options = options;
    this.#watch = new ChainWatch({
      ...options,
      areThere: () => this.#every((chains, programs) => chains.areThere(programs)),
      areAsWanted: () => this.#every((chains, programs) => chains.isAsWanted(programs)),
    });
    for (const family of families) ruleContext(family, options.policy, true);
  }

  /** What a look found right not long ago is not read again: then this costs what changed. */
  async replace(views: Views): Promise<SyncResult> {
    const isMore = await this.#openFamilies();
    if (this.#watch.isTrusted && !isMore)
      return await this.#each((chains, programs) => chains.follow(programs, views));
    const result = await this.#each((chains, programs) => chains.replace(programs, views));
    // Packets may be routed to 127.0.0.1 when the rule is in place that says which.
    const isGuarded = !result.failures.some(({ key }) => key === failureKey(4));
    if (isGuarded && this.#chains.some(({ opensLocalhost }) => opensLocalhost))
      await routeLocalnet(this.#options.namespaceFd);
    if (result.failures.length > 0) return result;
    this.#watch.righted();
    await this.#removeOtherKind();
    return result;
  }

  /** Those that are not served yet and can be: one goes on when the other cannot. True: there are some. */
  async #openFamilies(): Promise<boolean> {
    const { policy, namespaceFd, families: wanted = supportedFamilies() } = this.#options;
    const waiting = wanted.filter((family) => !this.#chains.some((chains) => chains.family === family));
    if (waiting.length === 0) return false;
    const programs = await this.#openPrograms();
    this.#dropsInvalid ??= await dropsInvalid(namespaceFd);
    const reasons = new Map<Family, Error>();
    for (const family of waiting) {
      const reason = await missingSupport(programs, family);
      if (reason !== undefined) {
        reasons.set(family, reason);
        continue;
      }
      const context = ruleContext(family, policy, this.#dropsInvalid);
      this.#chains = [...this.#chains, new FamilyChains(context, this.#facts.nodePortIps[family])];
      this.#unserved.delete(family);
    }
    if (this.#chains.length === 0) throw reasons.get(wanted[0] ?? 4) ?? new Error('there is no family');
    for (const [family, reason] of reasons) this.#tellUnserved(family, reason);
    return reasons.size < waiting.length;
  }

  async #openPrograms(): Promise<Programs> {
    const { namespaceFd, variant, programs } = this.#options;
    this.#programs ??=
      programs ??
      new IptablesPrograms({ namespaceFd, variant: variant ?? (await detectVariant(namespaceFd)) });
    return this.#programs;
  }

  #tellUnserved(family: Family, reason: Error): void {
    if (this.#unserved.get(family) === reason.message) return;
    this.#unserved.set(family, reason.message);
    this.#options.onUnserved?.(reason);
  }

  /**
   * Once: what was left in the other kind of iptables, when the host or its settings changed. What cannot go now is tried
   * again with the next full pass.
   */
  async #removeOtherKind(): Promise<void> {
    const { namespaceFd, programs } = this.#options;
    if (this.#isAlone || this.#programs === undefined || programs !== undefined) return;
    try {
      await removeIptables({ namespaceFd, except: await this.#programs.kind() });
      this.#isAlone = true;
    } catch (error) {
      if (!this.#isLeftTold) this.#options.onLeft?.(error as Error);
      this.#isLeftTold = true;
    }
  }

  async update(changed: Views): Promise<SyncResult> {
    return await this.#each((chains, programs) => chains.update(programs, changed));
  }

  async updateNode(facts: NodeFacts): Promise<SyncResult> {
    this.#facts = facts;
    return await this.#each((chains, programs) => {
      return chains.updateNode(programs, facts.nodePortIps[chains.family]);
    });
  }

  /** One family goes on when the other cannot. */
  async #each(sync: (chains: FamilyChains, programs: Programs) => Promise<number>): Promise<SyncResult> {
    let writes = 0;
    const failures: SyncResult['failures'][number][] = [];
    for (const chains of this.#chains) {
      try {
        if (this.#programs !== undefined) writes += await sync(chains, this.#programs);
      } catch (error) {
        this.#watch.distrust();
        failures.push({ key: failureKey(chains.family), kind: 'update', error: error as Error });
      }
    }
    return { writes, failures };
  }

  /** What was found since the last call: looking goes on beside all else, and nothing waits for it. */
  async isDisturbed(): Promise<boolean> {
    return this.#programs !== undefined && this.#watch.isDisturbed();
  }

  /** Looks find what is there, not who was at it: they are never in vain. */
  isDamaged(): Promise<boolean> {
    return this.isDisturbed();
  }

  async #every(is: (chains: FamilyChains, programs: Programs) => Promise<boolean>): Promise<boolean> {
    for (const chains of this.#chains) {
      if (this.#programs !== undefined && !(await is(chains, this.#programs))) return false;
    }
    return true;
  }

  problems(): ReadonlyMap<string, string> {
    return new Map(this.#chains.flatMap((chains) => [...chains.problems]));
  }

  /** For metrics. */
  rules(): IptablesRules[] {
    return this.#chains.flatMap((chains) => chains.rules());
  }

  /** The rules stay, so that connections outlive a restart. */
  [Symbol.dispose](): void {
    this.#chains = [];
  }
}

function failureKey(family: Family): string {
  return `iptables IPv${family}`;
}

function supportedFamilies(): readonly Family[] {
  return existsSync('/proc/net/if_inet6') ? families : [4];
}

/** With nf_conntrack_tcp_be_liberal nothing that belongs to a connection is invalid. */
async function dropsInvalid(namespaceFd: number | undefined): Promise<boolean> {
  const table = new SysctlTable({ keys: [BE_LIBERAL], ...(namespaceFd !== undefined && { namespaceFd }) });
  const rows = await table.read();
  return (rows.get(BE_LIBERAL) ?? '0') === '0';
}

async function routeLocalnet(namespaceFd: number | undefined): Promise<void> {
  const table = new SysctlTable({
    keys: [ROUTE_LOCALNET],
    ...(namespaceFd !== undefined && { namespaceFd }),
  });
  const [failure] = await table.write([{ kind: 'create', key: ROUTE_LOCALNET, wanted: '1' }]);
  if (failure !== undefined) throw failure.error;
}
