import type { Family } from '../../core/address.ts';
import type { Views } from '../backend.ts';
import type { IptablesRules } from '../metrics.ts';
import type { NodePortIps } from '../policy.ts';
import { compare } from './compare.ts';
import type { RuleContext } from './context.ts';
import { type Edit, editSize, renderEdit, rulesWritten } from './edit.ts';
import { CANARY, tables } from './layout.ts';
import { FamilyPlan } from './plan.ts';
import type { IptablesPrograms } from './program.ts';
import type { TableName } from './rule.ts';
import { parseSave } from './save.ts';

/** The chains of one family: plan and programs together. Errors are IptablesErrors. */
export class FamilyChains {
  readonly #context: RuleContext;
  readonly #plan: FamilyPlan;
  /** Rules that the last pass wrote. */
  #last: ReadonlyMap<TableName, number> = new Map();

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
  async replace(programs: IptablesPrograms, views: Views): Promise<number> {
    this.#plan.replace(views);
    const saved = parseSave(await programs.save(this.family));
    return await this.#write(programs, compare(this.#plan, this.#context, saved));
  }

  async update(programs: IptablesPrograms, changed: Views): Promise<number> {
    for (const [service, ports] of changed) this.#plan.put(service, ports);
    return await this.#write(programs, this.#plan.drain());
  }

  async updateNode(programs: IptablesPrograms, nodePortIps: NodePortIps): Promise<number> {
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

  async #write(programs: IptablesPrograms, edit: Edit): Promise<number> {
    this.#last = new Map(tables.map((table) => [table, rulesWritten(edit, table)]));
    const input = renderEdit(edit);
    if (input !== '') await programs.restore(this.family, input);
    return editSize(edit);
  }

  /** Whether somebody emptied a table of ours. */
  async isDisturbed(programs: IptablesPrograms): Promise<boolean> {
    for (const table of tables) {
      if ((await programs.hasRules(this.family, table, CANARY)) === false) return true;
    }
    return false;
  }
}
