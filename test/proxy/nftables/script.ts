import { families } from '../../../core/address.ts';
import { diff } from '../../../core/diff.ts';
import { type NftElement, nftElementKey } from '../../../kernel/netlink/nftables/spec.ts';
import type { Views } from '../../../proxy/backend.ts';
import { FamilyPlan } from '../../../proxy/nftables/plan.ts';
import type { ServicePortView } from '../../../proxy/view.ts';
import { renderChange, renderElement } from '../render.ts';
import type { ScriptPlanner } from '../script.ts';

/** The elements of both families, as scripts show them. */
export class NftScriptPlanner implements ScriptPlanner {
  #plans = families.map((family) => FamilyPlan.of(family, new Map()));

  put(service: string, ports: readonly ServicePortView[]): void {
    for (const plan of this.#plans) plan.put(service, ports);
  }

  plan(): string {
    const lines = this.#plans.flatMap((plan) =>
      plan.drain().map((change) => renderChange(change, plan.family)),
    );
    return lines.join('\n');
  }

  elements(): string {
    const lines = this.#plans.map((plan) =>
      Array.from(plan.elements(), (each) => renderElement(each, plan.family)).sort(),
    );
    return lines.flat().join('\n');
  }

  restart(views: Views): string {
    const before = this.#plans.map(elementsByKey);
    this.#plans = this.#plans.map((plan, index) => FamilyPlan.of(plan.family, views, before[index]));
    const lines = this.#plans.flatMap((plan, index) => {
      const changes = diff(elementsByKey(plan), before[index] ?? new Map(), (a, b) => a.data === b.data);
      return changes.map((change) => renderChange(change, plan.family));
    });
    return lines.join('\n');
  }
}

function elementsByKey(plan: FamilyPlan): Map<string, NftElement> {
  return new Map(Array.from(plan.elements(), (element) => [nftElementKey(element), element]));
}
