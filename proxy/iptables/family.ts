import type { Family } from '../../core/address.ts';
import type { Views } from '../backend.ts';
import type { IptablesRules } from '../metrics.ts';
import type { NodePortIps } from '../policy.ts';
import { compare } from './compare.ts';
import type { RuleContext } from './context.ts';
import { chainsOf, type Edit, editSize, rulesWritten } from './edit.ts';
import { CANARY, tables } from './layout.ts';
import { FamilyPlan } from './plan.ts';
import { inputsOf } from './portions.ts';
import { IptablesError, type Programs } from './program.ts';
import { findRefusal } from './refusal.ts';
import type { TableName } from './rule.ts';
import { parseSave } from './save.ts';

/** Each time one more kind of rules may be found refused. */
const REFUSALS_MAX = 3;

/** The chains of one family: plan and programs together. Errors are IptablesErrors. */
export class FamilyChains {
  readonly #context: RuleContext;
  readonly #plan: FamilyPlan;
  /** Rules that the last pass wrote. */
  #last: ReadonlyMap<TableName, number> = new Map();

  /** Chains that are being written, and those that were since the last comparison began. */
  #underWay: ReadonlySet<string> = new Set();
  #touched: Set<string> | undefined;

  constructor(context: RuleContext, nodePortIps: NodePortIps) {
    this.#context = context;
    this.#plan = new FamilyPlan(context, nodePortIps);
  }

  get family(): Family {
    return this.#context.family;
  }

  get opensLocalhost(): boolean {
    return this.#context.localhostNodePorts;
  }

  get problems(): ReadonlyMap<string, string> {
    return this.#plan.problems;
  }

  /** Reads all chains and writes those that are not as wanted; how many chains and rules that were. */
  async replace(programs: Programs, views: Views): Promise<number> {
    this.#plan.follow(views);
    this.#plan.forgive();
    return await this.#try(programs, () => this.#rewrite(programs));
  }

  /** What of all services is not as it was at the last call. What others did is not looked at. */
  async follow(programs: Programs, views: Views): Promise<number> {
    this.#plan.follow(views);
    return await this.#try(programs, () => this.#write(programs, this.#plan.drain()));
  }

  async update(programs: Programs, changed: Views): Promise<number> {
    for (const [service, ports] of changed) this.#plan.put(service, ports);
    return await this.#try(programs, () => this.#write(programs, this.#plan.drain()));
  }

  async #rewrite(programs: Programs): Promise<number> {
    const saved = parseSave(await programs.save(this.family));
    this.#plan.drain();
    return await this.#write(programs, compare(this.#plan, this.#context, saved));
  }

  /** Where something is refused, all is written without the services that it is about. */
  async #try(programs: Programs, write: () => Promise<number>): Promise<number> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await (attempt === 1 ? write() : this.#rewrite(programs));
      } catch (error) {
        if (attempt > REFUSALS_MAX || !(await this.#leaveOut(programs, error))) throw error;
      }
    }
  }

  /** False: it cannot be told which services they are. */
  async #leaveOut(programs: Programs, error: unknown): Promise<boolean> {
    if (!(error instanceof IptablesError) || !/^\d+$/.test(error.code ?? '')) return false;
    const refusal = await findRefusal(programs, this.family, this.#plan.serviceRules());
    if (refusal !== undefined) this.#plan.leaveOut(refusal, error.message);
    return refusal !== undefined;
  }

  /**
   * Reads all chains and compares: whether they are as wanted. Nothing waits for it: what is written meanwhile is left
   * out of the comparison.
   */
  async isAsWanted(programs: Programs): Promise<boolean> {
    const touched = new Set(this.#underWay);
    this.#touched = touched;
    const saved = parseSave(await programs.save(this.family));
    const differing = chainsOf(compare(this.#plan, this.#context, saved));
    return [...differing].every((chain) => touched.has(chain));
  }

  async updateNode(programs: Programs, nodePortIps: NodePortIps): Promise<number> {
    return await this.#write(programs, this.#plan.setNodePortIps(nodePortIps));
  }

  /** Of the tables that services have rules in. */
  rules(): IptablesRules[] {
    return (['filter', 'nat'] as const).map((table) => ({
      table,
      family: this.family,
      total: this.#plan.rulesIn(table),
      last: this.#last.get(table) ?? 0,
    }));
  }

  async #write(programs: Programs, edit: Edit): Promise<number> {
    this.#underWay = chainsOf(edit);
    for (const chain of this.#underWay) this.#touched?.add(chain);
    this.#last = new Map(tables.map((table) => [table, rulesWritten(edit, table)]));
    for (const input of await inputsOf(edit, programs)) await programs.restore(this.family, input);
    this.#underWay = new Set();
    return editSize(edit);
  }

  /** Whether nobody emptied a table of ours. */
  async areThere(programs: Programs): Promise<boolean> {
    for (const table of tables) {
      if ((await programs.hasRules(this.family, table, CANARY)) === false) return false;
    }
    return true;
  }
}
